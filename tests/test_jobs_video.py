"""`emola batch` on videos: a row for each analysed frame, also of a video that ends in an error."""

import numpy as np
import pytest
from test_jobs import table

from sdk import Analyzer
from sdk.cli import main
from sdk.errors import VideoError
from sdk.jobs.job import Job, Worker
from sdk.records import AnalysisRecord


@pytest.fixture(scope="module")
def clips(tmp_path_factory, astronaut):
    """A clip of six frames, and a text."""
    pytest.importorskip("av")
    from clips import write_clip

    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.mp4", [np.ascontiguousarray(astronaut[:320, 60:380])] * 6)
    (folder / "b.mp4").write_text("no video")
    return folder


def test_one_row_for_each_analysed_frame(clips, tmp_path):
    out = tmp_path / "out.parquet"
    words = ["batch", str(clips), "--out", str(out), "--task", "emotion", "--max-tokens", "3"]
    assert main(words) == 0
    first = table(out)
    assert [(row["input"], row["frame"], row["status"]) for row in first] == [
        (0, 0, "truncated"),
        *[(0, index, "ok") for index in range(1, 6)],
        (1, None, "failed"),
    ]
    with Analyzer() as analyzer:
        expected = list(analyzer.analyze_video(clips / "a.mp4", tasks=("emotion",), max_new_tokens=3))
    found = [AnalysisRecord.model_validate_json(row["analysis"]) for row in first[:6]]
    assert [each.faces for each in found] == [each.faces for each in expected]
    assert [row["time_s"] for row in first[:6]] == [each.frame.time_s for each in expected]
    assert main(words) == 0
    assert table(out) == first, "the frames come from the earlier table, with their times"


def test_frames_before_an_error_are_kept(clips, monkeypatch):
    def stop(self, source, **options):
        yield from list(original(self, source, **options))[:2]
        raise VideoError(f"{source} cannot be read beyond frame 2")

    original = Analyzer.analyze_video
    monkeypatch.setattr(Analyzer, "analyze_video", stop)
    worker = Worker(Job({}, ("emotion",), max_new_tokens=3), ())
    records = list(worker.records([(7, str(clips / "a.mp4"))]))
    assert [(each.number, each.part, each.last, each.error is None) for each in records] == [
        (7, 0, False, True),
        (7, 1, False, True),
        (7, 0, True, False),
    ]
