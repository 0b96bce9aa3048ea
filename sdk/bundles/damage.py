"""Read arrays that anybody may have written: nothing is unpickled or allocated that the file does not hold.

numpy and zipfile raise a dozen types of errors for damaged files, from TokenError to RuntimeError. Here every one of
them is a ValueError, or an IntegrityError that names the file of the bundle.
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sdk.bundles.files import AGAIN
from sdk.errors import IntegrityError

Array = npt.NDArray[Any]
SIZE = 512 << 20  # bytes of all arrays of an .npz file
_MEMBERS = 100  # arrays of an .npz file


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn every error of the block into IntegrityError.

    Args:
        path: the file that is read.
        what: expected content, e.g. "a table of n-grams".
    """
    try:
        yield
    except Exception as error:
        raise IntegrityError(f"{path}: not {what} ({error or type(error).__name__}); {AGAIN}") from None


def read_array(path: Path, *, mapped: bool = False) -> Array:
    """Read an .npy file.

    Args:
        mapped: map it into memory, read-only, instead of reading it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, truncated or of another format.
    """
    with _value_errors(), path.open("rb") as file:
        shape, order, dtype = _read_header(file)
        begin, count = file.tell(), math.prod(shape)
        found = path.stat().st_size - begin
        if count * dtype.itemsize > found:
            raise ValueError(f"expected {count * dtype.itemsize} bytes of numbers, found {found}")
        if mapped:
            return np.memmap(path, dtype, "r", begin, shape, order)
        return np.fromfile(file, dtype, count).reshape(shape, order=order)


def read_arrays(path: Path, limit: int = SIZE) -> dict[str, Array]:
    """Read all arrays of an .npz file.

    Args:
        limit: largest size of all arrays in bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, encrypted, larger than `limit` or of another format.
    """
    with _value_errors(), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if (size := sum(member.file_size for member in members)) > limit:
            raise ValueError(f"it expands to {size / 1e6:.0f} MB; expected at most {limit / 1e6:.0f} MB")
        if len(members) > _MEMBERS:
            raise ValueError(f"it has {len(members)} arrays; expected at most {_MEMBERS}")
        return {member.filename.removesuffix(".npy"): _read_member(archive, member) for member in members}


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as file:
        shape, order, dtype = _read_header(file)  # type: ignore[arg-type]
        content = file.read(member.file_size)
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{member.filename}: expected numbers of shape {shape}, found {len(content)} bytes")
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order=order)


def _read_header(file: BinaryIO) -> "tuple[tuple[int, ...], Any, np.dtype[Any]]":
    """Shape, order ("C" or "F") and type of an array of numbers or texts."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind not in "biufU" or dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"expected numbers, found {dtype} of shape {shape}")
    return shape, "F" if fortran else "C", dtype


@contextmanager
def _value_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile, zlib and the parser of headers raise many types
        raise ValueError(f"{type(error).__name__}: {error}") from None
