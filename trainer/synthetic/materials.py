"""Reflectance and gloss of the visible points: hair, cloth, eyes, teeth, gums or skin."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from trainer.synthetic.hair import HairStyle, strands
from trainer.synthetic.noise import NoiseBank
from trainer.synthetic.skin import Skin

SKIN, EYE, TEETH, GUM, DARK = range(5)
KIND = {"skin": SKIN, "mouth": DARK, "eye_socket": DARK, "gums": GUM, "teeth": TEETH, "eye_left": EYE, "eye_right": EYE}
_IRIS = [
    (0.05, 0.025, 0.015),
    (0.04, 0.02, 0.012),
    (0.12, 0.06, 0.03),
    (0.14, 0.11, 0.05),
    (0.09, 0.14, 0.19),
    (0.12, 0.16, 0.11),
]
_TOOTH_EDGES = (0.0, 0.85, 1.5, 2.2, 2.75)  # centimetres from the middle


@dataclass(frozen=True)
class Clothes:
    """Clothes on the shoulders.

    Attributes:
        neckline: height of its edge in the middle, in centimetres at rest (chin at -7.6).
        opening: rise of the edge per centimetre to the side.
        colour, second: sRGB of the cloth and of its pattern.
        stripes: (across, down) per centimetre; (0, 0) for plain cloth.
    """

    neckline: float
    opening: float
    colour: tuple[float, float, float]
    second: tuple[float, float, float]
    stripes: tuple[float, float]


def draw_clothes(random: np.random.Generator, colour: npt.ArrayLike, second: npt.ArrayLike) -> Clothes:
    """Draw clothes in the given colours."""
    across, down = (float(random.choice((0.0, random.uniform(1, 4)))) for _ in range(2))
    return Clothes(
        neckline=random.uniform(-15.5, -9.2),
        opening=float(random.choice((0.08, random.uniform(0.4, 1.3)))),
        colour=tuple(np.asarray(colour, float).tolist()),
        second=tuple(np.asarray(second, float).tolist()),
        stripes=(across, down) if random.random() < 0.3 else (0.0, 0.0),
    )


def materials(
    kind: npt.NDArray[np.int32],
    rest: Floats,
    bare: Floats,
    hairy: Floats,
    mask: npt.NDArray[np.bool_],
    skin: Skin,
    style: HairStyle,
    clothes: Clothes,
    noise: NoiseBank,
    random: np.random.Generator,
) -> tuple[Floats, Floats]:
    """(3, N) reflectance and (N,) gloss of the visible points.

    Args:
        kind, rest: (N,) part of the head, and (3, N) place on the mean face.
        bare, hairy: (3, N) reflectance of bare skin, and (N,) share of hair.
        mask: (S, S) the pixels of the points.
    """
    albedo, gloss = bare.copy(), np.full(len(kind), random.uniform(0.03, 0.28), np.float32)
    on_skin = kind == SKIN
    cover, covered = _cloth(rest, on_skin, mask, clothes, noise, random)
    albedo += (cover - albedo) * covered
    worn, streaks = np.flatnonzero((hairy > 0.02) | (covered > 0.5)), np.zeros_like(gloss)
    streaks[worn] = strands(style, rest[:, worn], noise, random)
    grain = 0.06 * noise.cut(random, 2, *mask.shape)[mask] if style.is_cloth else 0.22 * streaks
    soft = 0.02 if style.is_cloth else 0.22
    edge = ((hairy - 0.5 + soft * streaks * (hairy > 0.02)) * (8 if style.is_cloth else 2.6) + 0.5).clip(0, 1) * on_skin
    base = np.array(style.cloth if style.is_cloth else skin.hair, np.float32) ** 2.2
    albedo += (base[:, None] * (1 + grain).clip(0.35, 2) + (0 if style.is_cloth else 0.006) - albedo) * edge
    gloss = np.where(covered + edge > 0.5, 0.02 if style.is_cloth else 0.1 + 0.08 * streaks.clip(-1, 2), gloss)
    gum = np.array([[0.42], [0.13], [0.13]], np.float32) * random.uniform(0.7, 1.1)
    for code, shine in ((EYE, 0.32), (TEETH, 0.25), (GUM, 0.2), (DARK, 0.03)):
        here = np.flatnonzero(kind == code)  # faster than the mask
        places = rest[:, here].T
        albedo[:, here] = (
            _eye(places, skin, random).T if code == EYE else _teeth(places, random).T if code == TEETH else gum
        )
        gloss[here] = shine
    albedo[:, kind == DARK] *= 0.45
    return albedo, gloss


def _cloth(
    rest: Floats,
    on_skin: npt.NDArray[np.bool_],
    mask: npt.NDArray[np.bool_],
    clothes: Clothes,
    noise: NoiseBank,
    random: np.random.Generator,
) -> tuple[Floats, Floats]:
    """(3, N) reflectance of the clothes, and (N,) their share."""
    x, y, _ = rest
    height = y - clothes.neckline - clothes.opening * np.abs(x)
    inside = (-height * 6 + 0.5).clip(0, 1) * on_skin
    first, second = (np.array(colour, np.float32)[:, None] ** 2.2 for colour in (clothes.colour, clothes.second))
    pattern = np.zeros_like(x)
    for place, frequency in ((x, clothes.stripes[0]), (y, clothes.stripes[1])):
        pattern = np.maximum(pattern, np.sin(place * frequency * 2) > 0.3) if frequency else pattern
    coarse, fine = (noise.cut(random, grain, *mask.shape)[mask] for grain in (32, 2))
    folds = 1 + 0.14 * coarse + 0.04 * fine
    rim = 1 - 0.4 * np.exp(-(((height + 0.25) / 0.18) ** 2))
    return (first + (second - first) * pattern) * (folds * rim), inside


def _eye(rest: Floats, skin: Skin, random: np.random.Generator) -> Floats:
    """(N, 3) reflectance of the eyeballs at (N, 3) places: sclera, reddish in the corners, iris with a rim, pupil."""
    side = np.where(rest[..., 0] > 0, 3.13, -3.13)
    off = np.hypot(rest[..., 0] - side, rest[..., 1] - 3.52)
    brown = skin.tone > 4.5 or max(skin.hair) < 0.2
    colours = _IRIS[:3] if brown else _IRIS
    iris = np.array(colours[random.integers(len(colours))], np.float32) * random.uniform(0.7, 1.2)
    iris *= 1.0 if brown else skin.iris
    white = np.array([0.56, 0.49, 0.46], np.float32) * random.uniform(0.75, 1.12) * (1 - 0.03 * skin.tone)
    corners = ((off - 0.75) / 0.8).clip(0, 1)[..., None] * np.array([0.15, 0.4, 0.42], np.float32)
    radius = random.uniform(0.6, 0.68)
    inside = 0.5 - 0.5 * np.tanh((off - radius) / 0.035)
    ring = np.exp(-(((off - radius + 0.05) / 0.07) ** 2))
    colour = iris * (0.6 + 0.7 * off[..., None]) * (1 - 0.6 * ring[..., None])
    eye = white * (1 - corners) * (1 - inside[..., None]) + colour * inside[..., None]
    pupil = 0.5 - 0.5 * np.tanh((off - random.uniform(0.2, 0.34)) / 0.03)
    reflectance: Floats = (eye * (1 - 0.95 * pupil[..., None])).astype(np.float32)
    return reflectance


def _teeth(rest: Floats, random: np.random.Generator) -> Floats:
    """(N, 3) reflectance of the teeth at (N, 3) places, darker between two teeth."""
    across = np.abs(rest[..., 0])
    gap = np.min([np.abs(across - edge) for edge in _TOOTH_EDGES], axis=0)
    tooth = np.array([0.84, 0.8, 0.71], np.float32) * random.uniform(0.75, 1.05)
    shade = 1 - random.uniform(0.08, 0.4) * np.exp(-((gap / 0.07) ** 2))
    reflectance: Floats = (tooth * shade[..., None]).astype(np.float32)
    return reflectance
