"""The network inputs equal those of the authors' preprocessing, OpenCV and insightface."""

import numpy as np
import pytest
from conftest import GOLDEN, golden_json

from sdk.faces.images import load_image
from sdk.faces.preprocess import clip_pixels, landmark_pixels, landmark_points, resize_bilinear
from trainer.model.config import ImageStatistics

CLIP = ImageStatistics()
PICTURES = sorted((GOLDEN / "preprocess").glob("*.png"))


def pixels(path, size, aspect):
    return clip_pixels(load_image(path), size=size, mean=CLIP.mean, std=CLIP.std, aspect=aspect)


@pytest.mark.parametrize("aspect", ["pad", "crop"])
def test_clip_pixels_equal_the_processor(aspect):
    """Tolerance 1e-5 on six pictures of different shapes at 336 pixels."""
    golden = np.load(GOLDEN / f"preprocess/clip336_{aspect}_stride12.npz")
    for path in PICTURES:
        found = pixels(path, 336, aspect)
        key = path.name[0]
        np.testing.assert_allclose(found[:, ::12, ::12], golden[key], atol=1e-5)
        np.testing.assert_allclose(found.mean((1, 2)), golden[f"{key}_mean"], atol=1e-5)


def test_clip_pixels_equal_those_of_training_and_evaluation():
    """Tolerance 1e-5: padding for the 12 training records, cropping for the four of the evaluation."""
    records = golden_json("data/FABAInstruct/train/train_anno.json")
    for name, aspect in (("golden_pixel_values", "pad"), ("golden_eval_pixels", "crop")):
        for key, expected in np.load(GOLDEN / f"{name}.npz").items():
            record = records[int(key.split("_")[1])]
            np.testing.assert_allclose(pixels(GOLDEN / "data" / record["image"], 56, aspect), expected, atol=1e-5)


def test_landmark_pixels_equal_opencv():
    """Mode "emola" on six pictures: to the bit, beyond the 1/255 that was asked."""
    golden = np.load(GOLDEN / "preprocess/landmark_192_bgr_unit_stride6.npz")
    for path in PICTURES:
        found = landmark_pixels(load_image(path), mode="emola", box_xyxy=(0, 0, 1, 1))
        np.testing.assert_allclose(found[:, ::6, ::6], golden[path.name[0]], atol=1e-7)
        np.testing.assert_allclose(found.mean((1, 2)), golden[f"{path.name[0]}_mean"], atol=1e-4)


@pytest.mark.parametrize(("width", "height"), [(192, 192), (31, 200), (1, 1), (97, 3)])
def test_resize_equals_opencv_to_the_bit(width, height):
    cv2 = pytest.importorskip("cv2")
    for shape in ((97, 131, 3), (3, 5, 3), (1, 1, 3), (400, 260, 3)):
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        np.testing.assert_array_equal(resize_bilinear(image, width, height), cv2.resize(image, (width, height)))


def test_insightface_mode_equals_insightface(t1):
    """Within one grey level of its warp (OpenCV rounds, Pillow cuts); points within 0.001 pixels."""
    cv2 = pytest.importorskip("cv2")
    face_align = pytest.importorskip("insightface.utils.face_align")
    for box in ((65, 284, 170, 389), (452.5, 300, 578, 425.25)):
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        scale = 192 / (max(box[2] - box[0], box[3] - box[1]) * 1.5)
        warped, matrix = face_align.transform(t1, centre, 192, scale, 0)
        found = landmark_pixels(t1, mode="insightface", box_xyxy=box)
        assert np.abs(found - warped.transpose(2, 0, 1)).max() <= 1
        feature = np.random.default_rng(0).uniform(-1, 1, 212).astype(np.float32)
        expected = face_align.trans_points((feature.reshape(-1, 2) + 1) * 96, cv2.invertAffineTransform(matrix))
        np.testing.assert_allclose(landmark_points(feature, box), expected, atol=1e-3)


def test_beyond_the_picture_is_black():
    white = np.full((20, 20, 3), 255, np.uint8)
    found = landmark_pixels(white, mode="insightface", box_xyxy=(-40, -40, -20, -20))
    assert found.max() == 0
