"""Scenes as batches: mirrored, recoloured."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from sdk.arrays import Floats
from sdk.faces.nano_detector import GREY

LEAST_SIDE, MOST_SIDE = 22, 90  # pixels of the faces for which the network answers: two octaves, see `NanoDetector`
INSIDE = 0.8  # share of the windows that do not reach beyond their scene, if they fit into it
LEAST_IN_WINDOW = 0.5  # share of a face's box in a window; with less it is neither face nor background
_MIRRORED_POINTS = (1, 0, 2, 4, 3)  # eyes and corners of the mouth change places


@dataclass(frozen=True)
class SceneBatch:
    """Attributes:
    pictures: (B, S, S, 3) uint8 RGB.
    labels: for each picture (F, 15), see `trainer.detector.scenes`.
    """

    pictures: Tensor
    labels: list[Tensor]

    def joined(self, other: "SceneBatch") -> "SceneBatch":
        """This batch and another one."""
        return SceneBatch(torch.cat([self.pictures, other.pictures]), self.labels + other.labels)


@dataclass(frozen=True)
class Scenes:
    """Composed scenes: for each shard, (N, S, S, 3) pictures, and for each scene its labels."""

    shards: list[npt.NDArray[np.uint8]]
    labels: list[Floats]

    def __len__(self) -> int:
        return len(self.labels)

    def epoch(self, batch_size: int, random: np.random.Generator, window: int | None = None) -> Iterator[SceneBatch]:
        """Yield all scenes in a random order, in batches that are full.

        Args:
            window: side of a part of each scene that is taken in its place, see `windowed`.
        """
        starts = np.cumsum([0, *map(len, self.shards)])
        order = random.permutation(len(self))
        for begin in range(0, len(order) - batch_size + 1, batch_size):
            pictures, labels = [], []
            for index in order[begin : begin + batch_size]:
                shard = int(np.searchsorted(starts, index, side="right")) - 1
                picture, label = self.shards[shard][index - starts[shard]], self.labels[index]
                if window:
                    picture, label = windowed(picture, label, window, random)
                picture, label = varied(picture, label, random)
                pictures.append(torch.from_numpy(np.ascontiguousarray(picture)))
                labels.append(torch.from_numpy(label))
            yield SceneBatch(torch.stack(pictures), labels)


def varied(
    picture: npt.NDArray[np.uint8], label: Floats, random: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Floats]:
    """A scene mirrored, with red and blue exchanged, and of another brightness, each by chance."""
    if random.random() < 0.5:
        picture, label = picture[:, ::-1], mirrored(label, picture.shape[1])
    if random.random() < 0.25:
        picture = picture[..., ::-1]
    if random.random() < 0.5:
        levels = np.arange(256) * random.uniform(0.6, 1.35) + random.uniform(-25, 25)
        picture = levels.clip(0, 255).astype(np.uint8)[picture]
    return picture, label


def windowed(
    picture: npt.NDArray[np.uint8], label: Floats, side: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Floats]:
    """A window of a scene, scaled down so that one of its faces has a size for which the network answers.

    Faces of other sizes in it are neither faces nor background: the runtime sees them at another scale.
    """
    faces = label[label[:, 14] > 0]
    face = faces[int(random.integers(len(faces)))] if len(faces) else None
    largest = MOST_SIDE * max(picture.shape[:2]) / side  # of a face that fits into a window
    size = float(face[2] - face[0]) if face is not None else random.uniform(LEAST_SIDE, largest)
    ratio = min(1.0, float(np.exp(random.uniform(np.log(LEAST_SIDE), np.log(MOST_SIDE)))) / size)
    extent = side / ratio  # of the window in the scene
    room = np.array(picture.shape[1::-1]) - extent  # negative where the window is larger than the scene
    corner = random.uniform(0, 1, 2) * room
    if face is not None:
        corner = (face[:2] + face[2:4]) / 2 - random.uniform(0.15, 0.85, 2) * extent
    if random.random() < INSIDE:
        corner = corner.clip(np.minimum(room, 0), np.maximum(room, 0))
    window = _scaled(picture, corner, extent, side)
    label = label.copy()
    label[:, :14] = ((label[:, :14] - np.tile(corner, 7)) * ratio).astype(np.float32)
    inside = np.minimum(label[:, 2:4], side) - np.maximum(label[:, :2], 0)
    share = (inside / np.maximum(label[:, 2:4] - label[:, :2], 1)).clip(0, 1).prod(axis=1)
    sides = label[:, 2] - label[:, 0]
    label[:, 14] *= (share > LEAST_IN_WINDOW) & (sides > 0.8 * LEAST_SIDE) & (sides < 1.25 * MOST_SIDE)
    return window, label[share > 0]


def _scaled(
    picture: npt.NDArray[np.uint8], corner: npt.NDArray[np.float64], extent: float, side: int
) -> npt.NDArray[np.uint8]:
    """A square part of a picture, scaled down; grey outside of the picture, as in the runtime."""
    shape = np.array(picture.shape[1::-1])
    first, last = np.floor(corner).astype(int), np.ceil(corner + extent).astype(int)
    (left, top), (right, bottom) = first.clip(0, shape), last.clip(0, shape)
    part = np.full((*(last - first)[::-1], 3), GREY, np.uint8)
    x, y = first
    part[top - y : bottom - y, left - x : right - x] = picture[top:bottom, left:right]
    box = (*(corner - first), *(corner - first + extent))
    image = Image.fromarray(part).resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.array(image)


def mirrored(label: Floats, side: int) -> Floats:
    """(F, 15) labels of the mirrored scene."""
    changed = label.copy()
    changed[:, [0, 2]] = side - label[:, [2, 0]]
    points = label[:, 4:14].reshape(-1, 5, 2)[:, _MIRRORED_POINTS].copy()
    points[..., 0] = side - points[..., 0]
    changed[:, 4:14] = points.reshape(-1, 10)
    return changed
