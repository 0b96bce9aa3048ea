"""Videos made from photographs: ids, readings that are kept, and what a run leaves behind."""

import csv

import numpy as np
import pytest
from PIL import Image

from sdk import Analysis, Analyzer
from sdk.cli import main
from sdk.errors import CancelledError, VideoError
from sdk.faces.detect import Detection, open_detector
from sdk.recording import Recorder
from sdk.video import Freshness

av = pytest.importorskip("av")
from clips import side_by_side, write_clip  # noqa: E402


@pytest.fixture(scope="module")
def portraits(astronaut, t1):
    """Two photographs of one person each, (320, 320, 3)."""
    x1, y1, x2, y2 = open_detector("auto").detect(t1)[0].box_xyxy
    x, y = int(x1 + x2) // 2, int(y1 + y2) // 2
    other = Image.fromarray(t1[y - 100 : y + 100, max(0, x - 100) : x + 100]).resize((320, 320))
    return astronaut[0:320, 60:380], np.asarray(other)


@pytest.fixture(scope="module")
def clips(tmp_path_factory, portraits):
    """`still`: 100 frames of both; `swap`: both, then with their places exchanged."""
    folder, (a, b) = tmp_path_factory.mktemp("clips"), portraits
    write_clip(folder / "still.mp4", [side_by_side(a, b)] * 100)
    write_clip(folder / "swap.mp4", [side_by_side(a, b)] * 6 + [side_by_side(b, a)] * 6)
    return folder


@pytest.fixture
def analyzer(bundle):
    return Analyzer(bundle())


@pytest.fixture
def encodings(analyzer, monkeypatch):
    """One entry for each face that is encoded."""
    made, encode = [], analyzer.pipeline.encode

    def counted(*arguments, **options):
        made.append(1)
        return encode(*arguments, **options)

    monkeypatch.setattr(analyzer.pipeline, "encode", counted)
    return made


