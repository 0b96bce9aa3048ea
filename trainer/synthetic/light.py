"""Light of the visible points: sky and ground, one to three lamps, a cast shadow, gloss and exposure."""

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from trainer.synthetic.raster import lit_fraction, rasterise

MIRROR_GLOSS = 0.3  # from which a surface mirrors the lamps, as eyes do
_ABSORBED = np.array([0.0, 0.1, 0.13], np.float32)[:, None]  # skin transmits red light at grazing angles


def illuminate(
    normal: Floats,
    place: Floats,
    posed: Floats,
    triangles: npt.NDArray[np.int32],
    openness: Floats,
    gloss: Floats,
    albedo: Floats,
    random: np.random.Generator,
) -> Floats:
    """(3, N) linear light of each visible point.

    Args:
        normal, place: (3, N) unit normals and positions, posed.
        posed, triangles: the mesh, which casts the shadow of the first lamp.
        openness: (N,) visible share of the surroundings of each point.
        gloss, albedo: (N,) and (3, N) of the points.
    """
    warm = random.normal(0, 0.07)
    white = np.array([1 + warm, 1.0, 1 - warm], np.float32)
    hard = random.random() < 0.3  # one strong lamp above or beside the head, which leaves eyes or half of the face dark
    sky, ground = white * random.uniform(0.15 if hard else 0.3, 0.45 if hard else 0.9), white * random.uniform(0.1, 0.5)
    light = (ground[:, None] + (sky - ground)[:, None] * (normal[1] * 0.5 + 0.5)) * openness
    shine, wet = np.zeros_like(gloss), gloss > MIRROR_GLOSS
    for index in range(random.integers(1, 4)):
        first = index == 0
        towards = _hard_direction(random) if hard and first else _soft_direction(random)
        strength = random.uniform(0.3, 1.3) * (1.4 if hard and first else 1.0 if first else 0.5)
        cosine = towards @ normal
        wrap = np.clip((cosine + 0.2) / 1.2, 0, 1)
        lit: Floats | np.float32 = np.float32(1)
        if first and random.random() < (0.9 if hard else 0.6):
            facing = (3 * cosine - 0.15).clip(
                0, 1
            )  # surfaces turned away are dark already, and their shadow is inexact
            lit = 1 - (1 - _lit(place, posed, triangles, towards)) * facing
        hue = white * (1 + random.normal(0, 0.05, 3).astype(np.float32))
        red = 1 - _ABSORBED * (1 - wrap)
        light += (strength * hue)[:, None] * red * (wrap * lit * (0.35 + 0.65 * openness))
        half = towards + np.array([0, 0, 1], np.float32)
        half /= np.linalg.norm(half)
        mirrored = np.clip(half @ normal, 1e-6, 1)
        shine += strength * lit * np.exp(random.uniform(10, 40) * np.log(mirrored)) * gloss
        shine[wet] += 2.5 * strength * mirrored[wet] ** 600
    irradiance, grey = float(light[1].mean()), float(albedo.mean())
    exposure = 0.95 * random.uniform(0.7, 1.3) / max(irradiance, 0.02) * (max(grey, 0.02) / 0.4) ** -0.4
    bright = exposure * (albedo * light + 0.25 * white[:, None] * shine)
    shouldered: Floats = np.where(bright > 0.6, 1 - 0.4 * np.exp((0.6 - bright) / 0.4), bright)  # as cameras do
    return shouldered


def _soft_direction(random: np.random.Generator) -> Floats:
    towards = np.array([random.normal(0, 0.7), random.normal(0.4, 0.45), random.uniform(0.4, 1.2)], np.float32)
    direction: Floats = towards / np.linalg.norm(towards)
    return direction


def _hard_direction(random: np.random.Generator) -> Floats:
    """From above, or from one side."""
    above = random.random() < 0.6
    aside = random.normal(0, 0.3) if above else float(random.choice((-1.0, 1.0)))
    towards = np.array([aside, 1.0 if above else random.normal(0.2, 0.3), random.uniform(0.1, 0.6)], np.float32)
    direction: Floats = towards / np.linalg.norm(towards)
    return direction


def _lit(place: Floats, posed: Floats, triangles: npt.NDArray[np.int32], towards: Floats) -> Floats:
    """(N,) visible share of a lamp from each point."""
    side = np.cross(np.array([0, 1, 0], np.float32), towards)
    side /= np.linalg.norm(side)
    frame = np.stack([side, -np.cross(towards, side), -towards]).astype(np.float32)
    cells, per_cm = 112, 112 / 40
    screen = posed @ frame.T
    screen[:, :2] = screen[:, :2] * per_cm + cells / 2
    _, depth = rasterise(screen, triangles, cells)
    return lit_fraction(frame @ place, np.ascontiguousarray(depth[..., 3]), per_cm, 0.9)


def under_lids(eyes: npt.NDArray[np.bool_]) -> Floats:
    """(S, S) share of light that reaches eyeballs: low under the upper lid, reduced at every edge; 1 elsewhere."""
    rows, columns = np.nonzero(eyes)

    def shifted(down: int, right: int) -> npt.NDArray[np.bool_]:
        return eyes[(rows - down) % len(eyes), (columns - right) % len(eyes)]

    above = sum(weight * shifted(down, 0) for down, weight in ((1, 0.3), (2, 0.25), (3, 0.2), (5, 0.15), (7, 0.1)))
    aside = 0.25 * sum(shifted(*shift).astype(np.float32) for shift in ((-2, 0), (0, 2), (0, -2), (0, 4)))
    open_ = np.ones(eyes.shape, np.float32)
    open_[rows, columns] = (0.12 + 0.88 * above) * (0.55 + 0.45 * aside)
    return open_
