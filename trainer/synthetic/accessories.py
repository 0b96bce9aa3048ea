"""What a person wears and holds in front of the face: glasses, the brim of a hat, a hand, other objects."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from sdk.arrays import Floats
from trainer.synthetic.backdrop import draw_colour
from trainer.synthetic.hair import Cut

_DARK_LENSES = 200  # opacity from which eyes are not visible
_EYE_UNITS = frozenset((5, 7, 43))
_EYES, _MOUTH = (slice(36, 42), slice(42, 48)), slice(48, 60)
_EDGES = (0, 1, 2, 14, 15, 16, 7, 8, 9)  # landmarks of the jaw line where an object may be
_HELD = (3, 4, 5, 6, 10, 11, 12, 13)  # landmarks of the jaw line that a hand may touch


@dataclass(frozen=True)
class Accessories:
    """What hides parts of a face.

    Attributes:
        lenses: opacity of the lenses, 0..255, or None for no glasses.
        temples: whether the glasses have them; a pince-nez has none.
        brim: whether a hat shades the eyes.
        hand, object: whether one is in front of the face.
    """

    lenses: int | None
    temples: bool
    brim: bool
    hand: bool
    object: bool

    @property
    def dark_glasses(self) -> bool:
        return self.lenses is not None and self.lenses > _DARK_LENSES

    @property
    def hidden(self) -> frozenset[int]:
        """Action units that are not visible behind them."""
        return _EYE_UNITS if self.dark_glasses else frozenset()


def draw_accessories(cut: Cut, random: np.random.Generator) -> Accessories:
    """Draw what a person with a style of hair wears and holds."""
    lenses = int(random.choice((0, 25, 70, 225, 252), p=(0.55, 0.15, 0.1, 0.1, 0.1)))
    glasses, brim, hand, thing = random.random(4) < (0.22, 0.55 if cut == "cap" else 0.04, 0.07, 0.04)
    return Accessories(lenses if glasses else None, random.random() > 0.08, bool(brim), bool(hand), bool(thing))


def wear(picture: Image.Image, marks: Floats, worn: Accessories, random: np.random.Generator) -> None:
    """Draw accessories into the picture.

    Args:
        marks: (68, 2) landmarks in pixels.
    """
    frame = _Frame(marks)
    if worn.brim:
        _brim(picture, frame, random)
    layer = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(layer)
    if worn.lenses is not None:
        _glasses(draw, frame, worn.lenses, worn.temples, random)
    if worn.object:
        _object(draw, frame, random)
    if worn.hand:
        _hand(draw, picture, frame, random)
    if box := layer.getbbox():
        left, top = box[0] - 3, box[1] - 3  # as far as the blur reaches
        layer = layer.crop((left, top, box[2] + 3, box[3] + 3)).filter(ImageFilter.GaussianBlur(0.7))
        picture.paste(layer, (left, top), mask=layer)


class _Frame:
    """Size and directions of a face in a picture, by its landmarks.

    Attributes:
        marks: (68, 2).
        width: of the jaw line in pixels; of a profile, what it would be from the front.
        along, down: unit vectors from eye to eye and towards the chin.
    """

    def __init__(self, marks: Floats) -> None:
        self.marks = marks
        height = float(np.linalg.norm(marks[27] - marks[8]))
        self.width = max(float(np.ptp(marks[:17, 0])), 1.1 * height, 1.0)
        across = marks[_EYES[1]].mean(axis=0) - marks[_EYES[0]].mean(axis=0)
        self.along = across / max(float(np.linalg.norm(across)), 1.0)
        self.down = np.array([-self.along[1], self.along[0]])

    def away(self, place: Floats) -> float:
        """Pixels from a place to the nearest of eyes and mouth."""
        return min(float(np.hypot(*(self.marks[part].mean(axis=0) - place))) for part in (_MOUTH, *_EYES))


def _colour(values: npt.ArrayLike) -> tuple[int, int, int, int]:
    red, green, blue = (int(value) for value in np.asarray(values, float).clip(0, 255))
    return red, green, blue, 255


def _points(places: npt.ArrayLike) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(places)]


def _object(draw: ImageDraw.ImageDraw, frame: _Frame, random: np.random.Generator) -> None:
    """Something that covers an edge of the face."""
    x, y = frame.marks[random.choice(_EDGES)] + random.normal(0, 0.05 * frame.width, 2)
    r = max(min(random.uniform(0.1, 0.35) * frame.width, frame.away(np.array([x, y])) - 0.2 * frame.width), 1)
    draw.ellipse([x - r, y - 1.3 * r, x + r, y + r], fill=_colour(255 * draw_colour(random)))


def _hand(draw: ImageDraw.ImageDraw, picture: Image.Image, frame: _Frame, random: np.random.Generator) -> None:
    """Two to four fingers that touch the jaw or the cheek, in the colour of the face, and the hand below them."""
    place = frame.marks[random.choice(_HELD)] + random.normal(0, 0.04 * frame.width, 2)
    x, y = (int(value) for value in np.clip(frame.marks[30], 1, np.array(picture.size) - 2))
    skin = np.asarray(picture.crop((x - 1, y - 1, x + 2, y + 2)), float).mean(axis=(0, 1)) * random.uniform(0.75, 1.05)
    lean = frame.marks[30] - place
    up = lean / max(float(np.linalg.norm(lean)), 1.0) - (1.0 + random.normal(0, 0.4)) * frame.down
    up = up / max(float(np.linalg.norm(up)), 1e-3)
    beside = np.array([-up[1], up[0]])
    thick, count = random.uniform(0.085, 0.12) * frame.width, int(random.integers(2, 5))
    reach = min(0.3 * frame.width, max(frame.away(place) - 0.22 * frame.width, 0.05 * frame.width))
    palm = place - up * 0.55 * frame.width
    for shade, share in ((0.55, 1.0), (0.85, 0.86), (1.0, 0.62), (1.08, 0.3)):
        colour, broad = _colour(skin * shade), thick * share
        for finger in range(count):
            offset = (finger - (count - 1) / 2) * thick * 1.02
            bend = 0.12 * frame.width * (0.6 - abs(finger - (count - 1) / 2) * 0.35)
            tip, root = place + up * (reach + bend) + beside * offset, palm + beside * offset
            draw.line(_points([root, tip]), fill=colour, width=max(1, round(broad)))
            r = broad / 2
            draw.ellipse([tip[0] - r, tip[1] - r, tip[0] + r, tip[1] + r], fill=colour)
        half = (count / 2 + 0.35) * thick - (thick - broad) / 2
        corners = [palm - beside * half, palm + beside * half, palm + beside * half * 1.1 - up * frame.width]
        draw.polygon(_points([*corners, palm - beside * half * 1.1 - up * frame.width]), fill=colour)


def _brim(picture: Image.Image, frame: _Frame, random: np.random.Generator) -> None:
    """The brim of a hat above the brows, and its shadow on the face."""
    brows, width = frame.marks[17:27].mean(axis=0), frame.width
    height, broad = random.uniform(0.05, 0.2) * width, random.uniform(0.5, 0.75) * width
    middle, sag = brows - frame.down * (height + 0.1 * width), random.uniform(-0.08, 0.12) * width
    across = np.linspace(-1, 1, 15)[:, None]
    edge = middle + across * broad * frame.along + frame.down * (sag * (1 - across**2) + 0.04 * width)
    crown = middle + across[::-1] * broad * frame.along - frame.down * (0.25 * width * (1 - 0.7 * across**2))
    shade = Image.new("L", picture.size)
    below = [*edge, *(edge[::-1] + frame.down * random.uniform(0.1, 0.5) * width)]
    ImageDraw.Draw(shade).polygon(_points(below), fill=int(random.uniform(40, 150)))
    picture.paste((0, 0, 0), mask=shade.filter(ImageFilter.GaussianBlur(0.03 * width)))
    cover = Image.new("L", picture.size)
    ImageDraw.Draw(cover).polygon(_points([*edge, *crown]), fill=255)
    cloth = tuple(int(value) for value in 255 * draw_colour(random) * random.uniform(0.3, 0.9))
    picture.paste(cloth, mask=cover.filter(ImageFilter.GaussianBlur(0.7)))


def _glasses(draw: ImageDraw.ImageDraw, frame: _Frame, opaque: int, temples: bool, random: np.random.Generator) -> None:
    marks, along, down, width = frame.marks, frame.along, frame.down, frame.width
    colour = (*random.integers(0, 90, 3).tolist(), 255)
    thick = max(1, round(width * random.uniform(0.008, 0.03)))
    half = np.array([random.uniform(0.15, 0.19), random.uniform(0.1, 0.15)]) * width
    tinted = (*random.integers(0, 60, 3).tolist(), opaque)
    eyes = [marks[part] for part in _EYES]
    # A lens is as foreshortened as the eye behind it, which is a fifth of the face's width from the front.
    shares = [float(np.clip(np.ptp(eye @ along) / (0.185 * width), 0.25, 1)) for eye in eyes]
    power = random.choice((2.0, 2.5, 4.0, 6.0))
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    circle /= (np.abs(circle) ** power).sum(axis=1, keepdims=True) ** (1 / power)
    centres, rise = [eye.mean(axis=0) for eye in eyes], -0.25 * half[1] * down
    for centre, share in zip(centres, shares, strict=True):
        rim = _points([centre + along * half[0] * share * c + down * half[1] * s for c, s in circle])
        draw.polygon(rim, fill=tinted)
        draw.line([*rim, rim[0]], fill=colour, width=thick)
    inner = [
        centre + sign * half[0] * share * along for centre, share, sign in zip(centres, shares, (1, -1), strict=True)
    ]
    draw.line(_points([inner[0] + rise, inner[1] + rise]), fill=colour, width=thick)
    if not temples:
        return
    for centre, share, end, sign in zip(centres, shares, (marks[0], marks[16]), (-1, 1), strict=True):
        hinge = centre + sign * half[0] * share * along
        if sign * float((end - hinge) @ along) > 0:
            draw.line(_points([hinge + rise, end - 0.05 * width * down]), fill=colour, width=thick)
