"""Crop the square picture of one face, the input of both networks."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sdk.arrays import Pixels

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels

# Side of a face crop over the longer side of dlib's box. Not recorded for the released checkpoints; 1.7 shows forehead
# to chin, as their training pictures do.
RELEASED_FACE_SCALE = 1.7


@dataclass(frozen=True)
class FaceCrop:
    """One face.

    Attributes:
        pixels: (H, W, 3) uint8 RGB at the resolution of the picture, black beyond its border.
        origin: left and top of the crop in pixels of the picture.
        box_xyxy: the detector's box in pixels of the picture.
        box_extent: of the detector, see `sdk.faces.detect.Detector`.
        shrink: pixels of the file per pixel of the picture, see `sdk.faces.images.Picture`.
    """

    pixels: Pixels
    origin: tuple[int, int]
    box_xyxy: Box
    box_extent: float = 1.0
    shrink: int = 1

    @property
    def box_in_file(self) -> Box:
        """The detector's box in pixels of the file."""
        x1, y1, x2, y2 = self.box_xyxy
        return x1 * self.shrink, y1 * self.shrink, x2 * self.shrink, y2 * self.shrink

    @property
    def box_in_crop(self) -> Box:
        """The face box in pixels of the crop, scaled to the size of dlib's box, as the landmark network expects it."""
        left, top = self.origin
        x1, y1, x2, y2 = self.box_xyxy
        x, y, share = (x1 + x2) / 2 - left, (y1 + y2) / 2 - top, 0.5 / self.box_extent
        return x - share * (x2 - x1), y - share * (y2 - y1), x + share * (x2 - x1), y + share * (y2 - y1)


def crop_face(image: Pixels, box_xyxy: Box, scale: float, box_extent: float = 1.0) -> FaceCrop:
    """Crop a square around the centre of a face box.

    Args:
        image: (H, W, 3) uint8 RGB.
        box_xyxy: face box in float pixels; may reach beyond the picture.
        scale: side of the square over the longer side of dlib's box; a model needs the scale of its training.
        box_extent: longer side of the box over that of dlib's box.
    """
    x1, y1, x2, y2 = box_xyxy
    side = max(1, round(max(x2 - x1, y2 - y1) * scale / box_extent))
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    inside = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    if inside.shape[:2] != (side, side):
        canvas = np.zeros((side, side, 3), np.uint8)
        row, column = max(-top, 0), max(-left, 0)
        canvas[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
        inside = canvas
    return FaceCrop(np.ascontiguousarray(inside), (left, top), box_xyxy, box_extent)


def aligned_face(image: Pixels, scale: float) -> FaceCrop:
    """Take a whole picture as the crop of one face; its face box is the centre of the picture at the given scale."""
    height, width = image.shape[:2]
    half = max(height, width) / scale / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    return FaceCrop(image, (0, 0), box)
