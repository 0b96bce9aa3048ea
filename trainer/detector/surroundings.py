"""What is in a scene beside faces: a picture or a pattern behind them, objects, and limbs."""

import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sdk.errors import DataError
from trainer.synthetic.backdrop import background, draw_colour
from trainer.synthetic.noise import NoiseBank

MOST_PIXELS = 1100  # of the longer side of a picture that is kept in memory
MOST_OBJECT_PIXELS = 300
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_TONES = ((255, 224, 196), (234, 192, 160), (198, 146, 110), (141, 85, 54), (80, 48, 34))  # of skin, light to dark


@dataclass(frozen=True)
class Surroundings:
    """Pictures without faces, for backgrounds, and cut-out objects, those that have transparent pixels."""

    pictures: list[Image.Image]
    objects: list[Image.Image]


def read_surroundings(folder: Path) -> Surroundings:
    """Read every picture below a folder; none may show a face.

    Raises:
        DataError: there is no picture, or one cannot be read.
    """
    found = Surroundings([], [])
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES):
        try:
            with Image.open(path) as file:
                picture = file.convert("RGBA") if file.has_transparency_data else file.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read ({error}); remove it, or convert it to JPEG") from None
        if picture.mode == "RGBA" and np.asarray(picture)[..., 3].min() < 128:
            picture = picture.crop(picture.getbbox())
            picture.thumbnail((MOST_OBJECT_PIXELS, MOST_OBJECT_PIXELS))
            found.objects.append(picture)
        elif min(picture.size) >= 64:
            picture = picture.convert("RGB")
            picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
            found.pictures.append(picture)
    if not found.pictures:
        raise DataError(f"{folder} holds no pictures; expected JPEG, PNG or WebP files without faces")
    return found


def draw_backdrop(given: Surroundings, side: int, noise: NoiseBank, random: np.random.Generator) -> Image.Image:
    """A (side, side) picture without faces: a part of a given picture, a drawn scene or a pattern."""
    kind = random.random()
    if kind < 0.72:
        return _part(given.pictures[int(random.integers(len(given.pictures)))], side, random)
    if kind < 0.86:
        return background(side, noise, random).resize((side, side), Image.Resampling.BILINEAR)
    return _pattern(side, random)


def _part(picture: Image.Image, side: int, random: np.random.Generator) -> Image.Image:
    """A square part, now and then the whole, mirrored by chance."""
    largest = min(picture.size)
    extent = int(np.exp(random.uniform(np.log(min(90, largest)), np.log(largest))))
    left, top = (int(random.integers(0, length - extent + 1)) for length in picture.size)
    part = picture.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + extent, top + extent))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else part


