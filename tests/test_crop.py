"""A crop is the square that the model was trained with, and remembers where it came from."""

import numpy as np

from sdk.faces.crop import aligned_face, crop_face

PICTURE = np.random.default_rng(0).integers(1, 256, (60, 80, 3), np.uint8)


def test_crop_inside_the_picture():
    face = crop_face(PICTURE, (30, 20, 50, 36), 1.5)
    assert face.pixels.shape == (30, 30, 3)
    left, top = face.origin
    np.testing.assert_array_equal(face.pixels, PICTURE[top : top + 30, left : left + 30])
    assert face.box_in_crop == (30 - left, 20 - top, 50 - left, 36 - top)


def test_beyond_the_border_is_black():
    face = crop_face(PICTURE, (-10, -10, 10, 10), 2.0)
    assert face.pixels.shape == (40, 40, 3)
    assert not face.pixels[:20].any()
    assert not face.pixels[:, :20].any()
    np.testing.assert_array_equal(face.pixels[20:, 20:], PICTURE[:20, :20])


def test_a_box_far_outside_gives_black():
    assert not crop_face(PICTURE, (500, 500, 520, 520), 1.5).pixels.any()


def test_aligned_face_is_the_inverse_of_cropping():
    """The box of an aligned picture is the one that would have been cropped to it."""
    face = aligned_face(PICTURE[:60, :60], 1.5)
    assert face.box_xyxy == (10, 10, 50, 50)
    assert crop_face(PICTURE, face.box_xyxy, 1.5).pixels.shape == (60, 60, 3)
