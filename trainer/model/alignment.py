"""Landmarks in the frame of the head: similarities, which move, turn and scale, and the module that applies them."""

import torch
from torch import Tensor, nn

from sdk.faces.preprocess import Anchor


def split_anchors(anchors: tuple[Anchor, ...]) -> tuple[list[int], Tensor]:
    """Indices of the anchors among the landmarks, and their target places (A, 2)."""
    return [anchor[0] for anchor in anchors], torch.tensor([anchor[1:] for anchor in anchors])


def similarity(points: Tensor, wanted: Tensor) -> Tensor:
    """(B, 2, 3) least-squares similarities from places in a new picture to places in the old.

    Args:
        points: (B, A, 2) x and y in the old picture.
        wanted: (A, 2) their target places in the new one.
    """
    centre, middle = points.mean(dim=1, keepdim=True), wanted.mean(dim=0)
    (x, y), (u, v) = (points - centre).unbind(dim=2), (wanted - middle).unbind(dim=1)
    size = (u * u + v * v).sum()
    cos, sin = (x * u + y * v).sum(dim=1) / size, (y * u - x * v).sum(dim=1) / size
    turn = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    return torch.cat([turn, centre.mT - (turn * middle).sum(dim=2, keepdim=True)], dim=2)


def to_frame(frames: Tensor, points: Tensor) -> Tensor:
    """(B, N, 2) points of the old pictures as places in the new ones, by the inverse of the similarities `frames`."""
    turn, moved = frames[:, :, :2], points - frames[:, None, :, 2]
    size = turn.square().sum(dim=(1, 2)).view(-1, 1, 1) / 2
    # Autocast would compute a matrix product in half precision.
    return (moved[..., None] * turn[:, None]).sum(dim=2) / size.clamp(min=1e-6)


class AlignedShape(nn.Module):
    """The landmark feature in the frame of its rigid points, each coordinate in standard deviations from its mean.

    Raw coordinates mostly tell where the head is; expressions move them by a few hundredths.

    Args:
        anchors: the rigid points and their target places.
        size: length of the feature.
    """

    wanted: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, anchors: tuple[Anchor, ...], size: int) -> None:
        super().__init__()
        self.index, wanted = split_anchors(anchors)
        self.register_buffer("wanted", wanted, persistent=False)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, landmarks: Tensor) -> Tensor:
        """(B, size) from (B, size) x, y pairs in float32, in the type of the weights."""
        return ((self.align(landmarks) - self.mean) / self.std).to(self.mean.dtype)

    def align(self, landmarks: Tensor) -> Tensor:
        """(B, size) x, y pairs in the frame of the anchors."""
        points = landmarks.unflatten(1, (-1, 2))
        return to_frame(similarity(points[:, self.index], self.wanted), points).flatten(1)

    @torch.no_grad()
    def measure(self, landmarks: Tensor) -> None:
        """Set mean and standard deviation to those of (N, size) features."""
        aligned = self.align(landmarks)
        self.mean.copy_(aligned.mean(dim=0))
        self.std.copy_(aligned.std(dim=0).clamp(min=1e-3))
