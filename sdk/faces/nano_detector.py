"""The small detector that this project trains on rendered heads, from an ONNX file.

Its boxes are squares from the brows to the chin, as dlib's are, and a little larger.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdk.arrays import Floats, Pixels
from sdk.errors import BackendError
from sdk.faces.crop import Box
from sdk.faces.detection import Detection, overlapping_groups
from sdk.faces.preprocess import scaled_down
from sdk.onnx_session import open_session

STRIDES = (8, 16)
OUTPUTS = 14  # of a cell: score as a logit, x and y of the centre, logarithm of the side, x and y of five points
GREY = 128  # the network's zero, which pads a picture as its convolutions do
_LONGEST_SIDE = 800  # pixels of the network's largest picture
_SHORTEST_SIDE = 64  # pixels of the longer side of the smallest picture in which large faces are looked for


class NanoDetector:
    """Finds most faces of 40 pixels and two of three of 28 in a picture of up to 800 pixels.

    Larger pictures are scaled down to that. docs/nano/detector.md has the figures.

    Args:
        path: ONNX file with a picture (1, H, W, 3) uint8 RGB as input and, for strides of 8 and 16 pixels, an output
            (1, 14, H / stride, W / stride), see `trainer.detector.network.FaceNetwork`.
        min_score: lowest score of a detection, 0..1.
        session: the file, if it is open already.

    Raises:
        BackendError: the file is another network.
    """

    MIN_SCORE = 0.75
    box_extent = 1.065  # geometric mean over 114 faces of photographs, with the file in the package
    _MAX_OVERLAP = 0.4

    def __init__(self, path: str, min_score: float = MIN_SCORE, *, session: Any = None) -> None:
        self._session = session or open_session(Path(path))
        if not is_nano_detector(self._session):
            raise BackendError(
                f"{path} is no detector of this project: expected one uint8 picture (1, H, W, 3) and {len(STRIDES)} "
                f"outputs (1, {OUTPUTS}, h, w)"
            )
        self._input = self._session.get_inputs()[0].name
        self._min_score = min_score

    def detect(self, image: Pixels) -> list[Detection]:
        """The faces in an (H, W, 3) uint8 RGB picture, from left to right."""
        height, width = image.shape[:2]
        picture = scaled_down(Image.fromarray(image), min(1.0, _LONGEST_SIDE / max(height, width)))
        sides = [max(picture.size)]
        while sides[-1] >= 2 * _SHORTEST_SIDE:  # the network knows faces of two octaves
            sides.append(sides[-1] // 2)
        found = [self._search(scaled_down(picture, side / sides[0]), width, height) for side in sides]
        scores, boxes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kept = overlapping_groups(boxes, scores, self._MAX_OVERLAP)
        faces = [Detection(_mean_box(boxes[group], scores[group]), float(scores[group[0]])) for group in kept]
        return sorted(faces, key=lambda face: face.box_xyxy)

    def searched_pixels(self, height: int, width: int) -> float:
        """Pixels of the largest size at which a picture of H x W is searched."""
        return height * width * min(1.0, _LONGEST_SIDE / max(height, width)) ** 2

    def _search(self, small: Image.Image, width: int, height: int) -> tuple[Floats, Floats]:
        """Scores (N,) and boxes (N, 4) of the cells that see a face, in pixels of the picture before it was scaled."""
        step = STRIDES[-1]
        rows, columns = (step * math.ceil(length / step) for length in (small.height, small.width))
        canvas = np.full((1, rows, columns, 3), GREY, np.uint8)
        canvas[0, : small.height, : small.width] = np.asarray(small)
        scores, boxes = decode(self._session.run(None, {self._input: canvas}), self._min_score)
        return scores, boxes * np.tile([width / small.width, height / small.height], 2).astype(np.float32)


def is_nano_detector(session: Any) -> bool:
    """Whether an open ONNX model has the inputs and outputs of this detector."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    picture = len(inputs) == 1 and inputs[0].type == "tensor(uint8)" and inputs[0].shape[-1:] == [3]
    return picture and [output.shape[1:2] for output in outputs] == [[OUTPUTS]] * len(STRIDES)


def _mean_box(boxes: Floats, scores: Floats) -> Box:
    """The mean of (N, 4) boxes of one face, weighted with their scores: it is steadier than the best of them.

    Source of the method: Gidaris & Komodakis 2015, "Object Detection via a Multi-Region and Semantic
    Segmentation-Aware CNN Model" (box voting).
    """
    return tuple(np.average(boxes, axis=0, weights=scores).tolist())


def decode(outputs: list[npt.NDArray[Any]], min_score: float) -> tuple[Floats, Floats]:
    """Scores (N,) and boxes (N, 4) of the cells with at least the lowest score, in pixels of the network's picture."""
    scores, boxes = [], []
    least = np.log(min_score / (1 - min_score)) if 0 < min_score < 1 else np.copysign(np.inf, min_score - 0.5)
    for output, stride in zip(outputs, STRIDES, strict=True):
        rows, columns = np.nonzero(output[0, 0] >= least)
        score, x, y, size = output[0, :4, rows, columns].T.astype(np.float64)
        half = stride * np.exp(size.clip(-3, 5)) / 2
        x, y = (x + columns + 0.5) * stride, (y + rows + 0.5) * stride
        scores.append(1 / (1 + np.exp(-score.clip(-80, 80))))
        boxes.append(np.stack([x - half, y - half, x + half, y + half], axis=1))
    return np.concatenate(scores).astype(np.float32), np.concatenate(boxes).astype(np.float32)
