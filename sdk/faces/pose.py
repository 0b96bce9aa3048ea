"""How a head is turned and how far its eyes are open, computed from the landmarks of the face.

The pose is that of a mean head which is turned, scaled and moved until seven points, which expressions hardly move, lie
on the landmarks (scaled orthographic projection; DeMenthon & Davis 1995, "Model-Based Object Pose in 25 Lines of
Code"). The openness is the eye aspect ratio of Soukupova & Cech 2016, "Real-Time Eye Blink Detection using Facial
Landmarks".
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.faces.preprocess import Preprocessing

# Corners of the eyes from left to right, both wings and the tip of the nose: centimetres to the right, up and towards
# the viewer, on the mean head of ICT-FaceKit (MIT).
_HEAD = np.array(
    [
        *((-4.46, 3.43, 8.60), (-1.84, 3.25, 9.20), (1.84, 3.25, 9.20), (4.46, 3.43, 8.60)),
        *((-1.25, -1.15, 10.87), (1.25, -1.15, 10.87), (0.0, 0.41, 13.07)),
    ]
)
_ROUNDS, _STILL = 30, 5e-4  # of the fit: the most, and the largest change of the rotation that ends it before


@dataclass(frozen=True)
class Scheme:
    """Where a landmark scheme has the points that are needed here.

    Attributes:
        head: indices of the points of the mean head.
        lids: for the left and the right eye of the picture, pairs of upper and lower lid.
    """

    head: tuple[int, ...]
    lids: tuple[tuple[tuple[int, int], ...], ...]


MULTI_PIE = Scheme((36, 39, 42, 45, 31, 35, 30), (((37, 41), (38, 40)), ((43, 47), (44, 46))))
INSIGHTFACE = Scheme((35, 39, 89, 93, 78, 84, 86), (((41, 36), (40, 33), (42, 37)), ((95, 90), (94, 87), (96, 91))))


def landmark_scheme(settings: Preprocessing) -> Scheme | None:
    """The scheme of a bundle's landmarks; None where they are not coordinates, or in an order of their own.

    Networks that this project trains have Multi-PIE's 68 points first, and their bundles have anchors on the corners of
    the eyes. Bundles without anchors use insightface's 2d106det.
    """
    if settings.landmark_mode == "emola":
        return None
    anchors = {anchor[0] for anchor in settings.anchors}
    return INSIGHTFACE if not anchors else MULTI_PIE if set(MULTI_PIE.head[:4]) <= anchors else None


def head_pose(points: Floats, scheme: Scheme) -> tuple[float, float, float] | None:
    """Yaw, pitch and roll in degrees; None if the points have no extent or are not finite.

    Yaw is positive where the face turns to the right of the picture, pitch where it looks up, roll where the head leans
    anticlockwise, as the picture shows it.

    Args:
        points: (106, 2) landmarks, x to the right and y down, in any unit.
    """
    if not np.isfinite(points).all():
        return None
    seen = points[list(scheme.head)] * np.array([1.0, -1.0])
    seen = seen - seen.mean(axis=0)
    head = _HEAD - _HEAD.mean(axis=0)
    scale, rotation = float(np.linalg.norm(seen) / np.linalg.norm(head)), np.eye(3)
    if not 0 < scale < np.inf:
        return None
    for _ in range(_ROUNDS):
        depth, before = scale * (head @ rotation[2]), rotation
        rotation, scale = _turned(head, np.column_stack([seen, depth]))
        if np.abs(rotation - before).max() < _STILL:
            break
    yaw = np.arctan2(-rotation[2, 0], rotation[2, 2])
    pitch = np.arcsin(np.clip(-rotation[2, 1], -1, 1))
    roll = np.arctan2(-rotation[0, 1], rotation[1, 1])
    return tuple(float(angle) for angle in np.degrees([yaw, pitch, roll]))  # type: ignore[return-value]


def _turned(head: npt.NDArray[np.float64], places: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """The (3, 3) rotation and the scale that bring (N, 3) centred points closest to (N, 3) centred places."""
    left, strengths, right = np.linalg.svd(places.T @ head)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right)) or 1])
    return left * signs @ right, float((strengths * signs).sum() / (head**2).sum())


def eye_openness(points: Floats, scheme: Scheme) -> tuple[float, float] | None:
    """Height over width of the left and the right eye of the picture: about 0.3 where open, below 0.1 where shut.

    Args:
        points: (106, 2) landmarks in any unit; None if an eye has no width, or they are not finite.
    """
    if not np.isfinite(points).all():
        return None
    corners = points[list(scheme.head[:4])].reshape(2, 2, 2)
    widths = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1)
    if not widths.min() > 0:
        return None
    upper, lower = points[np.array(scheme.lids)].transpose(2, 0, 1, 3)
    left, right = np.linalg.norm(upper - lower, axis=2).mean(axis=1) / widths
    return float(left), float(right)
