"""Faces are turned until their eyes are level, by the network in the package or a shape predictor of dlib."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sdk.errors import DataError
from sdk.faces.crop import aligned_face, crop_face
from trainer.corpus.crops import FaceCropper, level
from trainer.corpus.eyes import identify, open_eyes

TURNS = (-25, 0, 25)


def turned(picture: np.ndarray, degrees: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).rotate(degrees, Image.Resampling.BICUBIC))


def slope(eyes: np.ndarray) -> float:
    """Degrees between the line of the eyes and a horizontal one."""
    x, y = eyes[1] - eyes[0]
    return float(np.degrees(np.arctan2(y, x)))


def test_level_eyes_leave_a_crop_as_it_is():
    picture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    crop = crop_face(picture, (70.0, 40.0, 130.0, 100.0), 1.2)
    np.testing.assert_array_equal(level(picture, crop, np.array([[20.0, 30.0], [50.0, 30.0]])), crop.pixels)


@pytest.mark.parametrize("degrees", [-30, 17, 40])
def test_drawn_eyes_become_level_and_the_centre_stays(degrees):
    """Two white dots on the circle around the centre of a crop: afterwards in one row, within a pixel."""
    angle = np.radians(degrees)
    offset = 30 * np.array([np.cos(angle), np.sin(angle)])
    image = Image.new("RGB", (200, 160))
    centre = np.array([100.0, 80.0])
    for place in (centre - offset, centre, centre + offset):
        ImageDraw.Draw(image).ellipse((*(place - 2), *(place + 2)), fill="white")
    picture = np.asarray(image)
    crop = crop_face(picture, (60.0, 40.0, 140.0, 120.0), 1.25)
    eyes = np.stack([centre - offset, centre + offset]) - crop.origin
    bright = np.argwhere(level(picture, crop, eyes)[:, :, 0] > 128)
    assert np.abs(bright[:, 0] - 50).max() <= 3.5, "all three dots lie in the middle row"
    assert np.ptp(bright[:, 1]) == pytest.approx(64, abs=2)


def test_eyes_above_each_other_are_not_believed():
    picture = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    crop = crop_face(picture, (20.0, 20.0, 70.0, 70.0), 1.2)
    np.testing.assert_array_equal(level(picture, crop, np.array([[20.0, 10.0], [21.0, 50.0]])), crop.pixels)


@pytest.mark.parametrize("degrees", [-20, 20])
def test_a_tilted_photograph_is_turned_back(astronaut, degrees):
    """The network in the package sees a tilt of more than 12 degrees before and of less than 5 after."""
    pytest.importorskip("dlib")
    eyes = open_eyes("auto")
    photograph = turned(astronaut[:320, 60:380], degrees)
    before, after = (FaceCropper(eyes=finder)(photograph) for finder in (None, eyes))
    tilts = [slope(eyes(aligned_face(face, 1.7))) for face in (before, after)]
    assert abs(tilts[0]) > 12, tilts
    assert abs(tilts[1]) < 5, tilts
    assert before.shape == after.shape


def test_a_shape_predictor_of_dlib_is_read(astronaut, tmp_path):
    """A predictor of five points, which dlib itself trains on one face at three turns: the tilt within 6 degrees."""
    dlib = pytest.importorskip("dlib")
    face = np.ascontiguousarray(astronaut[30:230, 120:320])
    corners = np.array([[134, 84], [114, 84], [66, 92], [88, 90], [100, 125]], float)
    pictures, shapes, crops = [], [], []
    for degrees in TURNS:
        angle = np.radians(-degrees)
        spin = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (corners - 100) @ spin.T + 100
        pictures.append(turned(face, degrees))
        crops.append(crop_face(pictures[-1], (50.0, 50.0, 150.0, 150.0), 2.0))
        box = dlib.rectangle(50, 50, 150, 150)
        shapes.append([dlib.full_object_detection(box, [dlib.point(round(x), round(y)) for x, y in points])])
    options = dlib.shape_predictor_training_options()
    options.cascade_depth, options.tree_depth, options.num_trees_per_cascade_level = 6, 3, 60
    options.nu, options.oversampling_amount, options.num_threads = 0.2, 20, 1
    predictor = dlib.train_shape_predictor(pictures, shapes, options)
    predictor.save(str(tmp_path / "five.dat"))
    eyes = open_eyes(str(tmp_path / "five.dat"))
    upright = slope(np.array([corners[2:4].mean(0), corners[:2].mean(0)]))
    found = [slope(eyes(crop)) for crop in crops]
    np.testing.assert_allclose(found, [upright - degrees for degrees in TURNS], atol=6)
    assert identify(str(tmp_path / "five.dat")).startswith("five.dat ")


@pytest.mark.parametrize("name", ["absent.dat", "notes.txt"])
def test_what_finds_no_eyes_is_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text("not a network")
    with pytest.raises(DataError, match="expected a landmark network such as 2d106det.onnx, or a shape predictor"):
        open_eyes(str(tmp_path / name))


def test_a_pack_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"holds no 2d106det.onnx; fetch the pack once"):
        open_eyes("buffalo_l")


def test_a_broken_predictor_is_refused(tmp_path):
    pytest.importorskip("dlib")
    (tmp_path / "broken.dat").write_bytes(b"not a predictor")
    with pytest.raises(DataError, match="is not a shape predictor of dlib"):
        open_eyes(str(tmp_path / "broken.dat"))
