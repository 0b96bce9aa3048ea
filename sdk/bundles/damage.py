"""A damaged file of a bundle is one clear error, whatever the library that reads it raises."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import IntegrityError

ARRAY_ERRORS = (OSError, ValueError, EOFError, TypeError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@contextmanager
def reading(path: Path, what: str, errors: tuple[type[Exception], ...] = ARRAY_ERRORS) -> Iterator[None]:
    """Turn what is raised inside into IntegrityError.

    Args:
        path: the file that is read.
        what: it is expected to be, e.g. "a table of n-grams".
        errors: that mean damage; the default are those of numpy over .npy and .npz files.
    """
    try:
        yield
    except errors as error:
        raise IntegrityError(f"{path}: not {what} ({error}); copy or download the bundle again") from None


@contextmanager
def open_arrays(path: Path) -> Iterator[Any]:
    """An .npz file, closed here: by its name numpy leaves a damaged one open. Damage is one of ARRAY_ERRORS."""
    if not zipfile.is_zipfile(path):  # which numpy would take for an array or a pickle
        raise ValueError("no complete .npz archive")
    with path.open("rb") as source, np.load(source, allow_pickle=False) as arrays:
        yield arrays


@contextmanager
def reading_arrays(path: Path, what: str) -> Iterator[Any]:
    """`reading` of an .npz file, given open.

    Args:
        path, what: as of `reading`.
    """
    with reading(path, what), open_arrays(path) as arrays:
        yield arrays
