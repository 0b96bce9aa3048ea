"""Facial priors: what becomes of the landmark network's outputs before the prior projector.

A prior has a name, which the checkpoint records, and a module of torch that turns the outputs into a vector. The module
becomes part of the exported graph, so that a bundle needs nothing else. A package adds a prior by an entry point of the
group "emola.priors" that names a `Prior`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

import torch
from torch import Tensor, nn

from sdk.errors import CheckpointError

LANDMARKS = "landmarks"  # the outputs as they are, or aligned if the configuration has anchors
GROUP = "emola.priors"

# Points of each part of the face: (first, last). The order inside a part does not matter.
_Parts = Mapping[str, tuple[int, int]]
_INSIGHTFACE: _Parts = {  # the mark-up of 2d106det
    "left brow": (43, 51),
    "right brow": (97, 105),
    "left eye": (33, 42),
    "right eye": (87, 96),
    "mouth": (52, 71),
    "nose": (72, 86),
}
_MULTI_PIE: _Parts = {  # the first 68 points of emola-nano's network
    "left brow": (17, 21),
    "right brow": (22, 26),
    "left eye": (36, 41),
    "right eye": (42, 47),
    "mouth": (48, 67),
    "nose": (27, 35),
}
_SHAPED = ("left brow", "right brow", "left eye", "right eye", "mouth")


@dataclass(frozen=True)
class Prior:
    """A prior.

    Attributes:
        name: recorded in checkpoints.
        size: length of the vector.
        make: gives the module, (B, 212) outputs of the landmark network -> (B, size). If it has a method `measure`,
            that gets the (N, 212) outputs of training records before training starts.
        needs_points: the outputs must be coordinates, which those of mode "emola" are not.
    """

    name: str
    size: int
    make: Callable[[], nn.Module]
    needs_points: bool = True


class LandmarkGeometry(nn.Module):
    """Distances and angles of brows, eyes and mouth in the frame of the eyes, in standard deviations from their means.

    The middle of the eyes is the origin, their line is horizontal and their distance is 1. So the numbers do not depend
    on place, turn in the picture and size of the face.

    Args:
        parts: which points belong to which part.
    """

    SIZE = 36

    mean: Tensor
    std: Tensor

    def __init__(self, parts: _Parts) -> None:
        super().__init__()
        self._parts = {name: slice(first, last + 1) for name, (first, last) in parts.items()}
        self.register_buffer("mean", torch.zeros(self.SIZE))
        self.register_buffer("std", torch.ones(self.SIZE))

    def forward(self, landmarks: Tensor) -> Tensor:
        """(B, 36) from (B, 212) x, y pairs in float32, in the type of the weights."""
        return ((self.geometry(landmarks) - self.mean) / self.std).to(self.mean.dtype)

    def geometry(self, landmarks: Tensor) -> Tensor:
        """(B, 36): five numbers of each part, then relations between parts; distances in distances of the eyes."""
        places = self._in_frame(landmarks.unflatten(1, (-1, 2)))
        shapes = {name: _shape(places[:, self._parts[name]]) for name in _SHAPED}
        mouth, middle = places[:, self._parts["mouth"]], shapes["mouth"][:, 2:4]
        relations = [
            *_corners(mouth, middle),
            shapes["left eye"][:, 3] - shapes["left brow"][:, 3],
            shapes["right eye"][:, 3] - shapes["right brow"][:, 3],
            places[:, self._parts["right brow"], 0].amin(dim=1) - places[:, self._parts["left brow"], 0].amax(dim=1),
            *(shapes[name][:, 1] / shapes[name][:, 0].clamp(min=1e-3) for name in ("left eye", "right eye", "mouth")),
            middle[:, 1] - places[:, self._parts["nose"], 1].mean(dim=1),
        ]
        return torch.cat([*shapes.values(), torch.stack(relations, dim=1)], dim=1)

    @torch.no_grad()
    def measure(self, landmarks: Tensor) -> None:
        """Set mean and standard deviation to those of (N, 212) outputs."""
        found = self.geometry(landmarks.float())
        self.mean.copy_(found.mean(dim=0))
        self.std.copy_(found.std(dim=0, correction=0).clamp(min=1e-3))

    def _in_frame(self, points: Tensor) -> Tensor:
        """(B, 106, 2) in the frame of the eyes."""
        left, right = (points[:, self._parts[f"{side} eye"]].mean(dim=1) for side in ("left", "right"))
        line = right - left
        size = line.square().sum(dim=1, keepdim=True).clamp(min=1e-6)  # (B, 1) squared distance
        moved = points - (left + right)[:, None] / 2
        along = (moved * line[:, None]).sum(dim=2)
        across = moved[..., 1] * line[:, :1] - moved[..., 0] * line[:, 1:]
        return torch.stack([along / size, across / size], dim=2)


def _shape(points: Tensor) -> Tensor:
    """(B, 5) width, height, x and y of the middle, and angle of the regression line of (B, K, 2) points."""
    extent, middle = points.amax(dim=1) - points.amin(dim=1), points.mean(dim=1)
    x, y = (points - middle[:, None]).unbind(dim=2)
    angle = torch.atan((x * y).mean(dim=1) / x.square().mean(dim=1).clamp(min=1e-6))
    return torch.cat([extent, middle, angle[:, None]], dim=1)


def _corners(mouth: Tensor, middle: Tensor) -> list[Tensor]:
    """Height of each corner of the mouth above its middle, and the angle under which it is seen from there."""
    found = []
    for index in (mouth[..., 0].argmin(dim=1), mouth[..., 0].argmax(dim=1)):
        corner = mouth.take_along_dim(index[:, None, None], dim=1)[:, 0] - middle
        lift = -corner[:, 1]
        found += [lift, torch.atan(lift / corner[:, 0].abs().clamp(min=1e-3))]
    return found


_BUILT_IN = {
    prior.name: prior
    for prior in (
        Prior("geometry", LandmarkGeometry.SIZE, lambda: LandmarkGeometry(_INSIGHTFACE)),
        Prior("geometry-68", LandmarkGeometry.SIZE, lambda: LandmarkGeometry(_MULTI_PIE)),
    )
}


def find_prior(name: str) -> Prior:
    """The prior of a name: one of this module, or one that an installed package adds.

    Raises:
        CheckpointError: there is none.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    added = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in added:
        known = ", ".join((LANDMARKS, *_BUILT_IN, *sorted(added)))
        raise CheckpointError(f"there is no prior {name!r}, only {known}; install the package that has it ({GROUP})")
    prior = added[name].load()
    if not isinstance(prior, Prior) or prior.name != name:
        raise CheckpointError(
            f"the entry point {name!r} of {GROUP} must name a trainer.model.priors.Prior of that name"
        )
    return prior
