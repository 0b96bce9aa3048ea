"""Report a damaged file of a bundle as IntegrityError, for every library that reads such files."""

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
    """Turn errors of the block into IntegrityError.

    Args:
        path: the file that is read.
        what: expected content, e.g. "a table of n-grams".
        errors: types of errors that mean damage; the default are those of numpy for .npy and .npz files.
    """
    try:
        yield
    except errors as error:
        raise IntegrityError(f"{path}: not {what} ({error}); copy or download the bundle again") from None


@contextmanager
def open_arrays(path: Path) -> Iterator[Any]:
    """Open an .npz file. Damage raises one of ARRAY_ERRORS.

    The file is opened and closed here, because numpy leaves a damaged file open when it opens it by name.
    """
    if not zipfile.is_zipfile(path):  # numpy would read it as an array or a pickle
        raise ValueError("no complete .npz archive")
    with path.open("rb") as source, np.load(source, allow_pickle=False) as arrays:
        yield arrays


@contextmanager
def reading_arrays(path: Path, what: str) -> Iterator[Any]:
    """Open an .npz file and turn errors of the block into IntegrityError; arguments as in `reading`."""
    with reading(path, what), open_arrays(path) as arrays:
        yield arrays
