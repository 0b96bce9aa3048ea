"""Landmarks in the frame of the head."""

import numpy as np
import torch
from made_up_renders import write_made_up_renders

from export.graphs.write import write_vision
from sdk.runtime.backends.ort import OrtEncoder
from trainer.checkpoint import Checkpoint
from trainer.model import EmoLA
from trainer.model.alignment import AlignedShape, similarity, to_frame
from trainer.pretrain.base import pretrain
from trainer.pretrain.shape import nano_config
from trainer.pretrain.tower import TowerRecipe

ANCHORS = ((0, -0.5, -0.3), (1, 0.5, -0.3), (2, 0.0, 0.2))
TURN = torch.tensor([[[0.8, -0.3, 0.1], [0.3, 0.8, -0.2]]])  # turns, scales and moves


def test_a_similarity_is_found_again():
    """Anchors that are turned, scaled and moved give that similarity, and its inverse restores them."""
    wanted = torch.tensor([anchor[1:] for anchor in ANCHORS])
    seen = wanted @ TURN[:, :, :2].mT + TURN[:, None, :, 2]
    torch.testing.assert_close(similarity(seen, wanted), TURN)
    torch.testing.assert_close(to_frame(TURN, seen), wanted[None])


def test_the_landmark_row_does_not_depend_on_where_the_head_is():
    """The same face elsewhere, turned and of another size, gives the same rows; another expression does not."""
    torch.manual_seed(0)
    model = EmoLA(nano_config(anchors=ANCHORS)).eval()
    shape = model.landmark_feature_projector[0]
    points = torch.randn(16, 106, 2)
    shape.measure(points.flatten(1))
    moved = points @ TURN[:, :, :2].mT + TURN[:, None, :, 2]
    smiling = points + torch.nn.functional.one_hot(torch.tensor(60), 106)[:, None] * 0.3
    pixels = torch.zeros(16, 3, 112, 112)
    with torch.inference_mode():
        rows, same, other = (model.encode(pixels, each.flatten(1))[:, -1] for each in (points, moved, smiling))
    torch.testing.assert_close(same, rows, atol=1e-4, rtol=1e-4)
    assert (other - rows).abs().max() > 1e-2
    features = shape(points.flatten(1))
    torch.testing.assert_close(features.std(dim=0), torch.ones(212), atol=1e-3, rtol=1e-3)


def test_raw_features_need_no_face():
    """Zeros, which replace missing landmark files, give finite numbers."""
    assert AlignedShape(ANCHORS, 212)(torch.zeros(2, 212)).isfinite().all()


def test_the_alignment_is_part_of_the_checkpoint_and_of_the_graph(tmp_path):
    """The statistics of a base are stored with it, and ONNX Runtime computes the same rows."""
    folder = write_made_up_renders(tmp_path / "train", 64)
    pretrain(folder, tmp_path / "base", recipe=TowerRecipe(epochs=0), landmark_epochs=0, vocabulary=600)
    checkpoint = Checkpoint(None, tmp_path / "base")
    assert len(checkpoint.config.landmark_anchors) > 10
    model = checkpoint.load(dtype=torch.float32)
    assert model.landmark_feature_projector[0].mean.abs().max() > 0.1
    write_vision(checkpoint, tmp_path / "vision.onnx")
    pixels, features = torch.randn(2, 3, 112, 112), torch.from_numpy(np.load(folder / "points.npy")[:2]).flatten(1)
    found = OrtEncoder(tmp_path / "vision.onnx")(pixels.numpy(), features.numpy())
    with torch.inference_mode():
        np.testing.assert_allclose(found, model.encode(pixels, features).numpy(), atol=1e-4, rtol=1e-4)
