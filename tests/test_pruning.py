"""Pruning of visual rows: which are kept, what the decoder reads, and what does not change."""

import numpy as np
import pytest
from conftest import GOLDEN
from PIL import Image
from training import emola_train

pytest.importorskip("torch")

import torch

from sdk import Analyzer
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.commands.demo import PICTURES
from sdk.errors import TaskError, TrainingError
from sdk.faba.prompts import TASKS
from sdk.faces.crop import FaceCrop, aligned_face
from sdk.faces.images import load_image
from sdk.faces.patches import patch_order
from sdk.faces.preprocess import landmark_points, points_in_square, vision_pixels
from sdk.runtime.clock import Clock
from trainer.corpus.records import read_records
from trainer.corpus.tensors import Encoding
from trainer.model import EmoLA
from trainer.model.config import Conventions, ImageStatistics
from trainer.tokenization import load_tokenizer
from trainer.training.recipe import Recipe

RECORDS = read_records(GOLDEN / "data/FABAInstruct/train/train_anno.json")
NANO = read_manifest(EMBEDDED).preprocessing


def features_of(points, box) -> np.ndarray:
    """(212,) the outputs of a landmark network that finds these points in pixels."""
    x1, y1, x2, y2 = box
    side = 1.5 * max(x2 - x1, y2 - y1)
    corner = np.array([x1 + x2 - side, y1 + y2 - side]) / 2
    return ((points - corner) / side * 2 - 1).astype(np.float32).ravel()


@pytest.mark.parametrize("aspect", ["pad", "crop", "align"])
def test_landmarks_are_found_again_in_the_towers_picture(aspect):
    """A bright dot at a landmark of a tilted face in a wide picture lies within a pixel of `points_in_square`."""
    settings = NANO.model_copy(update={"image_aspect": aspect, "anchors": NANO.anchors if aspect == "align" else ()})
    points = np.random.default_rng(3).uniform(70, 150, (106, 2))
    for index, x, y in NANO.anchors:
        points[index] = (150 + 45 * (0.9 * x - 0.4 * y), 110 + 45 * (0.4 * x + 0.9 * y))
    points = np.floor(points) + 0.5  # centres of pixels
    box = (90.0, 50.0, 210.0, 170.0)
    features = features_of(points, box)
    expected = points_in_square(landmark_points(features, box), (220, 300), settings)
    grey = [int(255 * mean) for mean in settings.image_mean]  # as the border that "pad" adds
    for index in (31, 40, 46):
        pixels, (x, y) = np.full((220, 300, 3), grey, np.uint8), points[index].astype(int)
        pixels[y - 2 : y + 3, x - 2 : x + 3] = 255
        picture = vision_pixels(FaceCrop(pixels, (0, 0), box), features, settings).mean(axis=0)
        light = (picture - np.median(picture)).clip(picture.std())
        light -= light.min()
        rows, columns = np.mgrid[: len(light), : len(light)] + 0.5
        found = np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
        assert np.abs(found - expected[index]).max() < 1, (index, found, expected[index])


def test_landmarks_in_one_place_lie_on_the_anchors():
    """A network that finds nothing, all zeros, gives finite places in the middle of the anchors."""
    points = landmark_points(np.zeros(212, np.float32), (90.0, 50.0, 210.0, 170.0))
    middle = (np.array([anchor[1:] for anchor in NANO.anchors]).mean(axis=0) + 1) * NANO.image_size / 2
    with np.errstate(all="raise"):
        found = points_in_square(points, (220, 300), NANO.model_copy(update={"image_aspect": "align"}))
    np.testing.assert_allclose(found, np.tile(middle, (106, 1)), atol=1e-3)


def test_brows_eyes_nose_and_mouth_come_first():
    """On the photograph in the package half of the patches hold six in seven of these points.

    The embedded landmark network finds them; in its order 17 to 67 are brows, nose, eyes and mouth.
    """
    with Analyzer() as analyzer:
        pipeline, photo = analyzer.pipeline, load_image(PICTURES / "astronaut.jpg")
        ((crop, _), *_) = analyzer.examiner.find(photo, "detect", Clock())
        features = pipeline.landmark_features(crop, Clock())
    half = patch_order(crop, features, NANO, 7)[:25]
    points = landmark_points(features, crop.box_in_crop)
    x, y = (points_in_square(points, crop.pixels.shape[:2], NANO)[17:68] * 7 / NANO.image_size).astype(int).T
    assert np.isin(7 * y + x, half).mean() >= 6 / 7


def test_without_coordinates_a_mean_face_stands_in():
    """Mode "emola": for all features the same 144 of 576 patches, symmetric, from brows to mouth."""
    settings = NANO.model_copy(update={"landmark_mode": "emola", "image_aspect": "crop", "anchors": ()})
    crop = aligned_face(np.zeros((300, 300, 3), np.uint8), 1.7)
    orders = [patch_order(crop, np.full(212, value, np.float32), settings, 24) for value in (0.0, 0.7)]
    np.testing.assert_array_equal(*orders)
    kept = np.isin(np.arange(576), orders[0][:144]).reshape(24, 24)
    assert (kept == kept[:, ::-1]).mean() > 0.99
    rows = np.flatnonzero(kept.any(axis=1))
    assert (rows.min(), rows.max()) == (4, 18)


