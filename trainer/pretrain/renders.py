"""A rendered set in memory, with the exact labels that `emola data synthesize` writes with it."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sdk.bundles.damage import read_array
from sdk.errors import DataError, ImageError
from sdk.faba.vocabulary import EMOTIONS
from sdk.faces.images import load_image
from sdk.faces.preprocess import LANDMARK_SIDE, Anchor
from sdk.untrusted_json import read_json_lines
from trainer.model.alignment import similarity, split_anchors, to_frame
from trainer.pretrain.points import POINTS
from trainer.synthetic.expression import UNITS

STORED_SIDE = LANDMARK_SIDE  # of the pictures in memory
EVALUATION_BATCH = 50  # faces of a batch when a network is scored
# Corners of the eyes, bridge and wings of the nose, in Multi-PIE's order: expressions move them least.
RIGID_LANDMARKS = [27, 28, 29, 30, 31, 33, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47]

# Landmarks that change places in a mirror: of Multi-PIE's 68 these runs and pairs, after them neighbours.
_MIRRORED_RUNS = ((0, 16), (17, 26), (31, 35), (48, 54), (55, 59), (60, 64), (65, 67))
_MIRRORED_PAIRS = ((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46))


def _mirrored_landmarks() -> list[int]:
    mirrored = list(range(POINTS))
    for first, last in _MIRRORED_RUNS:
        mirrored[first : last + 1] = range(last, first - 1, -1)
    for one, other in (*_MIRRORED_PAIRS, *((first, first + 1) for first in range(68, POINTS, 2))):
        mirrored[one], mirrored[other] = other, one
    return mirrored


MIRRORED_LANDMARKS = _mirrored_landmarks()  # index of each landmark's counterpart


@dataclass(frozen=True)
class Renders:
    """N rendered faces.

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

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def to(self, device: str) -> "Renders":
        """The same faces in the memory of a device."""
        return Renders(*(part.to(device) for part in (self.pixels, self.points, self.intensities, self.emotions)))


@dataclass(frozen=True)
class Batch:
    """Pictures as a network sees them, with their labels; attributes as in `Renders`."""

    pictures: Tensor  # (B, 3, S, S) float32 in 0..1
    points: Tensor
    intensities: Tensor
    emotions: Tensor


def read_renders(folder: Path) -> Renders:
    """Read a folder of `emola data synthesize`.

    Raises:
        DataError: the folder is of another kind or incomplete.
    """
    path = folder / "metadata.jsonl"
    if not path.is_file() or not (folder / "points.npy").is_file():
        raise DataError(f"{folder}: expected metadata.jsonl and points.npy, as `emola data synthesize` writes them")
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImageError) as error:
        raise DataError(f"{folder} is incomplete: {error}; render it again") from error


def _read(folder: Path) -> Renders:
    """Raises an error of the caller's tuple where a file is missing or damaged."""
    rows = read_json_lines(folder / "metadata.jsonl", DataError, advice="render it again")
    points = read_array(folder / "points.npy")
    if points.shape != (len(rows), POINTS, 2):
        raise ValueError(f"{len(rows)} faces in metadata.jsonl, points.npy of shape {points.shape}")
    # Filled in place: two copies may not fit into memory.
    pixels = np.empty((len(rows), 3, STORED_SIDE, STORED_SIDE), np.uint8)

    def read(index: int) -> None:
        pixels[index] = _read_picture(folder / "images" / f"{rows[index]['id']}.jpg")

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(read, range(len(rows))):
            pass  # raises what a thread raised
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


