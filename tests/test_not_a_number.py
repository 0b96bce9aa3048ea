"""NaN passes most checks of a range, because every comparison with it is false: it is refused by name."""

import math

import numpy as np
import pytest

from sdk.analyzer import Analyzer
from sdk.cli import main
from sdk.errors import ExportError, ImageError, TaskError, VideoError
from sdk.faces.detect import FaceLimits
from sdk.faces.preprocess import check_features
from sdk.frames import read_frames
from sdk.runtime.open import MAX_THREADS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["analyze", "a.png", "--min-score", "nan"], "--min-score is a number, not NaN"),
        (["analyze", "a.png", "--memory-limit", "nan"], "--memory-limit is a number of MB, not nan"),
        (["analyze", "a.png", "--memory-limit", "inf"], "--memory-limit is a number of MB, not inf"),
        (["video", "a.mp4", "--seconds", "nan"], "--seconds must be greater than 0, not nan"),
        (["engines", "bundle", "--workspace", "nan"], "--workspace is a number of GB greater than 0, not nan"),
    ],
)
def test_options_of_commands(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_arguments_of_the_sdk(value):
    with pytest.raises(ImageError, match="landmark_features must be finite"):
        check_features(np.full(212, value), "aligned")
    for name in ("sample_fps", "deadline_s"):
        with pytest.raises(VideoError, match=f"{name} must be a number greater than 0"):
            read_frames("a.mp4", **{name: value})


def test_no_face_has_a_score_above_nan():
    with pytest.raises(TaskError, match="min_score is a number, not NaN"):
        FaceLimits(min_score=math.nan)


def test_everything_passes_a_threshold_of_nan():
    pytest.importorskip("torch")
    from export.options import GateOptions
    from export.targets.check import CheckOptions

    for name in ("rege_drop", "latency_factor", "first_tokens"):
        with pytest.raises(ExportError, match=f"{name} is a number, not NaN: every bundle would pass"):
            GateOptions(**{name: math.nan})
    with pytest.raises(ExportError, match="latency_factor is a number"):
        CheckOptions(latency_factor=math.nan)


@pytest.mark.parametrize("threads", [0, -1, 10**6])
def test_more_threads_than_a_system_has_are_refused(threads):
    """ONNX Runtime ends the process where the system gives it no thread."""
    with pytest.raises(TaskError, match=f"threads must be 1 to {MAX_THREADS}, not {threads}"):
        Analyzer(threads=threads)
