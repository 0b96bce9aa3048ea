"""Shapes that the blendshapes of the head model lack, as displacements of its mean face."""

import numpy as np

from sdk.arrays import Floats
from trainer.synthetic.face_model import LASHES, PARTS, FaceModel

_INNER_BROWS = {"R": 21, "L": 22}  # of the 68 landmarks
_BROWS, _EYES = (slice(17, 22), slice(22, 27)), (slice(36, 42), slice(42, 48))
_UPPER_LIP, _LOWER_LIP = (50, 51, 52), (56, 57, 58)


def own_shapes(model: FaceModel) -> dict[str, Floats]:
    """Name -> (V, 3) displacement in centimetres for weight 1.

    `browKnit_L` and `browKnit_R` draw the inner end of a brow down and to the middle, and bulge the skin there.
    `browLow_L` and `browLow_R` lower the whole brow over the upper lid, as it is in many people at rest.
    `eyesDeep`, `browRidge` and `lipsFull` are traits of a person, and have no sides.
    """
    marks = model.neutral[model.landmarks68]
    shapes = {}
    for side, inner in _INNER_BROWS.items():
        inwards = -float(np.sign(marks[inner, 0]))
        shapes[f"browKnit_{side}"] = _near(model, marks[inner], 1.15)[:, None] * np.array([0.2 * inwards, -0.48, 0.15])
    for side, brow in zip(_INNER_BROWS, _BROWS, strict=True):
        band = np.max([_near(model, place, 0.9) for place in marks[brow]], axis=0)
        shapes[f"browLow_{side}"] = band[:, None] * np.array([0, -0.7, 0.1])
    sockets = np.max([_near(model, marks[eye].mean(axis=0), 1.6) for eye in _EYES], axis=0)
    for first, end in (PARTS["eye_socket"], PARTS["eye_left"], PARTS["eye_right"], (PARTS["eye_right"][1], LASHES[1])):
        sockets[first:end] = 1
    shapes["eyesDeep"] = sockets[:, None] * np.array([0, 0, -0.5])
    ridge = np.max([_near(model, marks[brow].mean(axis=0) - (0, 0.3, 0), 1.3) for brow in _BROWS], axis=0)
    shapes["browRidge"] = ridge[:, None] * np.array([0, -0.12, 0.4])
    upper, lower = (
        np.max([_near(model, marks[place], 0.8) for place in places], axis=0) for places in (_UPPER_LIP, _LOWER_LIP)
    )
    shapes["lipsFull"] = upper[:, None] * np.array([0, 0.14, 0.22]) + lower[:, None] * np.array([0, -0.16, 0.22])
    return {name: shape.astype(np.float32) for name, shape in shapes.items()}


def _near(model: FaceModel, place: Floats, radius: float) -> Floats:
    """(V,) 1 at a place of the skin, falling to 0.6 at the radius and to 0 far away."""
    weights = np.zeros(len(model.neutral), np.float32)
    skin = slice(*PARTS["skin"])
    weights[skin] = np.exp(-0.5 * ((model.neutral[skin] - place) ** 2).sum(axis=1) / radius**2)
    return weights