def _read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """(3, 192, 192) uint8 RGB."""
    picture = Image.fromarray(load_image(path))
    small = picture.resize((STORED_SIDE, STORED_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(small).transpose(2, 0, 1)


def mean_anchors(renders: Renders, fill: float = 0.92) -> tuple[Anchor, ...]:
    """Places of the rigid landmarks of the mean face when that face fills a square.

    Args:
        fill: extent of the face, brows to chin, over the side of the square.
    """
    mean = renders.points.mean(dim=0)
    for _ in range(3):  # Procrustes
        frames = similarity(renders.points[:, RIGID_LANDMARKS], mean[RIGID_LANDMARKS])
        mean = to_frame(frames, renders.points).mean(dim=0)
    face = mean[:68]
    middle = (face.amax(dim=0) + face.amin(dim=0)) / 2
    placed = (mean - middle) * (2 * fill / (face[:, 1].amax() - face[:, 1].amin()))
    return tuple(
        (index, round(float(placed[index, 0]), 4), round(float(placed[index, 1]), 4)) for index in RIGID_LANDMARKS
    )


def batches(
    renders: Renders,
    size: int,
    count: int,
    generator: torch.Generator,
    *,
    anchors: tuple[Anchor, ...] = (),
    jitter: float = 1.0,
) -> Iterator[Batch]:
    """One epoch in batches of `count`, in random order; the rest that does not fill a batch is left out.

    Args:
        size: side of the resulting pictures.
        generator: on the device of the renders.
        anchors: align each face on them, as the runtime does; without anchors the crops stay those of the detector.
        jitter: strength of random shifts, scalings and turns; 1 is that of detectors, 0 is none. Unless it is 0, half
            of the pictures are mirrored and all of them are recoloured, as by different cameras.
    """
    device = renders.device
    order = torch.randperm(len(renders), generator=generator, device=device)
    fixed, wanted = split_anchors(anchors)
    wanted, mirror = wanted.to(device), torch.tensor([-1.0, 1.0], device=device)
    for start in range(0, len(order) - count + 1, count):
        index = order[start : start + count]
        points, mirrored = renders.points[index], torch.zeros(count, dtype=torch.bool, device=device)
        if jitter:
            mirrored = torch.rand(count, generator=generator, device=device) < 0.5
            points = torch.where(mirrored.view(-1, 1, 1), points[:, MIRRORED_LANDMARKS] * mirror, points)
        unmoved = torch.eye(2, 3, device=device).repeat(count, 1, 1)
        frames = similarity(points[:, fixed], wanted) if anchors else unmoved
        if jitter:
            frames = _compose(frames, _random_frames(count, generator, jitter))
        places = frames.clone()
        places[mirrored, 0] *= -1  # the points are mirrored already, the pixels are not
        grid = F.affine_grid(places, [count, 3, size, size], align_corners=False)
        pictures = F.grid_sample(renders.pixels[index].float(), grid, align_corners=False) / 255
        if jitter:
            pictures = _recolour(pictures, generator)
        yield Batch(pictures, to_frame(frames, points), renders.intensities[index], renders.emotions[index])


def _compose(outer: Tensor, inner: Tensor) -> Tensor:
    """(B, 2, 3) maps that apply `inner`, then `outer`."""
    turn = outer[:, :, :2] @ inner[:, :, :2]
    shift = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return torch.cat([turn, shift], dim=2)


def _random_frames(count: int, generator: torch.Generator, strength: float) -> Tensor:
    """(B, 2, 3) small turns, scalings and shifts."""

    def normal(spread: float) -> Tensor:
        return strength * spread * torch.randn(count, generator=generator, device=generator.device)

    angle, scale = normal(math.radians(8)), torch.exp(normal(0.08))
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([cos, -sin, normal(0.06), sin, cos, normal(0.06)], dim=1)
    return rows.view(count, 2, 3)


def _recolour(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Change saturation, contrast, brightness and colour cast at random."""
    count = len(pictures)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=generator, device=generator.device)

    grey = pictures.mean(dim=1, keepdim=True)
    pictures = torch.lerp(grey, pictures, uniform(0.5, 1.4) * (uniform(0, 1) > 0.08))
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    pictures = torch.lerp(mean, pictures, uniform(0.7, 1.35)) + (uniform(0.8, 1.2) - 1) * mean
    return (pictures * uniform(0.92, 1.08, 3)).clamp(0, 1)
