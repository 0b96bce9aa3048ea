"""A rendered set in memory, with the exact knowledge that `emola data synthesize` leaves beside it."""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sdk.bundles.damage import ARRAY_ERRORS
from sdk.errors import DataError
from sdk.faba.vocabulary import EMOTIONS
from sdk.faces.preprocess import Anchor
from trainer.model.alignment import into, rigid, similarity
from trainer.synthetic.expression import UNITS

STORED = 192  # pixels of a side as kept in memory
SCORED_AT_ONCE = 50  # faces of a batch when a network is scored
# Corners of the eyes, bridge and wings of the nose, in Multi-PIE's order: what expressions move least.
RIGID = [27, 28, 29, 30, 31, 33, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47]

# Which landmarks change places in a mirror: of Multi-PIE's 68 these runs and eyes, after them neighbours.
_REVERSED = ((0, 16), (17, 26), (31, 35), (48, 54), (55, 59), (60, 64), (65, 67))
_ACROSS = ((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46))


def _twins() -> list[int]:
    twins = list(range(106))
    for first, last in _REVERSED:
        twins[first : last + 1] = range(last, first - 1, -1)
    for one, other in (*_ACROSS, *((first, first + 1) for first in range(68, 106, 2))):
        twins[one], twins[other] = other, one
    return twins


TWINS = _twins()


@dataclass(frozen=True)
class Renders:
    """N faces.

    Attributes:
        pixels: (N, 3, 192, 192) uint8 RGB.
        points: (N, 106, 2) float32 x and y, -1 and 1 at the borders of the picture.
        intensities: (N, 20) float32 of the action units `UNITS`, 0 where one is absent.
        emotions: (N,) index in EMOTIONS, -1 where the face was not drawn for one.
    """

    pixels: Tensor
    points: Tensor
    intensities: Tensor
    emotions: Tensor

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Batch:
    """Pictures as a network sees them, with what is to be learnt of them; attributes as in `Renders`."""

    pictures: Tensor  # (B, 3, S, S) float32 in 0..1
    points: Tensor
    intensities: Tensor
    emotions: Tensor


def read_renders(folder: Path) -> Renders:
    """Read a folder of `emola data synthesize`.

    Raises:
        DataError: it is of another kind, or incomplete.
    """
    path = folder / "metadata.jsonl"
    if not path.is_file() or not (folder / "points.npy").is_file():
        raise DataError(f"{folder}: expected metadata.jsonl and points.npy, as `emola data synthesize` writes them")
    try:
        return _read(folder)
    except ARRAY_ERRORS as error:
        raise DataError(f"{folder} is incomplete: {error}; render it again") from error


def _read(folder: Path) -> Renders:
    """What is missing or damaged is one of ARRAY_ERRORS."""
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    points = np.load(folder / "points.npy", allow_pickle=False)
    if points.shape != (len(rows), 106, 2):
        raise ValueError(f"{len(rows)} faces in metadata.jsonl, points.npy of shape {points.shape}")
    pixels = np.empty((len(rows), 3, STORED, STORED), np.uint8)  # filled in place: twice as much might not fit

    def read(index: int) -> None:
        pixels[index] = _read_picture(folder / "images" / f"{rows[index]['id']}.jpg")

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(read, range(len(rows))):
            pass  # what fails is raised here
    units = np.zeros((len(rows), len(UNITS)), np.float32)
    for index, row in enumerate(rows):
        for code, intensity in row["units"].items():
            units[index, UNITS.index(int(code))] = intensity
    return Renders(
        pixels=torch.from_numpy(pixels),
        points=torch.from_numpy(points),
        intensities=torch.from_numpy(units),
        emotions=torch.tensor([EMOTIONS.index(row["emotion"]) if row["emotion"] else -1 for row in rows]),
    )


def _read_picture(path: Path) -> np.ndarray:
    """(3, 192, 192) uint8"""
    with Image.open(path) as picture:
        small = picture.convert("RGB").resize((STORED, STORED), Image.Resampling.BICUBIC)
    return np.asarray(small).transpose(2, 0, 1)


