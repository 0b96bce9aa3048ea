"""Regions of the mean face: soft masks and lines on maps over its front.

Maps lie in the frontal plane of the mean face at rest, so that brows, lips and wrinkles keep their place on the skin
when identity and expression move it.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from sdk.arrays import Doubles, Floats
from trainer.synthetic.face_model import FaceModel

LEFT, TOP, SCALE = -9.6, 14.6, 14.0  # centimetres of the map's corner, pixels per centimetre
WIDTH, HEIGHT = 269, 370


def place_on_map(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Column and row on the maps of places in centimetres at rest."""
    return (x - LEFT) * SCALE, (TOP - y) * SCALE


class Regions:
    """Soft masks (HEIGHT, WIDTH) in 0..1 of the regions of the mean face, computed once."""

    def __init__(self, model: FaceModel) -> None:
        rest = model.neutral[model.landmarks68][:, :2]
        rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        self.x, self.y = columns / SCALE + LEFT, TOP - rows / SCALE
        self.lips = _polygon([rest[48:60]], soften=1.2)
        self.brow_lines = [rest[17:22], rest[22:27]]
        self.eye_lines = [rest[36:42], rest[42:48]]
        self.lid_line = self.distance([rest[36:40], rest[42:46]])
        eye = np.array([[-3.15, 3.5], [3.15, 3.5]])
        eye_distance = np.min([np.hypot(self.x - x, (self.y - y) * 1.5) for x, y in eye], axis=0).astype(np.float32)
        self.eye_rims = np.exp(-((eye_distance / 1.75) ** 4))
        self.cheeks = self._blobs([(-4.3, 0.2), (4.3, 0.2)], 1.9)
        self.nose = self._blobs([(0.0, 0.5)], 1.3)
        self.chin = self._blobs([(0.0, -6.0)], 1.5)
        self.blood = 0.6 * self.cheeks + 0.6 * self.nose + 0.25 * self.chin
        self.beard = self._beard()
        self.moustache = self._blobs([(x, -1.75 - 0.14 * x * x) for x in (-2.4, -1.6, -0.8, 0.8, 1.6, 2.4)], 0.85)
        self.overhang = self._blobs([(x, -2.6 - 0.1 * x * x) for x in (-1.8, -0.9, 0.0, 0.9, 1.8)], 0.75)
        self.flat = (
            1 / (1 + np.exp(-3.0 * (self.y + 8.0) - 1.0)) * (np.abs(self.x) < 7.2).astype(np.float32)
        )  # the part of the map that is not stretched
        self.wrinkles = self._wrinkles()
        self.relief = np.stack(list(self.wrinkles.values()))  # (7, HEIGHT, WIDTH)
        self.furrows = np.maximum(-self.relief, 0)

    def _blobs(self, centres: list[tuple[float, float]], radius: float) -> Floats:
        squared: Doubles = np.min([(self.x - x) ** 2 + (self.y - y) ** 2 for x, y in centres], axis=0)
        blobs: Floats = np.exp(-squared / (2 * (radius / 1.6) ** 2)).astype(np.float32)
        return blobs

    def distance(self, lines: Sequence[npt.NDArray[np.floating]], rows: slice = slice(None)) -> Floats:
        """Centimetres to the nearest of several polylines, for some rows of the maps."""
        column, height = self.x[rows], self.y[rows]
        nearest: Floats = np.full(column.shape, np.inf, np.float32)
        for line in lines:
            for (ax, ay), (bx, by) in itertools.pairwise(line):
                length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-9)
                t = (((column - ax) * (bx - ax) + (height - ay) * (by - ay)) / length).clip(0, 1)
                squared = (column - ax - t * (bx - ax)) ** 2 + (height - ay - t * (by - ay)) ** 2
                nearest = np.minimum(nearest, squared.astype(np.float32))
        distance: Floats = np.sqrt(nearest)
        return distance

    def _beard(self) -> Floats:
        """Mask of jaw, cheeks below the nose and upper lip, without the lips."""
        below = 1 / (1 + np.exp(-3.0 * (-0.9 - self.y + 0.55 * np.maximum(np.abs(self.x) - 3.2, 0))))
        above_neck = 1 / (1 + np.exp(-2.0 * (self.y + 9.0)))
        beard: Floats = (below * above_neck * (1 - self.lips)).astype(np.float32)
        return beard

    def _wrinkles(self) -> dict[str, Floats]:
        """Relief of each kind of wrinkle; furrows are negative."""

        def mirrored(line: list[tuple[float, float]]) -> list[Doubles]:
            points = np.array(line)
            return [points, points * (-1, 1)]

        def furrows(lines: Sequence[Doubles], width: float) -> Floats:
            distance = self.distance(lines)
            relief: Floats = (
                0.45 * np.exp(-(((distance - 2.2 * width) / width) ** 2)) - np.exp(-((distance / width) ** 2))
            ).astype(np.float32)
            return relief

        forehead = [
            np.array([(x, y - 0.03 * x * x + 0.12 * np.sin(1.3 * x)) for x in np.linspace(-4, 4, 17)])
            for y in (7.9, 8.7, 9.5)
        ]
        glabella = [*mirrored([(0.6, 4.9), (0.85, 5.5), (0.8, 6.2)]), np.array([(0.05, 5.0), (0.0, 5.9)])]
        crows = [
            p
            for dy in (-0.5, 0.0, 0.55)
            for p in mirrored([(5.05, 3.3 + 0.3 * dy), (5.6, 3.4 + dy), (6.2, 3.5 + 1.5 * dy)])
        ]
        folds = mirrored([(1.65, 0.4), (2.5, -0.6), (3.2, -2.0), (3.5, -3.4)])
        bunny = [p for y in (3.6, 4.0, 4.4) for p in mirrored([(0.25, y), (0.75, y - 0.25), (1.1, y - 0.7)])]
        bags = mirrored([(1.9, 2.6), (2.7, 2.15), (3.7, 2.1), (4.6, 2.6)])
        corners = mirrored([(3.0, -3.0), (3.25, -3.7), (3.1, -4.6)])
        return {
            "forehead": furrows(forehead, 0.13),
            "glabella": furrows(glabella, 0.13),
            "crows_feet": furrows(crows, 0.08),
            "folds": furrows(folds, 0.2),
            "nose": furrows(bunny, 0.09),
            "bags": furrows(bags, 0.14),
            "mouth_corners": furrows(corners, 0.14),
        }


def _polygon(outlines: Sequence[npt.NDArray[np.floating]], soften: float) -> Floats:
    """A soft mask of the inside of closed outlines."""
    picture = Image.new("L", (WIDTH * 2, HEIGHT * 2))
    draw = ImageDraw.Draw(picture)
    for outline in outlines:
        draw.polygon([tuple(2 * point) for point in np.stack(place_on_map(*outline.T), axis=1)], fill=255)
    small = picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    return np.asarray(small.filter(ImageFilter.GaussianBlur(soften)), np.float32) / np.float32(255)
