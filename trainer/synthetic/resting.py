"""Variation apart from action units: the resting face, gaze, pose and camera."""

from typing import Literal, TypeAlias

import numpy as np

from sdk.arrays import Floats
from trainer.synthetic.expression import Expression

Side: TypeAlias = Literal["L", "R"]

EYE_YAW, EYE_PITCH = 0.45, 0.4  # radians at weight 1 of eyeLookOut or In, eyeLookUp or Down
# Largest weight of shapes at rest; action units begin at 0.3 of their weight.
_REST_LIMITS = {
    "mouthSmile": 0.2, "mouthFrown": 0.26, "browDown": 0.4, "browInnerUp": 0.18, "browOuterUp": 0.24,
    "mouthPress": 0.24, "mouthShrugLower": 0.2, "mouthPucker": 0.24, "mouthStretch": 0.16,
    "cheekSquint": 0.2, "cheekPuff": 0.25, "noseSneer": 0.12, "mouthUpperUp": 0.1, "mouthLowerDown": 0.1,
    "mouthRollLower": 0.18, "mouthFunnel": 0.12, "jawForward": 0.4, "mouthLeft": 0.2, "mouthRight": 0.2,
}  # fmt: skip
# Units beside which a shape does not rest, since it moves the same part the other way.
_OPPOSED = {
    "mouthSmile": {15, 20}, "mouthFrown": {12}, "browDown": {1, 2, 5}, "browInnerUp": {4}, "browOuterUp": {4},
    "mouthPucker": {12, 20}, "cheekPuff": {12, 25, 26, 27}, "mouthPress": {25, 26, 27},
}  # fmt: skip
_LID_UNITS = {5, 6, 7, 9, 43}  # lowering the lids further would close the eyes


def at_rest(expression: Expression, random: np.random.Generator) -> dict[str, float]:
    """Draw blendshape weights of resting face, lids and gaze, below the threshold of every action unit."""
    weights = _traits(random)
    for name, limit in _REST_LIMITS.items():
        share, weight = random.random(), random.uniform(0, limit)
        if share < 0.45 and _OPPOSED.get(name, set()).isdisjoint(expression.units):
            for side in ("_L", "_R", ""):
                weights[name + side] = weight * random.uniform(0.6, 1)
    if random.random() < 0.3:
        weights["jawOpen"] = random.uniform(0, 0.05)
    if not expression.units.keys().isdisjoint({26, 27}):
        weights |= _open_mouth(expression, random)
    lids_act = bool(expression.units.keys() & _LID_UNITS)
    x, y = _draw_gaze(expression, lids_act, random)
    left, right = ("eyeLookOut_L", "eyeLookIn_R") if x > 0 else ("eyeLookIn_L", "eyeLookOut_R")
    vertical = "eyeLookUp" if y > 0 else "eyeLookDown"
    weights |= {left: abs(x), right: abs(x), f"{vertical}_L": abs(y), f"{vertical}_R": abs(y)}
    if not lids_act:
        tired = random.random() < 0.15
        blink = random.uniform(0.3, 0.5) if tired else float(np.clip(random.normal(0.12, 0.1), 0, 0.34))
        squint = random.uniform(0, 0.3)
        for side in ("_L", "_R"):
            weights["eyeBlink" + side] = blink * random.uniform(0.85, 1.1) * (0.6 if y < -0.5 else 1)
            weights["eyeSquint" + side] = squint
    return weights


def _traits(random: np.random.Generator) -> dict[str, float]:
    """Draw what is always so in a person: deep or shallow eyes, the ridge of the brows, full or thin lips."""
    return {
        "eyesDeep": random.uniform(0.2, 1.0) if random.random() < 0.4 else random.uniform(-0.25, 0.2),
        "browRidge": random.uniform(0.2, 1.0) if random.random() < 0.3 else random.uniform(-0.3, 0.2),
        "lipsFull": random.uniform(-0.5, 1.2),
    }


