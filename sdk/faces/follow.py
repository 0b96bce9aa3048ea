"""Follow faces from frame to frame: the detector searches the surroundings of each face, not the whole frame."""

import operator
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from sdk.arrays import Pixels
from sdk.faces.crop import Box
from sdk.faces.detection import Detection
from sdk.faces.preprocess import scaled_down
from sdk.faces.track import overlap

_REACH = 1.3  # half the side of what is searched, in sides of the face
_SIDE = 127  # pixels to which that is scaled down; the detector searches larger pictures at two sizes
_MOST_SHARE = 0.5  # of the work of a search of the whole frame
_LEAST_OVERLAP = 0.3  # intersection over union of a face and itself in the frame before
_MOST_OVERLAP = 0.5  # of two faces; with more, both boxes are on one face


class Follower:
    """Follows the faces of the last detection.

    Args:
        detect: the faces in an (H, W, 3) uint8 RGB picture, see `sdk.faces.detect.Detector`.
        searched_pixels: of a picture of H x W, those that it works on: it may scale pictures first.
    """

    def __init__(
        self,
        detect: Callable[[Pixels], list[Detection]],
        searched_pixels: Callable[[int, int], float] = operator.mul,
    ) -> None:
        self._detect, self._searched_pixels = detect, searched_pixels
        self._boxes: list[Box] = []

    def start(self, boxes: Iterable[Box]) -> None:
        """Follow the faces at these boxes of a frame from now on."""
        self._boxes = list(boxes)

    def follow(self, image: Pixels) -> list[Box] | None:
        """The boxes in the next frame, in the same order, or None if the whole frame must be searched.

        That is so if a face was lost, and if there are too many faces to save time.
        """
        height, width = image.shape[:2]
        near, whole = self._searched_pixels(_SIDE, _SIDE), self._searched_pixels(height, width)
        if len(self._boxes) * near > _MOST_SHARE * whole:
            return None
        found: list[Box] = []
        for box in self._boxes:
            moved = self._near(image, box)
            if moved is None or any(overlap(moved, other) > _MOST_OVERLAP for other in found):
                return None
            found.append(moved)
        self._boxes = found
        return list(found)

    def _near(self, image: Pixels, box: Box) -> Box | None:
        """The face that overlaps a box of the frame before most, or None."""
        x1, y1, x2, y2 = box
        reach = _REACH * max(x2 - x1, y2 - y1)
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        left, top = max(0, round(x - reach)), max(0, round(y - reach))
        part = image[top : max(top, round(y + reach)), left : max(left, round(x + reach))]
        if not part.size:
            return None
        scale = min(1.0, _SIDE / max(part.shape[:2]))
        small = np.asarray(scaled_down(Image.fromarray(part), scale))
        boxes = [
            (a / scale + left, b / scale + top, c / scale + left, d / scale + top)
            for a, b, c, d in (face.box_xyxy for face in self._detect(small))
        ]
        best = max(boxes, key=lambda found: overlap(found, box), default=None)
        return best if best and overlap(best, box) > _LEAST_OVERLAP else None
