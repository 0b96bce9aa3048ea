"""A damaged file of a bundle is one clear error, whatever the library that reads it raises."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdk.errors import IntegrityError

_OF_ARRAYS = (OSError, ValueError, EOFError, TypeError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@contextmanager
def reading(path: Path, what: str, errors: tuple[type[Exception], ...] = _OF_ARRAYS) -> Iterator[None]:
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
