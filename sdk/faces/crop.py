"""The square picture of one face that both networks see."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sdk.faces.images import Pixels

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class FaceCrop:
    """One face.

    Attributes:
        pixels: (H, W, 3) uint8 RGB at the resolution of the picture, black beyond its border.
        origin: left and top of the crop in the picture.
        box_xyxy: the face in the picture.
    """

    pixels: Pixels
    origin: tuple[int, int]
    box_xyxy: Box

    @property
    def box_in_crop(self) -> Box:
        left, top = self.origin
        x1, y1, x2, y2 = self.box_xyxy
        return x1 - left, y1 - top, x2 - left, y2 - top


def crop_face(image: Pixels, box_xyxy: Box, scale: float) -> FaceCrop:
    """A square around the centre of a face box.

    Args:
        image: (H, W, 3) uint8 RGB.
        box_xyxy: the face, float pixels; may reach beyond the picture.
        scale: side of the square over the longer side of the box; a trained model needs the scale it was trained with.
    """
    x1, y1, x2, y2 = box_xyxy
    side = max(1, round(max(x2 - x1, y2 - y1) * scale))
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    inside = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    if inside.shape[:2] != (side, side):
        canvas = np.zeros((side, side, 3), np.uint8)
        row, column = max(-top, 0), max(-left, 0)
        canvas[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
        inside = canvas
    return FaceCrop(np.ascontiguousarray(inside), (left, top), box_xyxy)


def aligned_face(image: Pixels, scale: float) -> FaceCrop:
    """A picture that already is the crop of one face: the face box is taken to be its centre, by the same scale."""
    height, width = image.shape[:2]
    half = max(height, width) / scale / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    return FaceCrop(image, (0, 0), box)
