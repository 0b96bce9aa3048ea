"""A detected face, and the choice among boxes that overlap."""

from dataclasses import dataclass

import numpy as np

from sdk.arrays import Floats
from sdk.faces.crop import Box


@dataclass(frozen=True)
class Detection:
    """A detected face: box in float pixels of the picture, and the score of the detector (higher is more certain)."""

    box_xyxy: Box
    score: float

    @property
    def side(self) -> float:
        """The longer side of the box."""
        x1, y1, x2, y2 = self.box_xyxy
        return max(x2 - x1, y2 - y1)


def suppress_overlaps(boxes: Floats, scores: Floats, max_overlap: float) -> list[int]:
    """Greedy non-maximum suppression: return the indices of the kept boxes, best first.

    Arguments as in `overlapping_groups`.
    """
    return [group[0] for group in overlapping_groups(boxes, scores, max_overlap)]


def overlapping_groups(boxes: Floats, scores: Floats, max_overlap: float) -> list[list[int]]:
    """The indices of boxes in groups around a best one that they overlap: best group first, its best box first.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 in pixels; both borders count, as in insightface.
        scores: (N,).
        max_overlap: intersection over union above which a weaker box belongs to the group.
    """
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    order = np.argsort(-scores, kind="stable")
    found: list[list[int]] = []
    while len(order):
        first, rest = order[0], order[1:]
        low = np.maximum(boxes[first, :2], boxes[rest, :2])
        high = np.minimum(boxes[first, 2:], boxes[rest, 2:])
        shared = np.prod(np.maximum(0, high - low + 1), axis=1)
        joined = shared / (areas[first] + areas[rest] - shared) > max_overlap
        found.append([int(first), *rest[joined].tolist()])
        order = rest[~joined]
    return found