@pytest.fixture(scope="module")
def analyzers(bundle):
    """The golden bundle, whose tower makes 16 rows, all of them read or five."""
    return Analyzer(bundle()), Analyzer(bundle(), visual_tokens=5)


def test_a_pruned_face_takes_fewer_positions(analyzers, astronaut):
    """Eleven fewer rows are read and kept in the cache; the answers differ, and the result says why."""
    for tasks in (TASKS, ("labels",)):
        whole, pruned = (analyzer.analyze(astronaut, color="rgb", tasks=tasks) for analyzer in analyzers)
        assert whole.faces != pruned.faces
        assert whole.faces[0].box_xyxy == pruned.faces[0].box_xyxy
    assert pruned.model.notice == "read from 5 of the picture's 16 rows"
    assert pruned.model.digest == whole.model.digest
    memory, less = (analyzer.info()["memory"] for analyzer in analyzers)
    geometry = analyzers[0].manifest.geometry
    assert memory["per_face"] - less["per_face"] == 11 * 8 * geometry.layers * geometry.kv_heads * geometry.head_size
    prefixes = [analyzer.examiner.encode_largest(astronaut, "detect", Clock()).prefix for analyzer in analyzers]
    assert prefixes[0] - prefixes[1] == 11


def test_all_rows_are_no_pruning(bundle, analyzers, astronaut):
    """visual_tokens=16 of 16 gives the faces of an Analyzer without it."""
    everything = Analyzer(bundle(), visual_tokens=16)
    assert everything.analyze(astronaut, color="rgb").faces == analyzers[0].analyze(astronaut, color="rgb").faces


def test_a_batch_of_pruned_faces_is_that_of_single_ones(analyzers, astronaut, t1):
    """Seven faces of two pictures in three slots."""
    pictures = [Image.fromarray(picture) for picture in (t1, astronaut)]
    single = [analyzers[1].analyze(picture, max_new_tokens=40).faces for picture in pictures]
    batch = analyzers[1].analyze_batch(pictures, max_new_tokens=40, batch_size=3)
    assert [analysis.faces for analysis in batch] == single


@pytest.mark.parametrize(("count", "bound"), [(0, "at least 1"), (17, "at most 16")])
def test_more_rows_than_there_are_cannot_be_kept(bundle, count, bound):
    with pytest.raises(TaskError, match=f"visual_tokens must be {bound}.*not {count}"):
        Analyzer(bundle(), visual_tokens=count)


@pytest.fixture
def rows_read(monkeypatch):
    """The number of image rows that each forward pass of a training reads."""
    counts = []
    encode = EmoLA.encode

    def counted(self, *inputs):
        counts.append((rows := encode(self, *inputs)).shape[1])
        return rows

    monkeypatch.setattr(EmoLA, "encode", counted)
    return counts


def test_training_reads_a_share_of_the_rows(tmp_path, rows_read):
    """`--keep-visual 0.25`: passes read from 4 to all 16 patches, never without the landmark row."""
    assert emola_train(tmp_path / "run", "--batch-size", "2", "--epochs", "4", "--keep-visual", "0.25") == 0
    assert set(rows_read) <= set(range(5, 18))
    assert min(rows_read) <= 8 < 14 <= max(rows_read), rows_read
    assert len(set(rows_read)) > 5


def test_some_passes_read_the_landmark_row_alone(tmp_path, rows_read):
    """`--prior-only 0.5`: every pass reads all 16 patches or none."""
    assert emola_train(tmp_path / "run", "--batch-size", "2", "--epochs", "8", "--prior-only", "0.5") == 0
    assert set(rows_read) == {1, 17}
    assert 0.2 < rows_read.count(1) / len(rows_read) < 0.8, rows_read


def test_training_reads_all_rows_by_default(tmp_path, rows_read):
    assert emola_train(tmp_path / "run", "--batch-size", "2") == 0
    assert set(rows_read) == {17}


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_above_0_and_at_most_1(share):
    with pytest.raises(TrainingError, match="--keep-visual"):
        Recipe(keep_visual=share)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_some_passes_always_read_visual_rows(share):
    with pytest.raises(TrainingError, match="--prior-only must be"):
        Recipe(prior_only=share)


def test_kept_rows_are_those_of_the_whole_face(emola):
    """Torch computes the same rows for the kept patches, in the order of the picture, and the landmark row last."""
    model = emola("trained")
    encoding = Encoding(model.config, Conventions(), ImageStatistics(), load_tokenizer(GOLDEN / "llava-base"))
    pixels, order = encoding.ranked_pixels(RECORDS[0])
    landmarks = encoding.landmarks(RECORDS[0])[None]
    assert sorted(order.tolist()) == list(range(len(order)))
    with torch.inference_mode():
        whole, kept = (model.encode(pixels[None], landmarks, patches)[0] for patches in (None, order[None, :4]))
    expected = torch.cat([whole[order[:4].sort().values], whole[-1:]])
    np.testing.assert_allclose(kept, expected, rtol=0, atol=1e-6)
