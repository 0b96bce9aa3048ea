"""The skin of a head as maps over its front: colour, and the relief of wrinkles and pores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from trainer.synthetic.noise import NoiseBank
from trainer.synthetic.regions import HEIGHT, SCALE, TOP, WIDTH, Regions

# From light to dark in ten steps, sRGB: spaced as the Monk Skin Tone scale (Monk 2019), with the chroma that skin
# has on photographs.
TONES = np.array(
    [
        (247, 224, 206), (238, 205, 180), (225, 184, 153), (205, 160, 126), (184, 136, 101),
        (160, 112, 78), (135, 90, 60), (108, 70, 47), (82, 52, 36), (58, 38, 28),
    ],
    np.float32,
) / 255  # fmt: skip


# Wrinkles -> action units that deepen them, with their weight at full intensity.
WRINKLE_UNITS: dict[str, dict[int, float]] = {
    "forehead": {1: 0.7, 2: 0.8},
    "glabella": {4: 1.8, 9: 0.2},
    "crows_feet": {6: 1.0, 12: 0.3, 7: 0.3},
    "folds": {12: 0.8, 10: 0.9, 9: 0.9, 6: 0.2, 20: 0.4},
    "nose": {9: 2.0},
    "bags": {6: 0.7, 7: 0.3},
    "mouth_corners": {15: 0.6, 14: 0.7, 20: 0.4},
}


@dataclass(frozen=True)
class Skin:
    """Skin and hair colour of a person.

    Attributes:
        tone: 0 light to 9 dark, an index of TONES.
        age: 0 young to 1 old; decides the depth of wrinkles and the grey of hair.
        hair: sRGB of scalp hair and brows.
        beard: 0 none, 0.5 a shade, 1 a full beard.
        brow_width: half the height of the brows in centimetres.
        brow_bend: factor of the arch of the brows; 0 is straight.
        brow_slope: rise of the brows per centimetre outwards.
        iris: factor of the brightness of eyes that are not brown.
        lip_colour, shadow_colour: sRGB of lipstick and eye shadow.
        brow_density, lip_strength, eye_shadow, freckles, redness, sockets: strengths in 0..1; 0 is none. Sockets are
            the dark skin around the eyes of tired people.
    """

    tone: float
    age: float
    hair: tuple[float, float, float]
    beard: float
    brow_width: float
    brow_density: float
    lip_colour: tuple[float, float, float]
    lip_strength: float
    eye_shadow: float
    shadow_colour: tuple[float, float, float]
    freckles: float
    redness: float
    sockets: float
    brow_bend: float = 1.0
    brow_slope: float = 0.0
    iris: float = 1.0


_HAIR = (
    np.array(
        [(20, 16, 14), (40, 28, 20), (75, 50, 32), (120, 85, 50), (175, 135, 85), (215, 185, 130), (112, 58, 34)],
        np.float32,
    )
    / 255
)


def draw_skin(random: np.random.Generator) -> Skin:
    """Draw the skin and hair colour of a person."""
    tone = random.uniform(0, 9)
    age = random.beta(1.3, 1.6)
    dark = tone > 5 or random.random() < 0.4
    hair = _HAIR[random.choice(3, p=(0.5, 0.35, 0.15)) if dark else random.integers(len(_HAIR))] * random.uniform(
        0.8, 1.2
    )
    if age > 0.6 and random.random() < (age - 0.4):
        hair = hair + (0.75 - hair) * random.uniform(0.3, 0.95)
    bearded = random.random() < 0.36
    made_up = random.random() < 0.35
    lipstick = random.random() < (0.55 if made_up else 0.03)
    red = random.uniform(0.4, 0.85)
    colour = (red, red * random.uniform(0.25, 0.6), red * random.uniform(0.3, 0.65))
    return Skin(
        tone=tone,
        age=age,
        hair=tuple(hair.clip(0, 1).tolist()),
        beard=random.uniform(0.15, 1.0) if bearded and not made_up else 0.0,
        brow_width=random.uniform(0.2, 0.65),
        brow_density=random.uniform(0.3, 1.0),
        lip_colour=colour,
        lip_strength=random.uniform(0.3, 0.8) if lipstick else 0.0,
        eye_shadow=random.uniform(0.2, 0.7) if made_up else 0.0,
        shadow_colour=tuple(random.uniform(0.1, 0.5, 3).tolist()),
        freckles=random.uniform(0.2, 1.0) if random.random() < 0.2 else 0.0,
        redness=random.uniform(0.2, 1.0),
        sockets=random.uniform(0.3, 1.0) if random.random() < 0.25 else 0.0,
    )


def paint(
    skin: Skin, units: dict[int, float], regions: Regions, noise: NoiseBank, random: np.random.Generator
) -> Floats:
    """Draw the maps of one face.

    Args:
        units: action unit -> intensity; they deepen wrinkles.

    Returns:
        (5, HEIGHT, WIDTH): linear RGB reflectance, and the slope of the relief to the right and downwards.
    """

    def grain(size: int, long: int | None = None) -> Floats:
        return noise.cut(random, size, HEIGHT, WIDTH, long=long)

    colour = _complexion(skin, regions, grain, random)
    _make_up(colour, skin, regions)
    hair = 0.75 * np.array(skin.hair, np.float32)
    beard = _beard(skin, regions, grain, random)
    if skin.beard:
        _mix(colour, hair, beard)
    _mix(colour[:, _BROW_ROWS], hair, _brows(skin, regions, grain, random))
    relief = 0.002 * (grain(2) + grain(4)) * (0.4 + skin.age) + 0.02 * beard * grain(1, 6)
    active = [
        sum(units.get(code, 0.0) * depth for code, depth in WRINKLE_UNITS[name].items()) for name in regions.wrinkles
    ]
    rest = (0.012 + 0.05 * skin.age) * skin.age * random.uniform(0.2, 1.8, len(active))
    depth = rest + np.array(active) * (0.035 + 0.07 * skin.age)
    deep = (depth * random.uniform(0.6, 1.3, len(depth))).astype(np.float32)
    relief += np.tensordot(deep, regions.relief, 1)
    colour *= 1 - np.tensordot((1.2 * depth).astype(np.float32), regions.furrows, 1).clip(0, 0.35)
    if units.get(17, 0) > 0.3:
        relief = relief + 0.03 * units[17] * regions.chin * grain(4)
    down, right = np.gradient(relief * regions.flat)
    linear = colour.clip(0.03, 1)
    linear = linear * linear * (0.65 * linear + 0.35)  # close to the sRGB curve, and faster
    return np.concatenate([linear, SCALE * right[None], SCALE * down[None]])


Grain: TypeAlias = Callable[..., Floats]


def _complexion(skin: Skin, regions: Regions, grain: Grain, random: np.random.Generator) -> Floats:
    """(3, HEIGHT, WIDTH) sRGB of bare skin."""
    low, share = int(min(skin.tone, 8)), skin.tone - int(min(skin.tone, 8))
    base = TONES[low] * (1 - share) + TONES[low + 1] * share
    base = 0.95 * base * random.uniform(0.97, 1.03, 3).astype(np.float32)
    shade = 1 + 0.025 * grain(32) + 0.015 * grain(8) + 0.01 * grain(4)
    colour: Floats = base[:, None, None] * shade
    blood = skin.redness * regions.blood * (1 + 0.3 * grain(16))
    colour *= 1 - blood * np.array([0.02, 0.16, 0.13], np.float32)[:, None, None]
    if skin.freckles:
        spots = (grain(2) + 0.6 * grain(4) > 1.9 - 0.5 * skin.freckles) * (regions.cheeks + regions.nose).clip(0, 1)
        colour *= 1 - 0.2 * skin.freckles * spots
    _mix(colour, base * (0.88, 0.62, 0.6), (0.45 + 0.35 * skin.redness) * regions.lips)
    colour *= 1 - (0.08 + 0.12 * skin.age + 0.25 * skin.sockets) * regions.eye_rims
    return colour


def _make_up(colour: Floats, skin: Skin, regions: Regions) -> None:
    """Add lipstick, eye shadow and liner; everybody has lashes."""
    if skin.lip_strength:
        _mix(colour, skin.lip_colour, skin.lip_strength * regions.lips)
    if skin.eye_shadow:
        lid = regions.eye_rims * (regions.y > 3.3)
        _mix(colour, skin.shadow_colour, 0.6 * skin.eye_shadow * lid)
    liner = np.exp(-((regions.lid_line / (0.07 + 0.1 * skin.eye_shadow)) ** 2))
    colour *= 1 - (0.55 + 0.35 * skin.eye_shadow) * liner


def _beard(skin: Skin, regions: Regions, grain: Grain, random: np.random.Generator) -> Floats:
    """(HEIGHT, WIDTH) share of beard: from an even shade of stubble to dense hair."""
    if not skin.beard:
        return np.zeros((HEIGHT, WIDTH), np.float32)
    kind = random.choice(6, p=(0.4, 0.15, 0.1, 0.1, 0.15, 0.1))
    goatee = np.maximum(regions.beard * regions.chin, regions.moustache)
    walrus = np.maximum(regions.moustache, regions.overhang)  # covers the upper lip
    where = (
        regions.beard, goatee, regions.moustache, np.maximum(0.5 * regions.beard, goatee),
        np.maximum(regions.beard, walrus), walrus,
    )[kind]  # fmt: skip
    edge = (1.6 * where + 0.12 * grain(8) - 0.25).clip(0, 1) * (where > 0.02)
    hairs = 1 + (0.4 - 0.25 * skin.beard) * grain(1, 6) + 0.12 * grain(4)
    return (edge * hairs * (0.15 + 0.8 * skin.beard)).clip(0, 0.93)


def _mix(colour: Floats, other: npt.ArrayLike, share: Floats) -> None:
    """Move a share of each pixel of (3, H, W) towards another colour, in place."""
    colour += (np.asarray(other, np.float32)[:, None, None] - colour) * share


_BROW_ROWS = slice(*((TOP - np.array([8.4, 4.2])) * SCALE).astype(int))


def _brows(skin: Skin, regions: Regions, grain: Grain, random: np.random.Generator) -> Floats:
    """Share of brow in the rows `_BROW_ROWS`."""
    lift, bend, slant = random.normal(0, 0.18), random.uniform(0.75, 1.3), random.normal(0, 0.05)
    bend, slant = bend * skin.brow_bend, slant + skin.brow_slope
    lines = []
    for line in regions.brow_lines:
        middle = line.mean(axis=0)
        points = (line - middle) * (1.0, bend) + middle + (0, lift - 0.1)
        points[:, 1] += slant * (np.abs(line[:, 0]) - abs(middle[0]))
        lines.append(points.astype(np.float32))
    distance = regions.distance(lines, _BROW_ROWS)
    edges, fine, long = (grain(*grains)[_BROW_ROWS] for grains in ((1, 6), (2,), (1, 6)))
    taper = 1 - 0.45 * ((np.abs(regions.x[_BROW_ROWS]) - 1.2) / 4.6).clip(0, 1)
    edge = 0.5 - 0.5 * np.tanh((distance - skin.brow_width * taper + 0.06 * edges) / 0.16)
    hairs = (0.5 + 0.5 * np.tanh(0.35 * fine + 0.45 * long + 3.0 * skin.brow_density)).clip(0, 1)
    share: Floats = (edge * hairs * (0.45 + 0.5 * skin.brow_density)).clip(0, 0.95)
    return share
