"""Faces that are followed between detections, in videos made of one photograph; the model in the package reads them."""

import numpy as np
import pytest

from sdk import Analyzer
from sdk.errors import TaskError, VideoError
from sdk.faces.detect import PACKAGED, ScrfdDetector, open_detector
from sdk.faces.detection import Detection
from sdk.faces.follow import Follower
from sdk.faces.nano_detector import NanoDetector
from sdk.faces.track import overlap

pytest.importorskip("av")
from clips import write_clip

FRAME = (260, 320, 3)


class Counted(NanoDetector):
    """The detector in the package, counting the whole frames that it searches."""

    def __init__(self):
        super().__init__(str(PACKAGED))
        self.calls = 0

    def detect(self, image):
        self.calls += image.shape == FRAME
        return super().detect(image)


@pytest.fixture(scope="module")
def analyzer():
    pytest.importorskip("onnxruntime")
    with Analyzer(detector=Counted(), threads=1) as analyzer:
        yield analyzer


@pytest.fixture
def detector(analyzer):
    counted = analyzer.examiner._detector_choice
    counted.calls = 0
    return counted


def moving(astronaut, count):
    """Views of the photograph that move by 4 pixels to the right and 2 down: the face moves to the left and up."""
    return [np.ascontiguousarray(astronaut[2 * i : 2 * i + 260, 60 + 4 * i : 380 + 4 * i]) for i in range(count)]


def test_a_moving_face_is_followed(analyzer, detector, astronaut, tmp_path):
    """12 frames, 3 of them searched: the same id, nearly the boxes of 12 searches; followed faces have no score."""
    clip = write_clip(tmp_path / "a.mp4", moving(astronaut, 12))
    followed = list(analyzer.analyze_video(clip, tasks=(), detect_every=4))
    assert detector.calls == 3
    detected = list(analyzer.analyze_video(clip, tasks=()))
    assert detector.calls == 3 + 12
    assert [[face.id for face in analysis.faces] for analysis in followed] == [[0]] * 12
    shared = [overlap(a.faces[0].box_xyxy, b.faces[0].box_xyxy) for a, b in zip(followed, detected, strict=True)]
    assert min(shared) > 0.6, f"{shared}: the sizes at which a face is searched differ"
    scored = [analysis.faces[0].detection_score is not None for analysis in followed]
    assert scored == [index % 4 == 0 for index in range(12)]
    start, end = (analysis.faces[0].box_xyxy for analysis in (followed[8], followed[11]))
    assert start[0] - end[0] == pytest.approx(12, abs=4), "three frames at 4 pixels"
    assert "detect" not in followed[1].timing_ms


def test_a_lost_face_is_looked_for_at_once(analyzer, detector, astronaut, tmp_path):
    """A cut to an empty wall and one back: each is detected in its frame, not at the next turn of the detector."""
    view, wall = moving(astronaut, 1), [np.full(FRAME, 200, np.uint8)]
    clip = write_clip(tmp_path / "a.mp4", view * 4 + wall * 4 + view * 4)
    analyses = list(analyzer.analyze_video(clip, tasks=(), detect_every=6))
    assert [len(analysis.faces) for analysis in analyses] == [1] * 4 + [0] * 6 + [1] * 2
    assert detector.calls == 3, "the first frame, the cut, and six frames later"


def square_faces(image):
    """A bright square is a face."""
    rows, columns = np.nonzero(image[..., 0] > 200)
    if not len(rows):
        return []
    box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    return [Detection(box, 1.0)]


def frame_with(x, size=300, shape=(1080, 1920, 3)):
    frame = np.zeros(shape, np.uint8)
    frame[200 : 200 + size, max(0, x) : max(0, x + size)] = 255
    return frame


def test_a_large_face_is_followed_until_it_has_left():
    """Its surroundings are scaled down; the box is right to a few pixels as long as the face is seen."""
    follower, places = Follower(square_faces), (400, 360, 300, 200, 60, -80)
    follower.start([(400.0, 200.0, 700.0, 500.0)])
    for x in places:
        (box,) = follower.follow(frame_with(x))
        np.testing.assert_allclose(box, (max(0, x), 200, x + 300, 500), atol=8)
    assert follower.follow(frame_with(-400)) is None


def test_two_boxes_on_one_face_and_boxes_outside_are_searched_for_anew():
    follower = Follower(square_faces)
    follower.start([(400.0, 200.0, 700.0, 500.0), (430.0, 220.0, 730.0, 520.0)])
    assert follower.follow(frame_with(400)) is None
    follower.start([(5000.0, 0.0, 5100.0, 100.0)])
    assert follower.follow(frame_with(400)) is None, "a box outside of the picture"
    follower.start([])
    assert follower.follow(frame_with(400)) == []


def test_faces_that_take_as_long_as_the_frame_are_searched_for_in_it():
    """The detector in the package scales a frame to 800 pixels; SCRFD scales whatever it gets to 640 x 640."""
    frame, boxes = frame_with(400), [(float(x), 200.0, x + 100.0, 300.0) for x in range(0, 1800, 150)]
    scrfd = object.__new__(ScrfdDetector)
    scrfd._size = 640
    for searched_pixels, most in ((Counted().searched_pixels, 11), (scrfd.searched_pixels, 0)):
        for count, calls in ((most, most), (most + 1, 0)):
            looks = []
            follower = Follower(lambda part, looks=looks: looks.append(part) or square_faces(part), searched_pixels)
            follower.start(boxes[:count])
            follower._near = lambda image, box, follower=follower: follower._detect(image) and box
            assert (follower.follow(frame) is None, len(looks)) == (calls == 0 < count, calls)


def test_bad_options_are_clear(analyzer, astronaut, tmp_path):
    clip = write_clip(tmp_path / "a.mp4", moving(astronaut, 1))
    with pytest.raises(VideoError, match="detect_every must be at least 1, not 0"):
        analyzer.analyze_video(clip, detect_every=0)
    for options in ({"threads": 0}, {"max_faces": 0}, {"min_face": -1}):
        with pytest.raises(TaskError, match=next(iter(options))):
            Analyzer(**options)


def test_threads_reach_onnx_runtime(analyzer):
    """Every session of the Analyzer has the number that was asked for."""
    backend = analyzer.pipeline.backend
    sessions = [backend.landmark._session, backend.vision._session, backend.decoder.session]
    assert [session.get_session_options().intra_op_num_threads for session in sessions] == [1, 1, 1]


def test_the_largest_faces_are_analysed(t1):
    with Analyzer(max_faces=2, min_face=50) as analyzer:
        found = analyzer.analyze(t1, color="rgb", tasks=())
        assert len(found.faces) == 2
        assert [face.id for face in found.faces] == [0, 1]
    sides = sorted((face.side for face in open_detector("auto").detect(t1)), reverse=True)
    assert sorted((f.box_xyxy[2] - f.box_xyxy[0] for f in found.faces), reverse=True) == pytest.approx(sides[:2])
