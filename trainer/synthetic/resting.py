"""Variation apart from action units: the resting face, gaze, pose and camera."""

from typing import Literal, TypeAlias

import numpy as np

from sdk.arrays import Floats
from trainer.synthetic.expression import Expression

Side: TypeAlias = Literal["L", "R"]

EYE_YAW, EYE_PITCH = 0.45, 0.4  # radians at weight 1 of eyeLookOut or In, eyeLookUp or Down
# Largest weight of shapes at rest; action units begin at 0.3 of their weight.
_REST_LIMITS = {
    "mouthSmile": 0.1, "mouthFrown": 0.16, "browDown": 0.2, "browInnerUp": 0.13, "browOuterUp": 0.16,
    "mouthPress": 0.15, "mouthShrugLower": 0.12, "mouthPucker": 0.15, "mouthStretch": 0.1,
    "cheekSquint": 0.12, "noseSneer": 0.08, "mouthUpperUp": 0.08, "mouthLowerDown": 0.08,
    "mouthRollLower": 0.12, "mouthFunnel": 0.08, "jawForward": 0.3,
}  # fmt: skip


def at_rest(expression: Expression, random: np.random.Generator) -> dict[str, float]:
    """Draw blendshape weights of resting face, lids and gaze, below the threshold of every action unit."""
    weights: dict[str, float] = {}
    for name, limit in _REST_LIMITS.items():
        if random.random() < 0.4:
            weight = random.uniform(0, limit)
            for side in ("_L", "_R", ""):
                weights[name + side] = weight * random.uniform(0.6, 1)
    if random.random() < 0.3:
        weights["jawOpen"] = random.uniform(0, 0.05)
    x, y = random.normal(0, (0.3, 0.18), 2).clip(-0.9, 0.9) if random.random() < 0.75 else (0.0, 0.0)
    lids_act = bool(expression.units.keys() & {5, 6, 7, 9, 43})  # lowering the lids further would close the eyes
    if not lids_act and random.random() < (0.3 if expression.emotion == "sadness" else 0.08):
        y = -random.uniform(0.5, 1.2)
    if 43 in expression.units:
        y = 0.0
    left, right = ("eyeLookOut_L", "eyeLookIn_R") if x > 0 else ("eyeLookIn_L", "eyeLookOut_R")
    vertical = "eyeLookUp" if y > 0 else "eyeLookDown"
    weights |= {left: abs(x), right: abs(x), f"{vertical}_L": abs(y), f"{vertical}_R": abs(y)}
    if not lids_act:
        blink, squint = float(np.clip(random.normal(0.12, 0.1), 0, 0.34)), random.uniform(0, 0.3)
        for side in ("_L", "_R"):
            weights["eyeBlink" + side] = blink * random.uniform(0.85, 1.1) * (0.6 if y < -0.5 else 1)
            weights["eyeSquint" + side] = squint
    return weights


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


def draw_rotation(random: np.random.Generator) -> tuple[Floats, tuple[float, float, float]]:
    """Draw the (3, 3) rotation of the head, and yaw, pitch, roll in degrees, with the signs of `Render`."""
    drawn = random.normal(0, (16.0, 9.5, 11.0))
    yaw, pitch, roll = (float(angle) for angle in np.clip(drawn, (-42, -26, -32), (42, 26, 32)))
    cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    tilt = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)
    rotation: Floats = tilt @ _facing(np.radians(yaw), np.radians(pitch))
    return rotation, (yaw, pitch, roll)


def _facing(yaw: float, pitch: float) -> Floats:
    """(3, 3) rotation that turns a face to the right of the picture by yaw, then up by pitch, in radians."""
    (cy, sy), (cp, sp) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    rotation: Floats = (nod @ turn).astype(np.float32)
    return rotation


def project(posed: Floats, size: int, face_pixels: float, random: np.random.Generator) -> Floats:
    """(V, 3) column, row and depth, seen by a camera 35 to 150 cm away."""
    distance = float(np.exp(random.uniform(np.log(35), np.log(150))))
    depth = distance - posed[:, 2] + 8.0
    focal = face_pixels / 14.5 * distance
    centre = size / 2
    screen = np.stack(
        [centre + focal * posed[:, 0] / depth, centre - focal * (posed[:, 1] + 0.6) / depth, depth], axis=1
    )
    return screen.astype(np.float32)
