"""Scenes of rendered heads: the pictures that the detector is trained on, with the box and five points of each face."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from sdk.arrays import Doubles, Floats
from trainer.detector.heads import FACE_PIXELS, HIDDEN_YAW, LARGE_FACE_PIXELS, MOST_YAW, SIDE, Head, HeadSet
from trainer.detector.surroundings import (
    Surroundings,
    draw_backdrop,
    draw_object,
    read_surroundings,
    scatter_discs,
    skin_colour,
)
from trainer.synthetic.noise import NoiseBank

SCENE = 320  # pixels of the side of a scene
LEAST_FACE, MOST_FACE = 11, 340  # pixels of the side of a face's box
LEAST_SEEN = 0.55  # share of a face's box that is visible; with less it is neither a face nor background
COLUMNS = 15  # of a label: x1, y1, x2, y2, five points, and 1 for a face or 0 for what is neither
_BODY = SIDE  # rows of the body below the picture of a head


@dataclass(frozen=True)
class Scene:
    """A picture, (320, 320, 3) uint8 RGB, and the labels of its faces, (F, 15)."""

    pixels: npt.NDArray[np.uint8]
    labels: Floats


class SceneComposer:
    """Composes scenes by their numbers.

    Args:
        heads: the heads.
        pictures: folder of pictures without faces.
        seed: decides every scene.
        empty: scenes without heads, and with more objects.
    """

    def __init__(self, heads: HeadSet, pictures: Path, seed: int, *, empty: bool = False) -> None:
        self._heads, self._given, self._seed, self._empty = heads, read_surroundings(pictures), seed, empty
        self._noise = NoiseBank()
        sides = self._heads.boxes[:, 2]
        middle = 1.2 * np.sqrt(LARGE_FACE_PIXELS * FACE_PIXELS)
        self._large, self._small = np.flatnonzero(sides > middle), np.flatnonzero(sides <= middle)
        if not len(self._small):
            self._small = self._large

    def __call__(self, index: int) -> Scene:
        random = np.random.default_rng((self._seed, index, 1 + int(self._empty)))  # heads have (seed, index)
        image = draw_backdrop(self._given, SCENE, self._noise, random)
        if self._empty and random.random() < 0.25:
            image = scatter_discs(image, random)
        most = 7 if self._empty else int(random.choice((0, 1, 2, 4), p=(0.35, 0.3, 0.2, 0.15)))
        for _ in range(int(random.integers(0, most + 1)) if self._empty else most):
            self._add_object(image, float(np.exp(random.uniform(np.log(14), np.log(240)))), random)
        labels = np.zeros((0, COLUMNS), np.float32) if self._empty else self._add_heads(image, random)
        return Scene(photographed(image, random), labels)

    def _add_object(self, image: Image.Image, extent: float, random: np.random.Generator) -> None:
        thing = draw_object(self._given, extent, random)
        x, y = random.uniform(-0.1, 1, 2) * SCENE - np.array(thing.size) / 2 * random.uniform(0, 1)
        image.paste(thing, (int(x), int(y)), mask=thing)

    def _add_heads(self, image: Image.Image, random: np.random.Generator) -> Floats:
        """Paste heads, small ones first, and return the labels of the faces."""
        count = int(random.choice((0, 1, 2, 3, 5, 8), p=(0.14, 0.36, 0.2, 0.12, 0.1, 0.08)))
        largest = {0: MOST_FACE, 1: MOST_FACE, 2: 170, 3: 110, 5: 80, 8: 56}[count]
        sizes = np.exp(random.uniform(np.log(LEAST_FACE), np.log(largest), count))
        if count > 1 and random.random() < 0.6:  # a group at one distance
            sizes = np.median(sizes) * np.exp(random.normal(0, 0.12, count))
        rows: list[Floats] = []
        for size in np.sort(sizes):
            row, cover = self._add_head(image, float(size), rows, random)
            if cover is not None:
                for other in rows:
                    _mark_hidden(other, cover)
            if row is not None:
                rows.append(row)
        return np.array(rows, np.float32).reshape(-1, COLUMNS)

    def _add_head(
        self, image: Image.Image, size: float, rows: list[Floats], random: np.random.Generator
    ) -> tuple[Floats | None, npt.NDArray[np.uint8] | None]:
        """Paste one head where it does not cover the others; returns its label and (S, S) what it covers."""
        numbers = self._large if size > 130 and len(self._large) and random.random() < 0.6 else self._small
        head = self._heads[int(random.choice(numbers))]
        scale = size / float(head.box[2])
        inside = 0.0 if random.random() < 0.85 else -0.35
        for _ in range(12):
            centre = random.uniform(inside * size, SCENE - inside * size, 2)
            if size > 150:
                centre = SCENE / 2 + (centre - SCENE / 2) * 0.7
            if all(
                np.abs(centre - (row[:2] + row[2:4]) / 2).max() > 0.75 * (size + row[2] - row[0]) / 2 for row in rows
            ):
                break
        else:
            return None, None
        roll = float(random.normal(0, 11)) if random.random() < 0.85 else float(random.uniform(-45, 45))
        turn = np.radians(roll)
        step = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * scale
        layer = _placed(_dressed(head, random), head.box[:2], centre, step, scale)
        image.paste(layer, mask=layer)
        cover = np.asarray(layer.getchannel("A"))
        row = np.zeros(COLUMNS, np.float32)
        row[:4] = [*(centre - size / 2), *(centre + size / 2)]
        row[4:14] = ((head.points - head.box[:2]) @ step.T + centre).ravel()
        row[14] = float(abs(head.yaw) <= MOST_YAW)
        if abs(head.yaw) >= HIDDEN_YAW:  # the back of a head is background
            return None, cover
        if random.random() < 0.22:
            _occlude(image, row, self._given, random)
        return row, cover


def _dressed(head: Head, random: np.random.Generator) -> Image.Image:
    """A head with a body below, in light of its own."""
    pixels = np.concatenate([head.pixels, np.repeat(head.pixels[-1:], _BODY, axis=0)])
    half, soft = SIDE / 2 * random.uniform(0.8, 1.0), 14
    columns = np.abs(np.arange(SIDE) - SIDE / 2)
    pixels[SIDE:, :, 3] = (pixels[SIDE:, :, 3] * ((half - columns) / soft).clip(0, 1)).astype(np.uint8)
    image = Image.fromarray(pixels)
    colour = image.convert("RGB")
    for kind, spread in ((ImageEnhance.Brightness, 0.25), (ImageEnhance.Contrast, 0.2), (ImageEnhance.Color, 0.3)):
        if random.random() < 0.6:
            colour = kind(colour).enhance(float(np.exp(random.normal(0, spread))))
    colour.putalpha(image.getchannel("A"))
    return colour


def _placed(head: Image.Image, origin: Floats, centre: Doubles, step: Doubles, scale: float) -> Image.Image:
    """A layer of the scene's size with a head; `origin` in the head's picture lies at `centre`."""
    shrink = 1.0
    if scale < 0.7:  # an affine transform does not average
        shrink = min(1.0, scale * 1.15)
        head = head.resize([max(2, round(length * shrink)) for length in head.size], Image.Resampling.BOX)
    ratio = np.array(head.size) / (SIDE, SIDE + _BODY)
    back = np.linalg.inv(step)
    matrix = ratio[:, None] * back
    shift = ratio * (origin - back @ centre)
    coefficients = (matrix[0, 0], matrix[0, 1], shift[0], matrix[1, 0], matrix[1, 1], shift[1])
    return head.transform((SCENE, SCENE), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)


def _mark_hidden(row: Floats, cover: npt.NDArray[np.uint8]) -> None:
    """Mark a face as neither face nor background if another head covers much of it."""
    x1, y1, x2, y2 = row[:4].round().astype(int).clip(0, SCENE)
    part = cover[y1:y2, x1:x2]
    if part.size and (part > 128).mean() > 1 - LEAST_SEEN:
        row[14] = 0


def _occlude(image: Image.Image, row: Floats, given: Surroundings, random: np.random.Generator) -> None:
    """Put an object over a part of a face: at its edge, or over mouth or eyes."""
    size = float(row[2] - row[0])
    if random.random() < 0.25:  # a mask, or a bar
        points = row[4:14].reshape(5, 2)
        place, fill = points[2:].mean(axis=0), skin_colour(random)[::-1]
        box = [place[0] - 0.42 * size, place[1] - 0.12 * size, place[0] + 0.42 * size, place[1] + 0.5 * size]
        ImageDraw.Draw(image).rounded_rectangle(box, 0.2 * size, fill=fill)
        return
    thing = draw_object(given, size * random.uniform(0.3, 0.75), random)
    angle = random.uniform(0, 2 * np.pi)
    x, y = (row[:2] + row[2:4]) / 2 + 0.55 * size * np.array([np.cos(angle), np.sin(angle)]) - np.array(thing.size) / 2
    image.paste(thing, (int(x), int(y)), mask=thing)


def photographed(image: Image.Image, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The scene with the defects of cameras and web sites: colour, blur, low resolution, noise, compression."""
    if random.random() < 0.2:
        image = image.convert("L").convert("RGB")
    elif random.random() < 0.4:
        image = ImageEnhance.Color(image).enhance(random.uniform(0.3, 1.5))
    if random.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.6)))
    elif random.random() < 0.3:
        image = image.filter(ImageFilter.UnsharpMask(random.uniform(0.6, 2), int(random.integers(30, 120)), 0))
    if random.random() < 0.15:
        small = int(SCENE * random.uniform(0.35, 0.8))
        image = image.resize((small, small), Image.Resampling.BILINEAR)
        image = image.resize((SCENE, SCENE), Image.Resampling.BICUBIC)
    levels = np.arange(256, dtype=np.float32) / 255
    gain = (1 + random.normal(0, 0.05, 3)) * np.exp(random.normal(0, 0.18))
    curves = [255 * np.clip(gain[i] * levels ** random.uniform(0.8, 1.25), 0, 1) for i in range(3)]
    gamma = np.exp(random.normal(0, 0.25))
    curves = [255 * (curve / 255) ** gamma for curve in curves]
    values = np.asarray(image.point([int(value) for curve in curves for value in curve]))
    if random.random() < 0.4:
        grain = random.standard_normal(values.shape, np.float32) * random.uniform(1, 10)
        values = (values + grain).clip(0, 255).astype(np.uint8)
    if random.random() < 0.6:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "JPEG", quality=int(random.integers(30, 95)))
        values = np.asarray(Image.open(buffer))
    return values
