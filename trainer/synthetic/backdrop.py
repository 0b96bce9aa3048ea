"""The surroundings of a head: background and body."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from sdk.arrays import Floats
from trainer.synthetic.noise import NoiseBank

SOFT_EDGES = ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1))  # for edges; takes a third of GaussianBlur's time


def draw_colour(random: np.random.Generator) -> Floats:
    """Draw an sRGB colour in 0..1; most are unsaturated."""
    grey, hue = random.uniform(0.02, 0.98), random.uniform(-0.5, 0.5, 3)
    return (grey + hue * random.beta(1, 3)).clip(0, 1).astype(np.float32)


def as_image(planes: Floats) -> Image.Image:
    """The image of (3, H, W) sRGB in 0..1."""
    return merge_planes((255 * planes.clip(0, 1)).astype(np.uint8))


def merge_planes(levels: npt.NDArray[np.uint8]) -> Image.Image:
    """The image of (3, H, W) 8-bit sRGB."""
    return Image.merge("RGB", [Image.fromarray(plane) for plane in levels])


def background(size: int, noise: NoiseBank, random: np.random.Generator) -> Image.Image:
    """Draw a plain backdrop or a scene out of focus, at half the side of the picture."""
    small = size // 2
    rows, columns = np.mgrid[:small, :small].astype(np.float32) / small
    angle = random.uniform(0, 6.3)
    slope = 0.5 + (columns - 0.5) * math.cos(angle) + (rows - 0.5) * math.sin(angle)
    first = draw_colour(random)[:, None, None]
    if random.random() < 0.3:
        centre = np.hypot(columns - random.uniform(0.2, 0.8), rows - random.uniform(0.0, 0.7))
        picture = first * (1.1 - random.uniform(0, 0.7) * centre - random.uniform(0, 0.3) * slope)
        return as_image(picture + 0.02 * noise.cut(random, 32, small, small))
    picture = first + (draw_colour(random)[:, None, None] - first) * slope
    for grain in (64, 32, 16):
        share = 0.5 + 0.5 * np.tanh(
            random.uniform(0.5, 4) * (noise.cut(random, grain, small, small) - random.normal(0.3, 0.7))
        )
        picture += (draw_colour(random)[:, None, None] - picture) * (random.uniform(0.1, 0.8) * share)
    image = as_image(picture)
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(0, 8)):
        _shape(draw, small, random)
    image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 4.5)))
    return _bokeh(image, random) if random.random() < 0.15 else image


def _shape(draw: ImageDraw.ImageDraw, size: int, random: np.random.Generator) -> None:
    """Draw the shape of a post, a window or a head."""
    colour = tuple((255 * draw_colour(random)).astype(int).tolist())
    x, y = (size * random.uniform(-0.2, 1.0, 2)).tolist()
    kind = random.integers(3)
    if kind == 0:
        lean = random.normal(0, 0.1) * size
        broad = random.uniform(0.02, 0.3) * size
        draw.polygon([(x, 0), (x + broad, 0), (x + broad + lean, size), (x + lean, size)], fill=colour)
        return
    w, h = (size * random.uniform(0.05, 0.6, 2)).tolist()
    (draw.ellipse if kind == 1 else draw.rectangle)([x, y, x + w, y + h], fill=colour)


def _bokeh(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Add lights that are out of focus."""
    layer = Image.new("RGB", image.size)
    draw = ImageDraw.Draw(layer)
    radius = random.uniform(2, 7)
    for _ in range(random.integers(4, 20)):
        x, y = random.uniform(0, image.width, 2).tolist()
        colour = tuple((random.uniform(60, 190) * (0.5 + 0.5 * draw_colour(random))).astype(int).tolist())
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    added = np.asarray(image, np.int16) + np.asarray(layer.filter(ImageFilter.GaussianBlur(1.2)), np.int16)
    return Image.fromarray(added.clip(0, 255).astype(np.uint8))


def body(backdrop: Image.Image, size: int, marks: Floats, colour: npt.ArrayLike) -> Image.Image:
    """The backdrop enlarged to the size of the picture, with shoulders below those of the mesh."""
    picture, shoulders = backdrop.resize((size, size), Image.Resampling.BILINEAR), Image.new("L", (size, size))
    width, chin = float(np.ptp(marks[:17, 0])), marks[8]
    box = [chin[0] - 1.7 * width, chin[1] + 0.35 * width, chin[0] + 1.7 * width, chin[1] + 3.0 * width]
    ImageDraw.Draw(shoulders).ellipse(box, fill=255)
    fill = tuple((255 * np.asarray(colour)).astype(int).tolist())
    picture.paste(fill, mask=shoulders.filter(SOFT_EDGES))
    return picture
