"""One rendered face as the data set holds it: cropped as by a detector, photographed, labelled by what is visible."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from sdk.faces.preprocess import LANDMARK_WINDOW
from trainer.synthetic import portraits
from trainer.synthetic.expression import Expression, draw_emotion, draw_units
from trainer.synthetic.questions import Facts
from trainer.synthetic.scene import Render, Studio, render

SIDE = 224  # pixels of the pictures that are written
EMOTION_SHARE = 0.7  # of faces drawn for an emotion; the others combine units freely
FACE_SCALE = 1.5  # the landmark network sees exactly the crop
# dlib's box of a face: a square whose side is this multiple of the geometric mean of the extent of the 68 landmarks,
# and whose centre is above their mean by this share of its side. Measured on 300 renders, of which dlib finds 259.
BOX_SIDE, BOX_RISE = 1.11, 0.048
PARTED_LIPS = 0.14  # centimetres between the inner lips from which AU25 is present, whichever action parted them
WIDE_LIPS = 1.5  # centimetres at intensity 1 of AU25; alone it parts the lips by 0.3 to 1.3, with AU26 by 0.9 to 2.2
# Centimetres between the lids: AU43 is present below the first, absent above the second.
SHUT_EYES, OPEN_EYES = 0.1, 0.2


@dataclass(frozen=True)
class RenderedFace:
    """One rendered face and its labels.

    Attributes:
        image: JPEG bytes of the (224, 224) face crop.
        landmarks: (212,) x, y of 106 points where -1 and 1 are the borders of the landmark network's window.
        facts: what the scene shows; its expression is the one that was drawn, with AU25 and AU43 as the geometry shows
            them.
        about: further facts: pose, skin tone, age and the labels.
    """

    image: bytes
    landmarks: npt.NDArray[np.float32]
    facts: Facts
    about: dict[str, Any]


def render_face(studio: Studio, random: np.random.Generator, portrait: bool = False) -> RenderedFace:
    """Draw an expression, render a person with it, and crop the face as the detector would.

    Args:
        portrait: draw a calm face, or a clear expression of such a person, see `portraits`.
    """
    if random.random() < (portraits.EMOTION_SHARE if portrait else EMOTION_SHARE):
        expression = portraits.draw_portrait(random) if portrait else draw_emotion(random)
    else:
        expression = draw_units(random)
    picture = render(studio, expression, random, portrait=portrait)
    expression = as_visible(expression, picture)
    left, top, side = _inside(*detected_crop(picture, random), studio.size)
    box = (left, top, left + side, top + side)
    crop = Image.fromarray(picture.image).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    window = side / FACE_SCALE * LANDMARK_WINDOW
    centre = np.array([left + side / 2, top + side / 2], np.float32)
    # A render counts pixels from the centre of the first, `box` and the window from its corner.
    points = (picture.points + 0.5 - centre) / (window / 2)
    about = {
        "emotion": expression.emotion,
        "units": expression.units,
        "tone": round(picture.skin.tone, 2),
        "age": round(picture.skin.age, 2),
        **{angle: round(getattr(picture, angle), 1) for angle in ("yaw", "pitch", "roll")},
    }
    facts = Facts(expression, picture.worn, picture.skin.beard, picture.covered, picture.yaw, picture.roll)
    return RenderedFace(_photograph(crop, random), points.reshape(-1).astype(np.float32), facts, about)


def as_visible(expression: Expression, picture: Render) -> Expression:
    """The visible part of an expression: without hidden units, AU25 and AU43 by the geometry, no AU7 with shut lids.

    Raised lips and a dropped jaw part the lips too. A broad smile shuts the eyes of some people.
    """
    units = dict(expression.units)
    if picture.lip_gap >= PARTED_LIPS:
        units[25] = float(np.clip(picture.lip_gap / WIDE_LIPS, 0.35, 1.0))
    else:
        units.pop(25, None)
    if picture.lid_gap < SHUT_EYES:
        units.setdefault(43, 1.0)
        units.pop(7, None)  # shut lids do not show that they are tight
    elif picture.lid_gap > OPEN_EYES:
        units.pop(43, None)
    units = {code: intensity for code, intensity in units.items() if code not in picture.hidden}
    return Expression(units, expression.sides, expression.emotion)


def detected_crop(picture: Render, random: np.random.Generator) -> tuple[float, float, float]:
    """Left, top and side of the crop as from dlib's face box.

    The sides of dlib's boxes spread by 0.09, their centres by 0.034 and 0.043 sides. What is drawn here spreads more,
    to cover other detectors.
    """
    marks = picture.landmarks68
    side = BOX_SIDE * float(np.sqrt(np.prod(np.ptp(marks, axis=0)))) * float(np.exp(random.normal(0, 0.14)))
    x, y = marks.mean(axis=0) + side * np.array([random.normal(0, 0.05), random.normal(-BOX_RISE, 0.05)])
    whole = side * FACE_SCALE
    return float(x - whole / 2), float(y - whole / 2), whole


def _inside(left: float, top: float, side: float, size: int) -> tuple[float, float, float]:
    """The square moved, and shrunk if necessary, to lie inside the picture."""
    side = min(side, size)
    left, top = (float(np.clip(start, 0, size - side)) for start in (left, top))
    return left, top, side


def _photograph(picture: Image.Image, random: np.random.Generator) -> bytes:
    """JPEG bytes with the defects of cameras and web sites: colour, blur, low resolution, noise, compression."""
    if random.random() < 0.5:
        picture = ImageEnhance.Color(picture).enhance(random.uniform(0.3, 1.3))
    if random.random() < 0.12:
        picture = picture.convert("L").convert("RGB")
    if random.random() < 0.5:
        picture = ImageEnhance.Contrast(picture).enhance(random.uniform(0.6, 1.4))
    if random.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.8)))
    elif random.random() < 0.3:
        picture = picture.filter(ImageFilter.UnsharpMask(random.uniform(0.8, 2.5), int(random.integers(30, 100)), 0))
    if random.random() < 0.3:
        small = int(SIDE * random.uniform(0.16, 0.8))
        picture = picture.resize((small, small), Image.Resampling.BILINEAR).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
    levels = np.arange(256, dtype=np.float32) * (1 + random.normal(0, 0.04, (3, 1)).astype(np.float32))
    levels = 255 * (levels.clip(0, 255) / 255) ** random.uniform(0.75, 1.3)
    values = np.stack([row[np.asarray(band)] for row, band in zip(levels, picture.split(), strict=True)], axis=2)
    if random.random() < 0.5:
        values = values + random.uniform(1, 9) * random.standard_normal(values.shape, np.float32)
    buffer = io.BytesIO()
    quality = int(random.integers(45, 96))
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
