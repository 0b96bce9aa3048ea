"""Facial priors: landmark geometry, in training, checkpoints and graphs; priors of other packages."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN
from training import emola_train

pytest.importorskip("torch")

import torch

from export.graphs.write import write_vision
from sdk.errors import CheckpointError
from sdk.runtime.backends.ort import OrtEncoder
from trainer.checkpoint import Checkpoint, load_emola
from trainer.model.priors import LandmarkGeometry, find_prior

LLAVA, CLIP = GOLDEN / "llava-base", GOLDEN / "clip"
PARTS = {"left brow": (43, 51), "right brow": (97, 105), "left eye": (33, 42), "right eye": (87, 96)}
PARTS |= {"mouth": (52, 71), "nose": (72, 86)}


def face(lift: float = 0.0) -> np.ndarray:
    """(106, 2) points of a drawn face, y downwards: eyes 2 apart, a mouth of width 1.6 whose corners are lifted."""
    points = np.zeros((106, 2), np.float32)
    turn = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    for side, eye, brow in ((-1, slice(33, 43), slice(43, 52)), (1, slice(87, 97), slice(97, 106))):
        points[eye] = np.stack([side + 0.4 * np.cos(turn), 0.1 * np.sin(turn)], axis=1)
        points[brow] = np.stack([side + np.linspace(-0.5, 0.5, 9), np.full(9, -0.6)], axis=1)
    x = np.concatenate([np.linspace(-0.8, 0.8, 10), np.linspace(-0.8, 0.8, 10)])
    points[52:72] = np.stack([x, 2 - lift * (np.abs(x) / 0.8) ** 4], axis=1)
    points[72:87] = (0, 1)
    return points


def geometry(points: np.ndarray) -> np.ndarray:
    return LandmarkGeometry(PARTS).geometry(torch.from_numpy(points.astype(np.float32)).reshape(1, 212))[0].numpy()


def test_the_numbers_of_a_drawn_face():
    """In distances of the eyes (2): widths, heights and places as drawn; brows 0.3 above the eyes."""
    found = geometry(face())
    brow, _, eye, _, mouth = found[:25].reshape(5, 5)
    np.testing.assert_allclose(brow, [0.5, 0, -0.5, -0.3, 0], atol=1e-5)
    np.testing.assert_allclose(eye[[0, 2, 3]], [0.4, -0.5, 0], atol=1e-5)
    np.testing.assert_allclose(mouth, [0.8, 0, 0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(found[29:32], [0.3, 0.3, 0.5], atol=1e-5)
    assert found[35] == pytest.approx(0.5)


def test_place_turn_and_size_of_the_face_do_not_matter():
    turn = np.array([[0.8, -0.3], [0.3, 0.8]], np.float32)
    np.testing.assert_allclose(geometry(face(0.2) @ turn.T + [0.4, -0.1]), geometry(face(0.2)), atol=1e-4)


def test_a_smile_lifts_both_corners():
    """The corners are above the middle of the mouth, and of a frown below it."""
    smile, frown = geometry(face(0.3))[25:29], geometry(face(-0.3))[25:29]
    assert (smile > 0.05).all()
    np.testing.assert_allclose(smile, -frown, atol=1e-5)


def test_zeros_give_finite_numbers():
    """Zeros stand for landmark files that are not read."""
    assert np.isfinite(geometry(np.zeros((106, 2)))).all()


def test_a_trained_prior_is_part_of_checkpoint_and_graph(tmp_path):
    """The adapter records the prior with the statistics of its training set; ONNX computes the same rows."""
    options = ("--prior", "geometry", "--landmark-mode", "insightface", "--max-steps", "1", "--batch-size", "2")
    assert emola_train(tmp_path / "run", *options) == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["emola_prior"] == "geometry"
    model = load_emola(tmp_path / "run", LLAVA, CLIP)
    prior = model.landmark_feature_projector[0]
    rows = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text())
    features = np.stack([np.load(GOLDEN / "data" / row["landmark"]) for row in rows])
    expected = prior.geometry(torch.from_numpy(features))
    torch.testing.assert_close(prior.mean, expected.mean(dim=0))
    checkpoint = Checkpoint(tmp_path / "run", LLAVA, CLIP)
    write_vision(checkpoint, tmp_path / "vision.onnx")
    side = checkpoint.config.vision.image_size
    pixels, two = torch.randn(2, 3, side, side), torch.from_numpy(features[:2])
    with torch.inference_mode():
        torch_rows = model.encode(pixels, two).numpy()
    onnx_rows = OrtEncoder(tmp_path / "vision.onnx", 1)(pixels.numpy(), two.numpy())
    np.testing.assert_allclose(onnx_rows, torch_rows, atol=1e-3, rtol=1e-3)


def test_landmark_files_without_coordinates_are_refused(tmp_path, capsys):
    """Files of mode emola come from an almost black picture."""
    assert emola_train(tmp_path / "run", "--prior", "geometry", "--max-steps", "1") == 1
    assert (
        "the prior geometry reads coordinates, but landmark files of mode 'emola' hold none" in capsys.readouterr().err
    )


def test_another_prior_replaces_the_projector_of_an_adapter():
    found = Checkpoint(GOLDEN / "llava-lora-emola-trained", LLAVA, CLIP, new_projector_seed=0, prior="geometry-68")
    shapes = {name: tensor.shape for name, tensor in found.frozen.items() if name.startswith("landmark_feature")}
    assert shapes["landmark_feature_projector.1.weight"][1] == LandmarkGeometry.SIZE
    assert "landmark_feature_projector.0.weight" not in shapes


PACKAGE = """
import torch
from trainer.model.priors import Prior

class Mean(torch.nn.Module):
    def forward(self, landmarks):
        return landmarks.unflatten(1, (-1, 2)).mean(dim=1)

MEAN = Prior("mean", 2, Mean, needs_points=False)
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """An installed package with a prior."""
    (tmp_path / "prior_package.py").write_text(PACKAGE)
    about = tmp_path / "prior_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: prior-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[emola.priors]\nmean = prior_package:MEAN\nwrong = prior_package:Mean\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("prior_package", None)


def test_a_package_adds_a_prior(package):
    """Found by its entry point; a checkpoint with it has a projector of its size."""
    prior = find_prior("mean")
    assert torch.equal(prior.make()(torch.ones(3, 212)), torch.ones(3, 2))
    found = Checkpoint(None, LLAVA, CLIP, new_projector_seed=0, prior="mean")
    assert found.frozen["landmark_feature_projector.1.weight"].shape[1] == 2


def test_unknown_and_wrong_priors_are_one_line(package):
    with pytest.raises(CheckpointError, match="no prior 'parsing', only landmarks, geometry, geometry-68, mean, wrong"):
        find_prior("parsing")
    with pytest.raises(CheckpointError, match="entry point 'wrong' .* must name a trainer.model.priors.Prior"):
        find_prior("wrong")