class SceneDetector:
    """The detector, once for each scene that looks the same at a glance: its boxes are not what is tested."""

    box_extent = 1.0

    def __init__(self):
        self._detector, self._known = open_detector("auto"), {}

    def detect(self, image) -> list[Detection]:
        key = (image[::40, ::40].astype(int) // 64).tobytes()
        if key not in self._known:
            self._known[key] = self._detector.detect(image)
        return self._known[key]


def test_a_still_video_is_encoded_once_per_face(analyzer, encodings, clips):
    """100 frames, two faces, two encodings; the age says how old each reading is."""
    analyzer.examiner._detector = SceneDetector()
    analyses = list(analyzer.analyze_video(clips / "still.mp4", max_new_tokens=4))
    assert len(analyses) == 100
    assert len(encodings) == 2
    assert {tuple(face.id for face in analysis.faces) for analysis in analyses} == {(0, 1)}
    assert [analysis.faces[0].age_ms for analysis in analyses] == pytest.approx([40.0 * i for i in range(100)])
    assert "vision" in analyses[0].timing_ms
    assert "vision" not in analyses[50].timing_ms
    assert analyses[7].frame.model_dump() == {"index": 7, "time_s": pytest.approx(0.28), "dropped": 0, "damaged": 0}


def test_faces_that_swap_places_keep_ids_and_readings(analyzer, encodings, clips):
    analyses = list(analyzer.analyze_video(clips / "swap.mp4", max_new_tokens=4))
    assert [[face.id for face in analysis.faces] for analysis in analyses] == [[0, 1]] * 6 + [[1, 0]] * 6
    assert len(encodings) == 2
    words = {face.id: face.action_units_text for face in analyses[0].faces}
    assert {face.id: face.action_units_text for face in analyses[-1].faces} == words


def test_a_face_is_read_again_when_it_changed_or_the_reading_is_old(analyzer, encodings, clips, portraits, tmp_path):
    """The left face goes dark at the top: one more encoding. With 1 s of patience for a reading: one per second."""
    a, b = portraits
    changed = a.copy()
    changed[40:160] //= 3
    clip = write_clip(tmp_path / "c.mp4", [side_by_side(a, b)] * 4 + [side_by_side(changed, b)] * 4)
    box = open_detector("auto").detect(side_by_side(a, b))

    class Fixed:
        box_extent = 1.0

        def detect(self, image):
            return box

    analyzer.examiner._detector = Fixed()
    ages = [
        [face.age_ms for face in analysis.faces]
        for analysis in analyzer.analyze_video(clip, tasks=("emotion",), max_new_tokens=2)
    ]
    assert len(encodings) == 3
    assert ages[4] == [0.0, pytest.approx(160)]
    encodings.clear()
    renewed = analyzer.analyze_video(clips / "still.mp4", tasks=(), sample_fps=5, freshness=Freshness(stale_s=1.0))
    assert len(list(renewed)) == 20
    assert len(encodings) == 2 * 4


def test_landmarks_decide_where_they_are_coordinates(analyzer, encodings, clips):
    """Mode "insightface": landmarks that moved within the face cause a new reading though the looks are the same."""
    pipeline = analyzer.pipeline
    settings = pipeline.manifest.preprocessing.model_copy(update={"landmark_mode": "insightface"})
    pipeline.manifest = pipeline.manifest.model_copy(update={"preprocessing": settings})
    analyzer.examiner._detector = SceneDetector()
    frames, still = [], np.random.default_rng(0).uniform(-1, 1, 212).astype(np.float32)

    def features(crop, clock):
        frames.append(1)
        points = still.copy()
        points[:40] += 0.2 * (len(frames) > 10)  # two faces per frame: from frame 5 on
        return points

    pipeline.landmark_features = features
    analyses = list(analyzer.analyze_video(clips / "swap.mp4", tasks=("emotion",), max_new_tokens=2))
    assert len(encodings) == 4
    assert [analysis.faces[0].age_ms == 0 for analysis in analyses[:6]] == [True, False, False, False, False, True]
    assert len(analyses[0].faces[0].landmarks) == 106


def test_cancelling_and_offline(analyzer, clips):
    import threading

    cancel = threading.Event()
    analyses = analyzer.analyze_video(clips / "still.mp4", tasks=(), cancel=cancel)
    next(analyses)
    cancel.set()
    with pytest.raises(CancelledError):
        next(analyses)
    analyzer._offline = True
    with pytest.raises(VideoError, match="offline=True"):
        analyzer.analyze_video("rtsp://camera/1")


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_command_writes_everything(clips, bundle, tmp_path, capsys, portraits):
    """`emola video`: JSON lines that validate, a row per face and frame, a video with drawn boxes, a timeline."""
    out = tmp_path / "out"
    command = ["video", clips / "swap.mp4", "--bundle", bundle(), "--scores", "--max-tokens", "3"]
    outputs = {"--jsonl": "a.jsonl", "--csv": "a.csv", "--save": "a.mp4", "--timeline": "a.png"}
    for flag, name in outputs.items():
        command += [flag, out / name]
    assert main([str(word) for word in command]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 12
    assert "12 frames analysed, 0 dropped" in printed.err
    assert sorted(path.name for path in out.iterdir()) == sorted(outputs.values()), "nothing half-written stays"
    analyses = [Analysis.model_validate_json(line) for line in (out / "a.jsonl").read_text().splitlines()]
    assert [analysis.frame.index for analysis in analyses] == list(range(12))
    rows = list(csv.DictReader((out / "a.csv").read_text().splitlines()))
    assert len(rows) == 24
    assert {row["face_id"] for row in rows} == {"0", "1"}
    assert all(0 <= float(row["AU12_score"]) <= 1 for row in rows)
    frames = decoded(out / "a.mp4")
    assert len(frames) == 12
    plain = side_by_side(*portraits)
    assert frames[0].shape == plain.shape
    x1, y1, x2, y2 = (int(edge) for edge in analyses[0].faces[0].box_xyxy)
    drawn = np.abs(frames[0][y1 : y1 + 2, x1:x2].astype(int) - plain[y1 : y1 + 2, x1:x2]).mean()
    assert drawn > 30, f"the upper edge of the box differs by {drawn:.0f} grey levels"
    assert picture(out / "a.png").std() > 5


def test_an_interrupted_run_keeps_what_it_has(analyzer, clips, tmp_path):
    """An error after three frames: all four outputs are whole and hold three frames."""
    paths = [tmp_path / name for name in ("a.jsonl", "a.csv", "a.mp4", "a.png")]

    def interrupted():
        with Recorder(*paths) as recorder:
            for count, (pixels, analysis) in enumerate(analyzer.watch(clips / "swap.mp4", tasks=())):
                if count == 3:
                    raise RuntimeError
                recorder.add(pixels, analysis)

    with pytest.raises(RuntimeError):
        interrupted()
    assert len(paths[0].read_text().splitlines()) == 3
    assert len(paths[1].read_text().splitlines()) == 1 + 6
    assert len(decoded(paths[2])) == 3
    assert picture(paths[3]).shape[1] > 100
    assert len(list(tmp_path.iterdir())) == 4


def test_the_command_fails_clearly(bundle, tmp_path, capsys, clips):
    cases = [
        ([tmp_path / "none.mp4"], "does not exist"),
        (["9"], "camera"),
        ([clips / "still.mp4", "--save", tmp_path / "a.avi"], "ending in .mp4"),
        ([clips / "still.mp4", "--save", clips / "still.mp4"], "would replace an input"),
        ([clips / "still.mp4", "--csv", tmp_path / "a", "--jsonl", tmp_path / "a"], "same path"),
        ([clips / "still.mp4", "--csv", "/proc/none/a.csv"], "cannot be written"),
        ([clips / "still.mp4", "--seconds", "0"], "--seconds must be greater than 0"),
        ([clips / "still.mp4", "--fps", "0"], "--fps must be greater than 0"),
        ([clips / "still.mp4", "--detect-every", "0"], "--detect-every must be at least 1"),
    ]
    for words, message in cases:
        code = main([str(word) for word in ["video", *words, "--bundle", bundle(), "--max-tokens", "2"]])
        assert code == (2 if message.startswith(("--", "would replace")) else 1), words  # wrong usage, or a failure
        error = capsys.readouterr().err
        assert message in error, (words, error)
        assert error.count("emola: error:") == 1
