"""Detect faces with the network in the package, another one from an ONNX file, dlib, or any object with `detect`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats, Pixels
from sdk.errors import BackendError, DependencyError
from sdk.faces.detection import Detection as Detection  # a part of this module for its users
from sdk.faces.detection import suppress_overlaps
from sdk.faces.nano_detector import NanoDetector, is_nano_detector
from sdk.faces.preprocess import resize_bilinear
from sdk.onnx_session import open_session
from sdk.ranges import COUNT, FINITE, FROM_0

PACKAGED = Path(__file__).parents[1] / "assets" / "detector.onnx"  # of `emola pretrain-detector`


@dataclass(frozen=True)
class FaceLimits:
    """Which of the detected faces are analysed.

    Attributes:
        min_score: lowest score, in the unit of the detector; None takes the detector's own limit.
        min_face: shortest longer side of a face box in pixels of the picture.
        max_faces: largest number of faces; the largest ones stay. None is no limit.

    Raises:
        TaskError: a value is out of range.
    """

    min_score: float | None = None
    min_face: float = 0.0
    max_faces: int | None = None

    def __post_init__(self) -> None:
        FINITE.check("min_score", self.min_score, optional=True)
        FROM_0.check("min_face", self.min_face)
        COUNT.check("max_faces", self.max_faces, optional=True)

    def choose(self, faces: "list[Detection]", shrink: int = 1) -> "list[Detection]":
        """The faces within the limits, in their order.

        Args:
            shrink: pixels of the picture per pixel of the boxes.
        """
        lowest = -np.inf if self.min_score is None else self.min_score
        found = [face for face in faces if face.score >= lowest and shrink * face.side >= self.min_face]
        largest = sorted(range(len(found)), key=lambda index: -found[index].side)[: self.max_faces]
        return [found[index] for index in sorted(largest)]


@runtime_checkable
class Detector(Protocol):
    """Finds faces.

    Attributes:
        box_extent: longer side of this detector's box over dlib's box of the same face. It makes crops independent of
            the detector: the model was trained with crops from dlib's boxes.
    """

    box_extent: float

    def detect(self, image: Pixels) -> list[Detection]:
        """The faces in an (H, W, 3) uint8 RGB picture, from left to right."""
        ...


def open_detector(
    detector: "str | os.PathLike[str] | Detector", *, min_score: float | None = None, threads: int | None = None
) -> Detector:
    """Open a detector.

    Args:
        detector: "auto", the network in the package; "dlib"; the path of an .onnx file, SCRFD or `NanoDetector`'s; or
            an object with `detect`, which is returned.
        min_score: lowest score of a detection, in the unit of the detector; None takes its default.
        threads: threads of a network; None leaves the choice to ONNX Runtime.

    Raises:
        DependencyError: the package of the detector is not installed.
        BackendError: there is no such detector.
    """
    if isinstance(detector, Detector):
        return detector
    if detector == "dlib":
        return DlibDetector() if min_score is None else DlibDetector(min_score)
    if detector == "auto":
        detector = PACKAGED
    path = os.fspath(detector) if isinstance(detector, (str, os.PathLike)) else ""
    if not path.endswith(".onnx") or not os.path.isfile(path):
        raise BackendError(
            "detector must be 'auto', 'dlib' or the path of a detector's .onnx file, or an object with detect and "
            f"box_extent; found {path or detector!r:.200}"
        )
    return open_detector_file(Path(path), min_score=min_score, threads=threads)


def open_detector_file(path: Path, *, min_score: float | None = None, threads: int | None = None) -> Detector:
    """Open an ONNX file, SCRFD or that of `NanoDetector`; arguments and errors as for `open_detector`."""
    session = open_session(path, threads, arena=True)
    kind = NanoDetector if is_nano_detector(session) else ScrfdDetector
    return kind(str(path), kind.MIN_SCORE if min_score is None else min_score, session=session)


class DlibDetector:
    """dlib's frontal face detector (HOG and a linear SVM); about 0.1 s per megapixel on one core.

    Args:
        min_score: lowest score of a detection. In scikit-image's `astronaut` the one false detection scores 0.12, in
            insightface's `t1` the weakest of the six faces scores 0.21.
    """

    box_extent = 1.0
    _MAX_SIDE, _MIN_SIDE = 1600, 800  # pixels; dlib finds faces of 80 pixels or more, after one doubling of 40

    def __init__(self, min_score: float = 0.2) -> None:
        try:
            import dlib
        except ImportError:
            raise DependencyError("dlib-bin", "faces", "find faces with dlib") from None
        self._detector = dlib.get_frontal_face_detector()
        self._min_score = min_score

    def detect(self, image: Pixels) -> list[Detection]:
        height, width = image.shape[:2]
        shrink = max(1.0, max(height, width) / self._MAX_SIDE)
        if shrink > 1:
            image = resize_bilinear(image, max(1, round(width / shrink)), max(1, round(height / shrink)))
        upsample = 1 if max(image.shape) < self._MIN_SIDE else 0
        # dlib reads freed memory of an array that is not contiguous
        boxes, scores, _ = self._detector.run(np.ascontiguousarray(image), upsample, self._min_score)
        x, y = width / image.shape[1], height / image.shape[0]
        found = [
            Detection((b.left() * x, b.top() * y, (b.right() + 1) * x, (b.bottom() + 1) * y), float(score))
            for b, score in zip(boxes, scores, strict=True)
        ]
        return sorted(found, key=lambda face: face.box_xyxy)


class ScrfdDetector:
    """SCRFD, insightface's detector, from an ONNX file such as det_10g.onnx.

    The pretrained files are for non-commercial research only and are not shipped. Source of the decoding: Guo et al.
    2021, "Sample and Computation Redistribution for Efficient Face Detection", and insightface's reference code.

    Args:
        path: ONNX file with one score and one box output per stride (8, 16, 32), with or without key points.
        min_score: lowest score of a detection.
        max_overlap: intersection over union above which the weaker of two boxes is dropped.
        size: side of the square input in pixels, if the file does not fix it.
        session: the file, if it is open already.
    """

    MIN_SCORE = 0.5

    # SCRFD's box reaches from the hairline to the chin, dlib's box is a square from the brows down. The ratio is
    # estimated from published examples of both, because the weights are not available here.
    box_extent = 1.3
    _STRIDES = (8, 16, 32)
    _MAX_SIDE = 4096  # pixels of the input

    def __init__(
        self,
        path: str,
        min_score: float = MIN_SCORE,
        max_overlap: float = 0.4,
        size: int = 640,
        session: Any = None,
    ) -> None:
        self._session = session or open_session(Path(path))
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        widths = [output.shape[-1] if output.shape else None for output in outputs]
        fits = widths in ([1] * 3 + [4] * 3, [1] * 3 + [4] * 3 + [10] * 3)
        if not fits or [given.shape[1:2] for given in inputs] != [[3]]:
            raise BackendError(
                f"{path} is not SCRFD: expected one picture (1, 3, H, W) and 6 or 9 outputs (for 3 strides: scores "
                f"(N, 1), boxes (N, 4), key points (N, 10)); found {[given.shape for given in inputs]} and "
                f"{[output.shape for output in outputs]}"
            )
        self._input = inputs[0]
        fixed = self._input.shape[-1]
        self._size = fixed if isinstance(fixed, int) else size
        if not max(self._STRIDES) <= self._size <= self._MAX_SIDE:
            raise BackendError(f"{path}: its pictures have {self._size} pixels; expected at most {self._MAX_SIDE}")
        self._min_score, self._max_overlap = min_score, max_overlap

    def detect(self, image: Pixels) -> list[Detection]:
        blob, scale = self._letterbox(image)
        outputs = self._session.run(None, {self._input.name: blob})
        scores, boxes = self._decode(outputs)
        boxes /= scale
        found = [
            Detection(tuple(boxes[i].tolist()), float(scores[i]))
            for i in suppress_overlaps(boxes, scores, self._max_overlap)
        ]
        return sorted(found, key=lambda face: face.box_xyxy)

    def searched_pixels(self, height: int, width: int) -> float:
        """Pixels of the network's input, the same for every picture: parts of a picture take as long as the whole."""
        return float(self._size**2)

    def _letterbox(self, image: Pixels) -> tuple[Floats, float]:
        """Put the picture into the top left corner of a black square.

        Returns:
            (1, 3, S, S) float32 in (x - 127.5) / 128, and the scale of the picture.
        """
        height, width = image.shape[:2]
        scale = self._size / max(height, width)
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
        canvas = np.zeros((self._size, self._size, 3), np.uint8)
        canvas[:height, :width] = resize_bilinear(image, width, height)
        blob = (canvas.transpose(2, 0, 1)[None].astype(np.float32) - 127.5) / 128
        return blob.astype(np.float32), height / image.shape[0]

    def _decode(self, outputs: list[npt.NDArray[Any]]) -> tuple[Floats, Floats]:
        """Scores (N,) and boxes (N, 4) above the threshold, in pixels of the network input."""
        scores, boxes = [], []
        for level, stride in enumerate(self._STRIDES):
            score = outputs[level].reshape(-1)
            distance = outputs[level + 3].reshape(-1, 4) * stride  # left, top, right, bottom of the anchor point
            cells = self._size // stride
            rows, columns = np.divmod(np.arange(cells * cells), cells)
            points = np.repeat(np.stack([columns, rows], 1) * stride, len(score) // len(rows), axis=0)
            kept = score >= self._min_score
            scores.append(score[kept])
            boxes.append(np.hstack([points - distance[:, :2], points + distance[:, 2:]])[kept])
        return np.concatenate(scores), np.concatenate(boxes).astype(np.float32)