def _open_mouth(expression: Expression, random: np.random.Generator) -> dict[str, float]:
    """Draw the form of an open mouth, from round to square; that of a shout is square."""
    square = random.uniform(0.3, 1.0) if expression.emotion == "anger" else random.uniform(0.0, 0.8)
    limits = {"mouthLowerDown": 0.6 * square, "mouthUpperUp": 0.5 * square, "mouthStretch": 0.35 * square}
    limits["mouthFunnel"] = 0.3 * (1 - square)
    return {name + side: limit * random.uniform(0.6, 1) for name, limit in limits.items() for side in ("_L", "_R", "")}


def _draw_gaze(expression: Expression, lids_act: bool, random: np.random.Generator) -> tuple[float, float]:
    """Draw how far the eyes look to the right of the picture and up, in weights of the eyeLook shapes."""
    x, y = random.normal(0, (0.3, 0.18), 2).clip(-0.9, 0.9) if random.random() < 0.75 else (0.0, 0.0)
    lowered = {"sadness": 0.3, "neutral": 0.18}.get(expression.emotion or "", 0.08)
    if not lids_act and random.random() < lowered:
        y = -random.uniform(0.5, 1.2)
    return float(x), 0.0 if 43 in expression.units else float(y)


def turned_eye(eyeball: Floats, weights: dict[str, float], side: Side) -> Floats:
    """(N, 3) vertices of an eyeball turned by the eyeLook weights; ICT's eyeLook shapes move only the lids.

    Args:
        weights: blendshape name -> weight.
    """
    right, left = ("Out", "In") if side == "L" else ("In", "Out")  # in the picture, where left and right are swapped
    sideways, upwards = (
        weights.get(f"eyeLook{one}_{side}", 0.0) - weights.get(f"eyeLook{other}_{side}", 0.0)
        for one, other in ((right, left), ("Up", "Down"))
    )
    low, high = eyeball.min(axis=0), eyeball.max(axis=0)
    centre = (low + high) / 2
    centre[2] = low[2] + (high[1] - low[1]) / 2  # of the ball without the cornea
    turned: Floats = (eyeball - centre) @ _facing(EYE_YAW * sideways, EYE_PITCH * upwards).T + centre
    return turned


def draw_angles(random: np.random.Generator) -> tuple[float, float, float]:
    """Draw yaw, pitch, roll in degrees, with the signs of `Render`: heads as in portraits, and some as in life."""
    yaw, pitch, roll = random.normal((0, -2, 0), (14.0, 9.5, 10.0)).clip((-42, -28, -32), (42, 26, 32)).tolist()
    if random.random() < 0.3:
        yaw = random.uniform(-60, 60)
    if random.random() < 0.1:
        roll = random.uniform(-45, 45)
    return yaw, pitch, roll


def head_rotation(yaw: float, pitch: float, roll: float) -> Floats:
    """(3, 3) rotation of a head by angles in degrees, with the signs of `Render`."""
    cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    tilt = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)
    rotation: Floats = tilt @ _facing(np.radians(yaw), np.radians(pitch))
    return rotation


def _facing(yaw: float, pitch: float) -> Floats:
    """(3, 3) rotation that turns a face to the right of the picture by yaw, then up by pitch, in radians."""
    (cy, sy), (cp, sp) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    rotation: Floats = (nod @ turn).astype(np.float32)
    return rotation


def project(posed: Floats, size: int, face_pixels: float, random: np.random.Generator) -> Floats:
    """(V, 3) column, row and depth, seen by a camera 40 to 250 cm away."""
    distance = float(np.exp(random.uniform(np.log(40), np.log(250))))
    depth = distance - posed[:, 2] + 8.0
    focal = face_pixels / 14.5 * distance
    centre = size / 2
    screen = np.stack(
        [centre + focal * posed[:, 0] / depth, centre - focal * (posed[:, 1] + 0.6) / depth, depth], axis=1
    )
    return screen.astype(np.float32)
