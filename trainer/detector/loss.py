"""What the cells of the detector's grids are trained to say.

Source of the method: Tian et al. 2019, "FCOS" (cells near the centre of a face that fits their grid answer for it), and
Li et al. 2020, "Generalized Focal Loss" (a cell's score is the overlap of its box with the face).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sdk.faces.nano_detector import STRIDES

_LEAST, _MOST = 2.5, 6.0  # sides of the faces that a grid answers for, in strides
_SMALLEST, _LARGEST = 0.0, 1e9  # the finest grid takes all smaller faces, the coarsest all larger ones
_RADIUS = 0.2  # of the middle part of a face whose cells answer for it, in sides
_SCORE, _BOX, _POINTS = 3.0, 1.5, 0.5  # weights of the losses


def detection_loss(outputs: tuple[Tensor, ...], labels: list[Tensor]) -> Tensor:
    """The loss of a batch.

    Args:
        outputs: of `FaceNetwork`.
        labels: for each picture (F, 15), see `trainer.detector.scenes`.
    """
    answers, centres, strides = _cells(outputs)
    with torch.no_grad():
        chosen = [assign(label, centres, strides) for label in labels]
    face, near = (torch.stack(parts) for parts in zip(*chosen, strict=True))
    found = face >= 0
    rows = torch.cat([label[which[which >= 0]] for label, which in zip(labels, face, strict=True)])
    cells, place = answers[found], torch.nonzero(found)[:, 1]
    box, points = decode(cells, centres[place], strides[place])
    side = (rows[:, 2] - rows[:, 0])[:, None]
    wanted = torch.cat([(rows[:, :2] + rows[:, 2:4]) / 2, side], 1)
    overlap, generalised = square_overlap(box, wanted)
    off = F.smooth_l1_loss(points / side, rows[:, 4:14] / side, reduction="none", beta=0.05)
    score = answers[..., 0]
    target = torch.zeros_like(score)
    target[found] = 0.5 + 0.5 * overlap.detach()
    weight = (target - score.sigmoid()).abs().square().detach() * (found | ~near)
    scored = weight * F.binary_cross_entropy_with_logits(score, target, reduction="none")
    total = _SCORE * scored.sum() + _BOX * (1 - generalised).sum() + _POINTS * off.sum()
    return total / max(len(rows), 1)


def decode(cells: Tensor, centres: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3) centre and side of the boxes and (N, 10) points in pixels, of (N, 14) cells of the network."""
    step = strides[:, None]
    side = cells[:, 3:4].clamp(-3, 5).exp() * step
    points = cells[:, 4:] * step + centres.repeat(1, 5)
    return torch.cat([cells[:, 1:3] * step + centres, side], 1), points


def _cells(outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """(N, C, 14) answers of all cells, (C, 2) their centres in pixels, and (C,) strides."""
    answers, centres, strides = [], [], []
    for output, stride in zip(outputs, STRIDES, strict=True):
        rows, columns = (torch.arange(length, device=output.device) for length in output.shape[2:])
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres.append((torch.stack([x, y], 2).flatten(0, 1) + 0.5) * stride)
        answers.append(output.float().flatten(2).mT)
        strides.append(torch.full((len(centres[-1]),), float(stride), device=output.device))
    return torch.cat(answers, 1), torch.cat(centres), torch.cat(strides)


def assign(label: Tensor, centres: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) the face for which each cell answers, or -1, and (C,) whether it is too near to a face to be background."""
    none = torch.full((len(centres),), -1, device=centres.device)
    if not len(label):
        return none, torch.zeros_like(none, dtype=torch.bool)
    side = label[:, 2] - label[:, 0]
    middle = (label[:, :2] + label[:, 2:4]) / 2
    distance = (centres[None] - middle[:, None]).abs().amax(2)  # (F, C)
    ratio = side[:, None] / strides
    least = torch.where(strides == STRIDES[0], _SMALLEST, _LEAST)
    most = torch.where(strides == STRIDES[-1], _LARGEST, _MOST)
    reach = torch.maximum(_RADIUS * side[:, None], 0.6 * strides[None])
    fits = (distance < reach) & (ratio >= least) & (ratio <= most) & (label[:, 14:15] > 0)
    cost = torch.where(fits, side[:, None].expand_as(fits), torch.inf)  # the smaller of two faces
    best = cost.min(0)
    near = (distance < torch.where(label[:, 14:15] > 0, 0.35, 0.5) * side[:, None]).any(0)
    return torch.where(best.values.isfinite(), best.indices, none), near


def square_overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) intersection over union, and its generalised form, of squares (N, 3): centre and side."""
    low = [each[:, :2] - each[:, 2:] / 2 for each in (first, second)]
    high = [each[:, :2] + each[:, 2:] / 2 for each in (first, second)]
    shared = (torch.minimum(*high) - torch.maximum(*low)).clamp(min=0).prod(1)
    union = first[:, 2] ** 2 + second[:, 2] ** 2 - shared
    hull = (torch.maximum(*high) - torch.minimum(*low)).prod(1)
    overlap = shared / union
    return overlap, overlap - (hull - union) / hull
