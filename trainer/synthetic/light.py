"""How bright each visible point is: sky and ground, one to three lamps, a cast shadow, gloss, exposure."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .raster import lit_fraction, rasterise

Floats: TypeAlias = npt.NDArray[np.float32]

WET = 0.3  # gloss from which on a surface mirrors the lamps, as eyes do


def illuminate(
    normal: Floats,
    place: Floats,
    posed: Floats,
    triangles: npt.NDArray[np.int32],
    openness: Floats,
    gloss: Floats,
    albedo: Floats,
    mask: Floats,
    random: np.random.Generator,
) -> Floats:
    """(S, S, 3) linear light that comes from each pixel.

    Args:
        normal, place: (S, S, 3) unit normals and positions, posed.
        posed, triangles: the mesh, which casts the shadow of the first lamp.
        openness: (S, S) share of the surroundings that each point sees.
        gloss, albedo, mask: (S, S), (S, S, 3) and (S, S) of what is seen.
    """
    warm = random.normal(0, 0.07)
    white = np.array([1 + warm, 1.0, 1 - warm], np.float32)
    up = normal[..., 1:2] * 0.5 + 0.5
    sky, ground = white * random.uniform(0.3, 0.9), white * random.uniform(0.1, 0.5)
    light = (ground + (sky - ground) * up) * openness[..., None]
    shine, wet = np.zeros(normal.shape[:2], np.float32), gloss > WET
    for index in range(random.integers(1, 4)):
        towards = np.array([random.normal(0, 0.7), random.normal(0.4, 0.45), random.uniform(0.4, 1.2)])
        towards = (towards / np.linalg.norm(towards)).astype(np.float32)
        strength = random.uniform(0.3, 1.3) * (1.0 if index == 0 else 0.5)
        cosine = normal @ towards
        wrap = np.clip((cosine + 0.2) / 1.2, 0, 1)
        lit: Floats | np.float32 = np.float32(1)
        if index == 0 and random.random() < 0.6:
            facing = (3 * cosine - 0.15).clip(0, 1)  # what turns away is dark already, and its shadow uncertain
            lit = 1 - (1 - _lit(place, posed, triangles, towards)) * facing
        hue = white * (1 + random.normal(0, 0.05, 3).astype(np.float32))
        red = np.array([1.0, 0.9, 0.87], np.float32) ** (1 - wrap)[..., None]
        light = light + strength * (wrap * lit)[..., None] * hue * red * (0.35 + 0.65 * openness[..., None])
        half = towards + np.array([0, 0, 1], np.float32)
        half /= np.linalg.norm(half)
        mirrored = np.clip(normal @ half, 0, 1)
        shine += strength * lit * mirrored ** random.uniform(10, 40) * gloss
        shine[wet] += 2.5 * strength * mirrored[wet] ** 600
    seen = mask.sum()
    irradiance, grey = (float((part * mask).sum() / seen) for part in (light[..., 1], albedo.mean(axis=2)))
    exposure = 0.95 * random.uniform(0.7, 1.3) / max(irradiance, 0.02) * (max(grey, 0.02) / 0.4) ** -0.4
    bright = exposure * (albedo * light + 0.25 * shine[..., None] * white)
    return np.where(bright > 0.6, 1 - 0.4 * np.exp((0.6 - bright) / 0.4), bright)  # a camera's soft shoulder


def _lit(place: Floats, posed: Floats, triangles: npt.NDArray[np.int32], towards: Floats) -> Floats:
    """(S, S) share of a lamp that each pixel sees."""
    side = np.cross(np.array([0, 1, 0], np.float32), towards)
    side /= np.linalg.norm(side)
    frame = np.stack([side, -np.cross(towards, side), -towards]).astype(np.float32)
    cells, per_cm = 112, 112 / 40
    screen = posed @ frame.T
    screen[:, :2] = screen[:, :2] * per_cm + cells / 2
    _, depth = rasterise(screen, triangles, cells)
    return lit_fraction((place @ frame.T).astype(np.float32), np.ascontiguousarray(depth[..., 3]), per_cm, 0.9)


def under_lids(eyes: npt.NDArray[np.bool_]) -> Floats:
    """(S, S) how open eyeballs are to light: dark under the upper lid, a little dark at every edge; 1 elsewhere."""
    open_ = eyes.astype(np.float32)
    above = sum(
        weight * np.roll(open_, rows, axis=0) for rows, weight in ((1, 0.3), (2, 0.25), (3, 0.2), (5, 0.15), (7, 0.1))
    )
    aside = 0.25 * sum(np.roll(open_, shift, axis) for shift, axis in ((-2, 0), (2, 1), (-2, 1), (4, 1)))
    return np.where(eyes, (0.12 + 0.88 * above) * (0.55 + 0.45 * aside), 1).astype(np.float32)
