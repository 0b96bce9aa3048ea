"""NaN, infinity, bools, texts and numbers out of range: every numeric option refuses them with one clear sentence."""

import asyncio
import math
from fractions import Fraction

import numpy as np
import pytest

from sdk import Analyzer
from sdk.aio import AsyncAnalyzer
from sdk.cli import main
from sdk.commands.demo import PICTURES
from sdk.errors import ImageError, SdkError, TaskError, TrainingError, VideoError
from sdk.faces.images import load_picture
from sdk.ranges import COUNT, FINITE, FROM_0, POSITIVE, SHARE, Range
from sdk.video import Freshness
from trainer.training.recipe import Recipe

PHOTO = PICTURES / "astronaut.jpg"
NEVER = (math.nan, math.inf, -math.inf, True, "1", [1])  # what no numeric option takes
OF_ANALYZER = {
    "min_score": (),
    "min_face": (-1, None),
    "max_faces": (0, 1.5),
    "threads": (0, 2.5, 100_000),
    "abstain_below": (-0.1, 1.1, None),
    "memory_limit": (0, -5),
    "visual_tokens": (0, 1.5, 10**9),
    "max_pixels": (0, 1.5),
}
OF_VERBS = {
    ("analyze", "max_new_tokens"): (TaskError, 0, 1.5),
    ("analyze_batch", "max_new_tokens"): (TaskError, 0, 1.5),
    ("analyze_batch", "batch_size"): (TaskError, 0, 2.0, None),
    ("iterate_batch", "batch_size"): (TaskError, 0, 2.0, None),
    ("analyze_video", "max_new_tokens"): (TaskError, 0, 1.5),
    ("analyze_video", "sample_fps"): (VideoError, 0, -1),
    ("analyze_video", "deadline_s"): (VideoError, 0, -1),
    ("analyze_video", "detect_every"): (VideoError, 0, 1.5, None),
    ("watch", "detect_every"): (VideoError, 0, 1.5, None),
}


@pytest.fixture(scope="module")
def analyzer():
    pytest.importorskip("onnxruntime")
    with Analyzer() as opened:
        yield opened


def refuses(name, call, error=SdkError):
    """The error of a call: one line that begins with the name of the option."""
    with pytest.raises(error, match=rf"^{name} must be ") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OF_ANALYZER)
def test_options_of_an_analyzer(name):
    for value in (*NEVER, *OF_ANALYZER[name]):
        refuses(name, lambda value=value: Analyzer(**{name: value}), TaskError)


@pytest.mark.parametrize(("verb", "name"), OF_VERBS)
def test_options_of_its_verbs(analyzer, verb, name):
    """Also those that give an iterator refuse at once, before a picture is read or a video is opened."""
    pytest.importorskip("av")
    error, *values = OF_VERBS[verb, name]
    source = [PHOTO] if "batch" in verb else PHOTO
    for value in (*NEVER, *values):
        refuses(name, lambda value=value: getattr(analyzer, verb)(source, **{name: value}), error)


def test_asyncio_refuses_the_same(analyzer):
    for value in (*NEVER, 0):
        call = AsyncAnalyzer(analyzer).analyze(PHOTO, max_new_tokens=value)
        refuses("max_new_tokens", lambda call=call: asyncio.run(call), TaskError)


@pytest.mark.parametrize("name", ["landmark_motion", "looks_distance", "stale_s", "patience_s"])
def test_thresholds_of_a_changed_face(name):
    for value in (*NEVER, -1, None):
        refuses(name, lambda value=value: Freshness(**{name: value}), VideoError)


def test_the_limit_of_a_picture():
    for value in (*NEVER, 0, 1.5):
        refuses("max_pixels", lambda value=value: load_picture(PHOTO, max_pixels=value), ImageError)


READING = ("--min-score=nan", "--min-score=inf", "--min-face=-1", "--min-face=inf", "--max-faces=0", "--threads=0")
READING += ("--threads=100000", "--memory-limit=0", "--memory-limit=nan", "--memory-limit=inf", "--visual-tokens=0")
MODEL = (*READING, "--abstain-below=nan", "--abstain-below=2", "--max-tokens=-3")
GATE = ("--max-rege-drop=nan", "--max-rege-drop=inf", "--max-latency=nan", "--max-latency=0")
PICTURES_ONLY = ("--max-pixels=0", "--max-pixels=-1")
COMMANDS = {
    ("analyze", PHOTO): (*MODEL, *PICTURES_ONLY, "--batch-size=0"),
    ("batch", PHOTO, "--out", "never.parquet"): (*MODEL, *PICTURES_ONLY, "--batch-size=0", "--fps=nan", "--fps=0"),
    ("video", "never.mp4"): (*MODEL, "--fps=inf", "--detect-every=0", "--deadline=nan", "--seconds=nan", "--seconds=0"),
    ("ask", PHOTO, "Why?"): (*READING, *PICTURES_ONLY),
    ("bench",): ("--rounds=2",),
    ("evaluate", "x"): ("--limit=0", "--batch-size=0", "--max-new-tokens=0", "--visual-tokens=0"),
    ("pretrain", "x", "y"): ("--epochs=-1", "--batch-size=0", "--learning-rate=nan"),
    ("export", "none", "x", "--base", "y"): ("--limit=0", "-n=0", *GATE, "--min-first-tokens=2"),
    ("check",): ("--limit=0", *GATE),
    ("engines", "x"): ("--workspace=nan", "--max-latency=0"),
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_the_command_line_names_the_option(command, capsys):
    for option in COMMANDS[command]:
        code = main([*map(str, command), option])
        out, err = capsys.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1), err
        name = {"-n": "--calibration-records"}.get(option.split("=")[0], option.split("=")[0])
        assert err.startswith(f"emola: error: {name} must be "), err


@pytest.mark.parametrize("option", ["learning_rate", "weight_decay", "max_grad_norm", "epochs", "warmup_ratio"])
def test_options_of_a_training(option):
    for value in (*NEVER, -1):
        refuses("--" + option.replace("_", "-"), lambda value=value: Recipe(**{option: value}), TrainingError)


def test_numbers_in_range_pass_whatever_their_type():
    for allowed, values in (
        (COUNT, (1, np.int64(3), 10**400)),
        (FROM_0, (0, 0.5, np.float32(2), Fraction(1, 3))),
        (POSITIVE, (1e-300, np.float64(1))),
        (SHARE, (0, 1, 0.5)),
        (FINITE, (-1e300, 0, np.int8(-3))),
    ):
        for value in values:
            allowed.check("x", value)
    COUNT.check("x", None, optional=True)


@pytest.mark.parametrize(
    ("allowed", "value", "message"),
    [
        (COUNT, 0, "x must be at least 1, not 0"),
        (COUNT, 1.5, "x must be a whole number, not 1.5"),
        (COUNT, np.bool_(True), "x must be a whole number, not "),
        (SHARE, 1.1, "x must be at least 0 and at most 1, not 1.1"),
        (POSITIVE, math.nan, "x must be greater than 0, not nan"),
        (POSITIVE, math.inf, "x must be a finite number, not inf"),
        (FINITE, math.nan, "x must be a finite number, not nan"),
        (Range(below=1), 1, "x must be less than 1, not 1"),
        (FINITE, None, "x must be a number, not None"),
        (FINITE, list(range(99)), "x must be a number, not [0, 1, 2, "),
    ],
)
def test_the_words(allowed, value, message):
    with pytest.raises(TaskError) as caught:
        allowed.check("x", value)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 100
