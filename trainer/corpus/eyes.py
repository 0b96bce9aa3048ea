"""Where the eyes of a face are, so that a crop can be turned until they are level."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from sdk.arrays import Floats
from sdk.bundles.files import file_sha256
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.insightface_packs import DETECTORS, find_model
from sdk.errors import DataError, DependencyError
from sdk.faces.crop import FaceCrop
from sdk.faces.preprocess import landmark_pixels, landmark_points
from sdk.runtime.backends.ort import OrtEncoder

Eyes: TypeAlias = Callable[[FaceCrop], Floats]  # a crop -> (2, 2) x, y of the eyes in its pixels, the left one first

MULTI_PIE = (
    range(36, 42),
    range(42, 48),
)  # points of the two eyes, also of dlib's 68 and of the network in the package
INSIGHTFACE = (range(33, 43), range(87, 97))  # of 2d106det
DLIB_FIVE = (range(0, 2), range(2, 4))  # of dlib's predictor of 5 points


def open_eyes(source: str) -> Eyes:
    """Open what finds eyes.

    Args:
        source: "auto" (the landmark network in the package, trained on rendered faces), a file with the interface and
            the points of insightface's 2d106det (.onnx), a pack of insightface such as "buffalo_l", or a shape
            predictor of dlib with 5 or 68 points (.dat), which the authors used.

    Raises:
        DataError: there is no such file.
        DependencyError: dlib is not installed.
    """
    path = _file(source)
    if source == "auto":
        return _by_network(path, MULTI_PIE)
    if path.suffix not in (".onnx", ".dat") or not path.is_file():
        raise DataError(
            f"--align {source}: expected a landmark network such as 2d106det.onnx, or a shape predictor of dlib (.dat)"
        )
    return _by_network(path, INSIGHTFACE) if path.suffix == ".onnx" else _by_predictor(path)


def identify(source: str | None) -> str | None:
    """The name under which a set records what found the eyes: file and first digits of its SHA-256."""
    path = _file(source) if source else None
    return f"{path.name} {file_sha256(path)[:12]}" if path and path.is_file() else source


def _file(source: str) -> Path:
    if source == "auto":
        return EMBEDDED / "landmark.onnx"
    return find_model(source, "landmark", DataError) if source in DETECTORS else Path(source)


def _by_network(path: Path, points: Sequence[range]) -> Eyes:
    encoder = OrtEncoder(path, threads=1)

    def find(crop: FaceCrop) -> Floats:
        box = crop.box_in_crop
        feature = encoder(landmark_pixels(crop.pixels, mode="insightface", box_xyxy=box)[None])[0]
        return _centres(landmark_points(feature, box), points)

    return find


def _by_predictor(path: Path) -> Eyes:
    try:
        import dlib
    except ImportError:
        raise DependencyError("dlib-bin", "faces", "find eyes with a shape predictor of dlib") from None
    try:
        predictor = dlib.shape_predictor(str(path))
    except RuntimeError as error:
        raise DataError(f"{path} is not a shape predictor of dlib ({error}); copy it again") from None

    def find(crop: FaceCrop) -> Floats:
        shape = predictor(crop.pixels, dlib.rectangle(*(round(side) for side in crop.box_in_crop)))
        found = np.array([(part.x, part.y) for part in shape.parts()], np.float32)
        if len(found) not in (5, 68):
            raise DataError(f"{path} finds {len(found)} points; expected dlib's predictor of 5 or of 68 points")
        return _centres(found, DLIB_FIVE if len(found) == 5 else MULTI_PIE)

    return find


def _centres(found: Floats, points: Sequence[range]) -> Floats:
    """The centre of each eye, the left one first, from the points of a face."""
    centres = np.stack([found[list(eye)].mean(axis=0) for eye in points])
    ordered: Floats = centres[centres[:, 0].argsort()]
    return ordered
