"""Landmarks as the votes of the cells of a picture, and the loss of their places."""

import torch
from torch import Tensor

from sdk.faces.preprocess import LANDMARK_FEATURES

POINTS = LANDMARK_FEATURES // 2


def cell_centres(side: int) -> Tensor:
    """(side, side, 2) x and y of the centres of cells, -1 and 1 at the borders."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=2)


def count_votes(votes: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Points from votes: each cell says whether it holds a point, and how far the point is from its centre.

    Args:
        votes: (B, 318, cells) 106 logits, then 106 offsets in x and 106 in y.
        centres: (2, cells) x and y.

    Returns:
        The logits (B, 106, cells) and the points (B, 106, 2).
    """
    heat, *offsets = votes.split(POINTS, dim=1)
    share = heat.softmax(dim=2)
    axes = [(share * (centre + offset)).sum(dim=2) for centre, offset in zip(centres, offsets, strict=True)]
    return heat, torch.stack(axes, dim=2)


def distance_loss(found: Tensor, points: Tensor) -> Tensor:
    """Mean logarithm of the distances: small ones count, and outliers count less than squared (Feng et al. 2018)."""
    return torch.log1p((found - points).norm(dim=2) / 0.02).mean()
