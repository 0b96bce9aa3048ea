"""The landmark files of a data set: the 212 outputs of a 2d106det network for each picture.

`about.json` in a landmark folder records how its files were made; a folder without it holds the released data.
"""

import hashlib
import io
import os
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sdk.arrays import Floats
from sdk.errors import DataError, ImageError
from sdk.faces.crop import RELEASED_FACE_SCALE, aligned_face
from sdk.faces.images import load_image
from sdk.faces.preprocess import LANDMARK_FEATURES, LANDMARK_SIDE, LandmarkMode, landmark_pixels
from sdk.files import write_file, write_json
from sdk.locks import writing_into
from sdk.runtime.backends.ort import OrtEncoder
from sdk.untrusted_json import read_json_object
from trainer.corpus.records import Record, read_landmarks
from trainer.processes import in_processes

ABOUT = "about.json"


def fill_landmarks(
    records: Sequence[Record],
    network: Path,
    mode: LandmarkMode,
    *,
    batch_size: int = 64,
    threads: int = 4,
    workers: int = 1,
    face_scale: float = RELEASED_FACE_SCALE,
    replace: bool = False,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Compute the missing landmark files.

    Batches are always those of the whole set, so that a resumed run writes the files of an uninterrupted one.

    Args:
        records: each has a picture of an aligned face and a landmark file; records may share files.
        network: ONNX file with the interface of insightface's 2d106det: (N, 3, 192, 192) -> (N, 212).
        mode: input of the network, see `sdk.faces.preprocess.landmark_pixels`.
        threads: number of threads that load pictures, and of those that the network uses, in each process.
        workers: number of processes that compute; this one writes.
        face_scale: side of the pictures over the face box inside; used by mode "insightface".
        replace: delete files of another network or mode instead of raising an error.
        report: told one line per stage.
        progress: told how many of how many files are done.

    Returns:
        The number of files that were computed.

    Raises:
        DataError: a landmark folder holds files of another mode or network, or the network has another interface.
        ImageError: pictures cannot be read; the files of all others are written.
    """
    _check_interface(network)
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    about = {"mode": mode, "network": network.name, "sha256": digest, "face_scale": face_scale}
    unique = list({record.landmark_path: record for record in records}.values())
    with ExitStack() as locks:
        for folder in sorted({record.landmark_path.parent for record in unique}):
            if not folder.exists() or os.access(folder, os.W_OK):  # complete files may be read-only
                locks.enter_context(writing_into(folder))
            _claim(folder, about, replace)
        missing = {record.landmark_path for record in unique if not _is_complete(record)}
        report(f"{len(missing)} landmark files to compute, {len(unique) - len(missing)} are there")
        batches = (unique[start : start + batch_size] for start in range(0, len(unique), batch_size))
        waiting = [batch for batch in batches if any(record.landmark_path in missing for record in batch)]
        measure = partial(_Network, network, mode, threads, face_scale)
        broken = _compute(waiting, missing, measure, workers, progress)
    if broken:
        raise ImageError(
            f"{len(broken)} of {len(missing)} pictures cannot be read, `emola data check` lists them; the landmark "
            f"files of the others are written. The first: {broken[0]}"
        )
    return len(missing)


def _compute(
    batches: Sequence[Sequence[Record]],
    missing: Set[Path],
    measure: "Callable[[], _Network]",
    workers: int,
    progress: Callable[[int, int], None],
) -> list[str]:
    """Write the missing files of some batches; returns why pictures cannot be read."""
    done, broken = 0, []
    pictures = ([record.image_path for record in batch] for batch in batches)
    for batch, found in zip(batches, in_processes(measure, pictures, workers), strict=True):
        features = {r.landmark_path: f for r, f in zip(batch, found, strict=True) if r.landmark_path in missing}
        for path, feature in features.items():
            if isinstance(feature, str):
                broken.append(feature)
            else:
                write_file(path, _npy(feature))
        done += len(features)
        progress(done, len(missing))
    return broken


def recorded_mode(records: Sequence[Record]) -> LandmarkMode:
    """The mode in which the landmark files of a set were computed; "emola", that of the released data, if not recorded.

    Raises:
        DataError: an `about.json` is broken, or the files were computed in different modes.
    """
    modes = {folder: _mode_of(folder) for folder in sorted({record.landmark_path.parent for record in records})}
    if len(set(modes.values())) > 1:
        found = ", ".join(f"{folder}: {mode}" for folder, mode in modes.items())
        raise DataError(f"landmark files of different modes do not mix ({found}); compute one of them again")
    return next(iter(modes.values()))


def _mode_of(folder: Path) -> LandmarkMode:
    path = folder / ABOUT
    if not path.exists():
        return "emola"
    mode: LandmarkMode = _read(path).get("mode")
    if mode not in get_args(LandmarkMode):
        raise DataError(f"{path}: mode must be one of {get_args(LandmarkMode)}, not {mode!r}; compute the files again")
    return mode


def _check_interface(network: Path) -> None:
    encoder = OrtEncoder(network, 1)
    try:
        shape = encoder(np.zeros((2, 3, LANDMARK_SIDE, LANDMARK_SIDE), np.float32)).shape
    except Exception as error:  # onnxruntime's own exception types are not public
        raise DataError(
            f"{network} does not take (N, 3, {LANDMARK_SIDE}, {LANDMARK_SIDE}) pixels as 2d106det does: {error}"
        ) from None
    if shape != (2, LANDMARK_FEATURES):
        raise DataError(f"{network}: expected (N, {LANDMARK_FEATURES}) outputs as of 2d106det, found {shape} for N = 2")


def _claim(folder: Path, about: dict[str, Any], replace: bool) -> None:
    """Record how the files of a folder are made; if its files were made in another way, refuse or clear it."""
    found = _read(folder / ABOUT) if (folder / ABOUT).exists() else {}
    differing = [key for key in ("mode", "sha256", "face_scale") if found.get(key) != about[key]]
    if differing and replace:
        for path in folder.glob("*.npy"):
            path.unlink()
        write_json(folder / ABOUT, about)
    elif found:
        if differing:
            known = ", ".join(f"{key} {found.get(key)!r}" for key in differing)
            raise DataError(
                f"{folder} holds files of {known}; --replace computes them anew, or use another landmark folder"
            )
    elif any(folder.glob("*.npy")):
        raise DataError(
            f"{folder} holds landmark files but no {ABOUT}, as the released data, whose mode is 'emola'; they are not "
            "mixed with others: delete them, or use another landmark folder"
        )
    else:
        write_json(folder / ABOUT, about)


def _read(path: Path) -> Any:
    return read_json_object(path, DataError, advice="delete the folder and compute its files again")


def _is_complete(record: Record) -> bool:
    try:
        read_landmarks(record, LANDMARK_FEATURES)
    except DataError:
        return False
    return True


class _Network:
    """The network in one process."""

    def __init__(self, path: Path, mode: LandmarkMode, threads: int, face_scale: float) -> None:
        self._encoder = OrtEncoder(path, threads)
        self._mode, self._threads, self._face_scale = mode, threads, face_scale

    def __call__(self, pictures: Sequence[Path]) -> "list[Floats | str]":
        """(212,) for each picture, or the reason why it cannot be read."""
        with ThreadPoolExecutor(self._threads) as pool:
            found = list(pool.map(self._pixels, pictures))
        pixels = [each for each in found if not isinstance(each, str)]
        features = iter(self._encoder(np.stack(pixels)) if pixels else ())
        return [each if isinstance(each, str) else next(features) for each in found]

    def _pixels(self, picture: Path) -> "Floats | str":
        """(3, 192, 192) input of the network."""
        try:
            face = aligned_face(load_image(picture), self._face_scale)
        except ImageError as error:
            return str(error)
        return landmark_pixels(face.pixels, mode=self._mode, box_xyxy=face.box_in_crop)


def _npy(feature: Floats) -> bytes:
    file = io.BytesIO()
    np.save(file, feature.astype(np.float32))
    return file.getvalue()
