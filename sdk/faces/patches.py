"""Rank the patches of a face by the density of its landmarks.

All landmark schemes place many points on brows, eyes, nose and mouth, and few on jaw and cheeks. The density of the
points therefore ranks the patches without knowledge of the scheme.
"""

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.faces.crop import Box, FaceCrop
from sdk.faces.preprocess import Preprocessing, landmark_points, points_in_square

RADIUS = 0.07  # standard deviation of a landmark's influence over the side of the square
# Brows, eyes, mouth and nose in a face box with corners at (-1, -1) and (1, 1): means of 1,000 rendered faces.
_LEFT = np.array([[-69, -59], [-45, -73], [-14, -70], [-54, -37], [-22, -35], [-34, 50], [-10, 35], [0, 66], [-17, 19]])
MEAN_FACE = (np.concatenate([_LEFT, _LEFT * (-1, 1), [[0, 0]]]) / 100).astype(np.float32)


def patch_order(crop: FaceCrop, features: Floats, settings: Preprocessing, side: int) -> npt.NDArray[np.int64]:
    """Rank the patches of a face, the most informative first.

    Args:
        crop: the picture of the face.
        features: (212,) outputs of the landmark network. In mode "emola" they are not coordinates: then the landmarks
            of a mean face in the face box are used, and all faces of one size get the same order.
        settings: preprocessing of the vision tower's input.
        side: number of patches along each side.

    Returns:
        (side * side,) patch indices, row by row from the top left.
    """
    if settings.landmark_mode == "emola":
        points = _mean_face(crop.box_in_crop)
    else:
        points = landmark_points(features, crop.box_in_crop)
    height, width, _ = crop.pixels.shape
    places = points_in_square(points, (height, width), settings) / settings.image_size
    centre = (np.arange(side) + 0.5) / side
    across, down = (np.exp(-(((centre - place[:, None]) / RADIUS) ** 2) / 2) for place in places.T)  # (points, side)
    density = np.einsum("pr,pc->rc", down, across)
    return np.argsort(-density.ravel(), kind="stable")


def _mean_face(box_xyxy: Box) -> Floats:
    corner, other = np.array(box_xyxy, np.float32).reshape(2, 2)
    points: Floats = (corner + other + MEAN_FACE * (other - corner)) / np.float32(2)
    return points
