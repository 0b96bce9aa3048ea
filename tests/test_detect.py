"""Faces are found on real photographs; SCRFD decoding equals insightface's on the same network."""

import numpy as np
import pytest
from scrfd_network import write_scrfd

from sdk.errors import BackendError, TaskError
from sdk.faces.detect import Detection, DlibDetector, FaceLimits, ScrfdDetector, open_detector

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def dlib_detector():
    pytest.importorskip("dlib")
    return DlibDetector()


def test_astronaut_has_one_face(dlib_detector, astronaut):
    (face,) = dlib_detector.detect(astronaut)
    x1, y1, x2, y2 = face.box_xyxy
    assert 160 < x1 < 200
    assert 60 < y1 < 100
    assert 75 < x2 - x1 < 110


def test_t1_has_six_faces_from_left_to_right(dlib_detector, t1):
    faces = dlib_detector.detect(t1)
    lefts = [face.box_xyxy[0] for face in faces]
    assert len(faces) == 6
    assert lefts == sorted(lefts)


def test_a_large_picture_has_the_same_faces_every_time(astronaut):
    """dlib reads freed memory when it gets an array that is not contiguous, such as one that numpy has gathered."""
    large = np.zeros((2048, 8400, 3), np.uint8)
    large[:, :2048] = np.repeat(np.repeat(astronaut, 4, axis=0), 4, axis=1)
    detector = DlibDetector()
    first, second, third = (detector.detect(large) for _ in range(3))
    assert first == second == third
    assert max(first, key=lambda face: face.score).score > 1
    transposed = np.ascontiguousarray(astronaut.swapaxes(0, 1)).swapaxes(0, 1)
    assert detector.detect(transposed) == detector.detect(transposed) == detector.detect(astronaut)


def test_boxes_are_in_pixels_of_the_original(dlib_detector, t1):
    """A picture doubled in size is searched in a smaller copy; its boxes are twice as large, within 8 pixels."""
    doubled = t1.repeat(2, axis=0).repeat(2, axis=1)
    small, large = dlib_detector.detect(t1), dlib_detector.detect(doubled)
    assert len(large) >= 5
    for face in large:
        assert min(np.abs(np.subtract(face.box_xyxy, 2 * np.array(f.box_xyxy))).max() for f in small) < 40


def test_one_pixel_has_no_face(dlib_detector):
    assert dlib_detector.detect(np.zeros((1, 1, 3), np.uint8)) == []


def test_scrfd_equals_insightface(tmp_path, t1):
    """The same random network through both decoders: as many boxes, each within 0.01 pixels and 1e-5 of score."""
    retinaface = pytest.importorskip("insightface.model_zoo.retinaface")
    path = write_scrfd(tmp_path / "scrfd.onnx")
    reference = retinaface.RetinaFace(str(path))
    for picture in (t1[:400, :500], t1[:500, :300]):
        expected, _ = reference.detect(np.ascontiguousarray(picture[:, :, ::-1]))
        found = ScrfdDetector(str(path)).detect(picture)
        assert len(found) == len(expected) > 3
        rows = np.array([[*face.box_xyxy, face.score] for face in found])
        order = np.lexsort(expected.T[::-1])
        np.testing.assert_allclose(rows[:, :4], expected[order, :4], atol=1e-2)
        np.testing.assert_allclose(rows[:, 4], expected[order, 4], atol=1e-5)


def test_open_detector_takes_a_file_or_an_object(tmp_path):
    class Always:
        box_extent = 1.0

        def detect(self, image):
            return [Detection((0.0, 0.0, 1.0, 1.0), 1.0)]

    own = Always()
    assert open_detector(own) is own
    assert isinstance(open_detector(write_scrfd(tmp_path / "scrfd.onnx")), ScrfdDetector)


def test_bad_detectors_are_refused(tmp_path, landmark_network):
    with pytest.raises(BackendError, match="'auto', 'dlib' or the path"):
        open_detector("yolo")
    with pytest.raises(
        BackendError, match=r"not SCRFD: expected one picture .* 6 or 9 outputs .*found \[\[.*192, 192\]\]"
    ):
        open_detector(landmark_network)
    (tmp_path / "torn.onnx").write_bytes(b"not a network")
    with pytest.raises(BackendError, match=r"cannot open .*torn.onnx"):
        open_detector(tmp_path / "torn.onnx")


def test_limits_choose_among_the_detected():
    """By score, by the longer side in pixels of the file, and the largest so many, which stay in their order."""
    faces = [
        Detection((float(x), 0.0, x + side, side / 2), score)
        for x, side, score in ((0, 40, 0.3), (50, 90, 0.9), (200, 60, 0.1))
    ]

    def chosen(shrink=1, **limits):
        return [faces.index(face) for face in FaceLimits(**limits).choose(faces, shrink)]

    assert chosen() == [0, 1, 2]
    assert chosen(min_score=0.2) == [0, 1]
    assert chosen(min_face=60) == [1, 2]
    assert chosen(min_face=60, shrink=2) == [0, 1, 2]
    assert chosen(max_faces=2) == [1, 2]
    assert chosen(max_faces=1, min_score=0.05) == [1]
    for limits in ({"max_faces": 0}, {"min_face": -1}, {"min_face": float("nan")}):
        with pytest.raises(TaskError, match=next(iter(limits))):
            FaceLimits(**limits)


def test_a_lower_score_finds_more(astronaut):
    """dlib itself gets the limit: the face at its default, the false one of score 0.12 too below it, none above."""
    counts = [len(open_detector("dlib", min_score=score).detect(astronaut)) for score in (0.1, None, 5.0)]
    assert counts == [2, 1, 0]