def mean_anchors(renders: Renders, fill: float = 0.92) -> tuple[Anchor, ...]:
    """Where the rigid landmarks of the mean face lie when that face fills a square.

    Args:
        fill: extent of the face, brows to chin, over the side of the square.
    """
    mean = renders.points.mean(dim=0)
    for _ in range(3):  # Procrustes
        frames = similarity(renders.points[:, RIGID], mean[RIGID])
        mean = into(frames, renders.points).mean(dim=0)
    face = mean[:68]
    middle = (face.amax(dim=0) + face.amin(dim=0)) / 2
    placed = (mean - middle) * (2 * fill / (face[:, 1].amax() - face[:, 1].amin()))
    return tuple((index, *(round(float(value), 4) for value in placed[index])) for index in RIGID)


def batches(
    renders: Renders,
    size: int,
    count: int,
    generator: torch.Generator,
    *,
    anchors: tuple[Anchor, ...] = (),
    jitter: float = 1.0,
) -> Iterator[Batch]:
    """One epoch in batches of `count`, in random order; what does not fill a batch is left out.

    Args:
        size: side of the pictures that come out.
        anchors: align each face on them, as the runtime does; none leaves the crops of the detector.
        jitter: 1 moves, scales and turns each picture at random as much as detectors do, 0 not at all; unless it is 0,
            every second picture is mirrored and all are recoloured, as cameras do.
    """
    order = torch.randperm(len(renders), generator=generator)
    fixed, wanted = rigid(anchors)
    for start in range(0, len(order) - count + 1, count):
        index = order[start : start + count]
        points, mirrored = renders.points[index], torch.zeros(count, dtype=torch.bool)
        if jitter:
            mirrored = torch.rand(count, generator=generator) < 0.5
            points = torch.where(mirrored.view(-1, 1, 1), points[:, TWINS] * torch.tensor([-1.0, 1.0]), points)
        frames = similarity(points[:, fixed], wanted) if anchors else torch.eye(2, 3).repeat(count, 1, 1)
        if jitter:
            frames = _compose(frames, _random_frames(count, generator, jitter))
        places = frames.clone()
        places[mirrored, 0] *= -1  # the points are those of the mirrored picture, the pixels are not
        grid = F.affine_grid(places, [count, 3, size, size], align_corners=False)
        pictures = F.grid_sample(renders.pixels[index].float(), grid, align_corners=False) / 255
        if jitter:
            pictures = _recolour(pictures, generator)
        yield Batch(pictures, into(frames, points), renders.intensities[index], renders.emotions[index])


def _compose(outer: Tensor, inner: Tensor) -> Tensor:
    """(B, 2, 3) maps that apply `inner` first."""
    turn = outer[:, :, :2] @ inner[:, :, :2]
    shift = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return torch.cat([turn, shift], dim=2)


def _random_frames(count: int, generator: torch.Generator, strength: float) -> Tensor:
    """(B, 2, 3) small turns, scalings and shifts."""

    def normal(spread: float) -> Tensor:
        return strength * spread * torch.randn(count, generator=generator)

    angle, scale = normal(math.radians(8)), torch.exp(normal(0.08))
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([cos, -sin, normal(0.06), sin, cos, normal(0.06)], dim=1)
    return rows.view(count, 2, 3)


def _recolour(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast, brightness, saturation, a colour cast."""
    count = len(pictures)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=generator)

    grey = pictures.mean(dim=1, keepdim=True)
    pictures = torch.lerp(grey, pictures, uniform(0.5, 1.4) * (uniform(0, 1) > 0.08))
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    pictures = torch.lerp(mean, pictures, uniform(0.7, 1.35)) + (uniform(0.8, 1.2) - 1) * mean
    return (pictures * uniform(0.92, 1.08, 3)).clamp(0, 1)