def _pattern(side: int, random: np.random.Generator) -> Image.Image:
    """Stripes, checks, dots, rings or a plain colour."""
    image = Image.new("RGB", (side, side), _colour(random))
    draw, kind, step = ImageDraw.Draw(image), int(random.integers(5)), int(random.integers(6, 70))
    colour, colours = _colour(random), [_colour(random) for _ in range(3)]
    for x in range(-step, side + step, step):
        if kind == 0:
            draw.line([(x, 0), (x + int(random.normal(0, 4)), side)], fill=colour, width=max(1, step // 2))
        for y in range(0, side + step, step) if kind in (1, 2, 3) else ():
            if kind == 1 and (x // step + y // step) % 2:
                draw.rectangle([x, y, x + step, y + step], fill=colour)
            elif kind == 2:
                r = step * 0.3
                draw.ellipse([x - r, y - r, x + r, y + r], fill=colours[(x // step * 7 + y // step) % 3])
            elif kind == 3 and (x // step + y // step) % 3 == 0:
                draw.ellipse([x - step, y - step, x + step, y + step], outline=colour, width=max(1, step // 8))
    return image.rotate(random.uniform(0, 360)).filter(ImageFilter.GaussianBlur(random.uniform(0, 1.5)))


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(255 * value) for value in draw_colour(random))
    return red, green, blue


def skin_colour(random: np.random.Generator) -> tuple[int, int, int]:
    """Draw a colour of skin."""
    tone = np.array(_TONES[int(random.integers(len(_TONES)))]) * random.uniform(0.6, 1.1) + random.normal(0, 8, 3)
    red, green, blue = (int(value) for value in tone.clip(0, 255))
    return red, green, blue


def draw_object(given: Surroundings, extent: float, random: np.random.Generator) -> Image.Image:
    """An RGBA object of about `extent` pixels: a cut-out, a limb, writing, or a shape with two spots like eyes."""
    kind = random.random()
    if given.objects and kind < 0.5:
        thing = given.objects[int(random.integers(len(given.objects)))].copy()
        ratio = extent / max(thing.size)
        thing = thing.resize([max(2, round(length * ratio)) for length in thing.size], Image.Resampling.BILINEAR)
        return thing.rotate(random.normal(0, 20), Image.Resampling.BILINEAR, expand=True)
    side = max(8, int(extent))
    layer = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(layer)
    if kind < 0.68:
        _limb(draw, side, random)
    elif kind < 0.8:
        text = "".join(random.choice(list(string.ascii_letters + string.digits), int(random.integers(2, 12))))
        draw.text(
            (2, side / 3), text, _colour(random), ImageFont.load_default(max(6, side // int(random.integers(2, 6))))
        )
    else:
        _spotted(draw, side, random)
    layer = layer.rotate(random.uniform(-40, 40), Image.Resampling.BILINEAR, expand=True)
    return layer.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.02 * side + 0.3)))


def _limb(draw: ImageDraw.ImageDraw, side: int, random: np.random.Generator) -> None:
    """An arm with a hand, or a bare shoulder, in a colour of skin that is lighter on one side."""
    skin = np.array(skin_colour(random))
    start, end = random.uniform(0.1, 0.9, 2) * side, random.uniform(0.2, 0.8, 2) * side
    broad = side * random.uniform(0.12, 0.4)
    for shade, share in ((0.7, 1.0), (0.9, 0.75), (1.0, 0.45)):
        fill = tuple(int(value) for value in (skin * shade).clip(0, 255))
        width = max(1, int(broad * share))
        draw.line([*start.tolist(), *end.tolist()], fill=fill, width=width)
        for x, y in (start, end):
            draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=fill)
    for _ in range(int(random.integers(0, 6))):
        tip = end + random.normal(0, 0.2, 2) * side
        draw.line([*end.tolist(), *tip.tolist()], fill=tuple(skin.tolist()), width=max(1, int(0.07 * side)))


def _spotted(draw: ImageDraw.ImageDraw, side: int, random: np.random.Generator) -> None:
    """A round or square body with spots: buttons, sockets, headlights, knobs."""
    body = skin_colour(random) if random.random() < 0.5 else _colour(random)
    margin = random.uniform(0, 0.25, 2) * side
    box = [margin[0], margin[1], side - margin[0], side - margin[1]]
    (draw.ellipse if random.random() < 0.6 else draw.rectangle)(box, fill=body)
    for _ in range(int(random.integers(0, 5))):
        x, y, r = *(random.uniform(0.25, 0.75, 2) * side), random.uniform(0.03, 0.14) * side
        draw.ellipse([x - r, y - r * random.uniform(0.4, 1), x + r, y + r], fill=_colour(random))


def scatter_discs(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """The picture with discs of one size and colour that have marks on them, as coins, fruit or buttons have."""
    draw, radius = ImageDraw.Draw(image), float(np.exp(random.uniform(np.log(12), np.log(60))))
    colour = np.array(_colour(random) if random.random() < 0.5 else skin_colour(random))

    def shade(low: float, high: float) -> tuple[int, ...]:
        return tuple(int(value) for value in (colour * random.uniform(low, high)).clip(0, 255))

    for x, y in random.uniform(0, image.width, (int(random.integers(2, 12)), 2)):
        r = radius * random.uniform(0.8, 1.2)
        draw.ellipse([x - r, y - r, x + r, y + r], fill=shade(0.7, 1.2))
        for across, down in random.normal(0, 0.4, (int(random.integers(0, 9)), 2)) * r:
            mark, left, top = r * random.uniform(0.05, 0.35), x + across, y + down
            kind = draw.ellipse if random.random() < 0.6 else draw.rectangle
            kind([left - mark, top - 0.6 * mark, left + mark, top + 0.6 * mark], fill=shade(0.3, 1.5))
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.4, 1.6)))
