"""A made-up head in the format of the face model: it has ICT-FaceKit's vertices and parts; lips and jaw can move."""

from pathlib import Path

import numpy as np

from trainer.synthetic.expression import SHAPES as UNIT_SHAPES
from trainer.synthetic.face_model import FACES, PARTS, VERTICES

SHAPES = {
    **{f"{name}_{side}": (0.0, 0.0, 0.0) for shapes in UNIT_SHAPES.values() for name in shapes for side in "LR"},
    "jawOpen": (-3.0, -5.0, -2.0),
    **{f"mouthLowerDown_{side}": (-5.0, -4.0, -0.35) for side in "LR"},
    **{f"mouthUpperUp_{side}": (-3.4, -2.0, 0.35) for side in "LR"},
}  # name: lowest and highest point of the skin that moves, and by how much it moves up

EYE_CENTRE = np.array([3.1, 3.6, 7.9], np.float32)  # of the left


def landmarks() -> np.ndarray:
    """(68, 2) where Multi-PIE's points lie on a face of the size of ICT-FaceKit's, in centimetres."""

    def arc(x: float, y: float, width: float, height: float, start: float, end: float, count: int) -> np.ndarray:
        angles = np.linspace(np.pi * start, np.pi * end, count)
        return np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], axis=1)

    jaw, brow = arc(0, 3.5, 7.2, 11.0, 1, 2, 17), [arc(x, 5.4, 2.2, 0.8, 1, 0, 5) for x in (-3.5, 3.5)]
    nose = [np.stack([np.zeros(4), np.linspace(3.7, 0.4, 4)], axis=1), arc(0, -0.9, 1.5, 0.5, 1, 2, 5)]
    eyes = [arc(x, 3.4, 1.3, 0.6, 1, -2 / 3, 6) for x in (-3.1, 3.1)]
    lips = [arc(0, -3.4, 2.5, 0.9, 1, -5 / 6, 12), arc(0, -3.4, 2.0, 0.35, 1, -3 / 4, 8)]
    return np.concatenate([jaw, *brow, *nose, *eyes, *lips])


def ball(count: int) -> np.ndarray:
    """(count, 3) points spread over a sphere of 1.5 cm, the first in front, the last at the back."""
    z, turn = np.linspace(1, -1, count), np.pi * (1 + 5**0.5) * np.arange(count)
    across = np.sqrt(1 - z * z)
    return 1.5 * np.stack([across * np.cos(turn), across * np.sin(turn), z], axis=1)


def write_head(path: Path) -> Path:
    """A mask with ICT-FaceKit's vertices and parts, whose lips and jaw can move, and eyeballs behind it."""
    rows, columns = 148, 76
    y, x = (
        each.ravel() for each in np.meshgrid(np.linspace(14, -18, rows), np.linspace(-8, 8, columns), indexing="ij")
    )
    neutral = np.zeros((VERTICES, 3), np.float32)
    skin = slice(*PARTS["skin"])
    neutral[skin] = np.stack([x, y, 11 - 0.08 * x**2 - 0.01 * y**2], axis=1)
    for part, side in (("eye_left", 1), ("eye_right", -1)):
        neutral[slice(*PARTS[part])] = ball(PARTS[part][1] - PARTS[part][0]) + EYE_CENTRE * (side, 1, 1)
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    faces = np.full((FACES, 4), VERTICES - 1)  # the rest is of no part
    faces[: len(corner)] = np.stack([corner, corner + columns, corner + columns + 1, corner + 1], axis=1)
    names = sorted(SHAPES)
    expression = np.zeros((len(names), VERTICES, 3), np.float16)
    for name, moved in zip(names, expression, strict=True):
        low, high, up = SHAPES[name]
        moved[skin, 1] = up * ((y > min(low, high)) & (y < max(low, high)) & (np.abs(x) < 2.6))
    marks = landmarks()
    nearest = [int(np.hypot(x - mx, y - my).argmin()) for mx, my in marks]
    identity = np.zeros((50, VERTICES, 3), np.float16)
    identity[:, skin, 0] = 0.02 * x[None] * np.arange(50)[:, None] / 50
    np.savez(path, neutral=neutral, faces=faces.astype(np.int32), landmarks68=nearest, identity=identity,
             expression=expression, expression_names=names)  # fmt: skip
    return path
