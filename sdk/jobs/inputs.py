"""The inputs of a job: pictures and videos of folders, patterns and tables, on this machine or in an object store.

A source with "://" is read by fsspec, which knows object stores by the packages that are installed: s3fs for s3://,
gcsfs for gs://, adlfs for az://. Everything else is a path of this machine.
"""

import csv
import glob
import os
import stat
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sdk.errors import DependencyError, ImageError, UsageError
from sdk.faces.formats import SUFFIXES, UNREAD_SUFFIXES
from sdk.frames import VIDEO_SUFFIXES, is_url
from sdk.printable import one_line

TABLES = (".csv", ".parquet")
_MAX_BYTES = 1 << 30  # of a picture
_READ_AHEAD = 4  # pictures that are read while others are analysed
_EXPECTED = "expected a folder, a pattern, a .csv or .parquet of paths, a picture or a video"


def find_inputs(sources: Iterable[str], column: str = "path", *, offline: bool = False) -> list[str]:
    """List the inputs that sources name, in a fixed order.

    Args:
        sources: folders, patterns with `*`, tables (.csv, .parquet) of paths, pictures and videos; paths or URLs.
        column: of a table, with the paths. A relative path starts at the folder of the table. An empty cell is an input
            without a name, whose reading fails.
        offline: refuse URLs that need the network.

    Returns:
        A path or URL for each input. Files of folders and patterns are sorted; the same file may come twice.

    Raises:
        ImageError: a source does not exist or holds no picture and no video.
        UsageError: a table has no such column, or a URL cannot be read.
        DependencyError: the package for a kind of URL is missing.
    """
    inputs = [each for source in sources for each in _inputs_of(source, column, offline)]
    for url in {_kind(each): each for each in inputs if is_url(each)}.values():
        _check_url(url, offline)
    if not inputs:
        raise ImageError("the sources name no input; " + _EXPECTED)
    return inputs


def is_video(source: str) -> bool:
    """Whether the name of an input is that of a video."""
    return PurePosixPath(source).suffix.lower() in VIDEO_SUFFIXES


def read_pictures(sources: Sequence[str]) -> "Iterator[bytes | ImageError]":
    """Yield the content of each file, or the reason why it cannot be read; a few are read ahead in threads."""
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(_READ_AHEAD, "emola-read") as threads:
        for source in sources:
            waiting.append(threads.submit(_read, source))
            if len(waiting) > _READ_AHEAD:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())


@contextmanager
def local_file(source: str) -> Iterator[Path]:
    """A local path of an input; a file of an object store is copied for the duration of the block.

    Raises:
        ImageError: it cannot be read.
    """
    if not is_url(source):
        _check_file(source)
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="emola-") as folder:
        path = Path(folder) / f"input{PurePosixPath(source).suffix}"
        with _reading(source):
            files, place = _file_system(source)
            files.get_file(place, str(path))
        yield path


def _inputs_of(source: str, column: str, offline: bool) -> list[str]:
    if is_url(source):
        _check_url(source, offline)
    if PurePosixPath(source).suffix.lower() in TABLES:
        return list(_paths_in(source, column))
    with _reading(source):
        return _remote(source) if is_url(source) else _local(source)


def _local(source: str) -> list[str]:
    if os.path.isdir(source):
        found = sorted(str(path) for path in Path(source).rglob("*") if _is_input(path.name) and path.is_file())
        if not found:
            raise ImageError(f"{source} holds no picture and no video; {_EXPECTED}")
        return found
    if os.path.exists(source) or (_is_input(source) and not glob.has_magic(source)):
        return [source]
    found = sorted(path for path in glob.glob(source, recursive=True) if _is_input(path))
    if not found:
        reason = "matches no picture and no video" if glob.has_magic(source) else "does not exist"
        raise ImageError(f"{source} {reason}; {_EXPECTED}")
    return found


def _remote(source: str) -> list[str]:
    files, place = _file_system(source)
    if glob.has_magic(place):
        names = files.glob(place)
    elif not _is_input(place):
        names = files.find(place)
    else:
        return [source]
    found = sorted(files.unstrip_protocol(name) for name in names if _is_input(name))
    if not found:
        raise ImageError(f"{source} holds no picture and no video; {_EXPECTED}")
    return found


def _is_input(name: str) -> bool:
    """Whether a name is that of a picture or a video; one of a format that is not read gets a row that says so."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES | UNREAD_SUFFIXES | VIDEO_SUFFIXES


def _paths_in(table: str, column: str) -> Iterator[str]:
    folder = table.rpartition("/")[0] if is_url(table) else os.path.dirname(table)
    with _reading(table), _opened(table) as file:
        for path in _cells(table, file, column):
            is_whole = not path or is_url(path) or os.path.isabs(path)
            yield path if is_whole else f"{folder}/{path}" if is_url(table) else os.path.join(folder, path)


def _cells(table: str, file: IO[bytes], column: str) -> Iterator[str]:
    """The cells of a column as text; an empty one is ""."""
    if table.lower().endswith(".csv"):
        lines = csv.DictReader(line.decode("utf-8-sig" if not number else "utf-8") for number, line in enumerate(file))
        _check_column(table, column, lines.fieldnames or ())
        yield from (line[column] or "" for line in lines)
        return
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as parquet:
        _check_column(table, column, parquet.schema_arrow.names)
        for batch in parquet.iter_batches(columns=[column]):
            yield from ("" if cell is None else str(cell) for cell in batch.column(0).to_pylist())


def _check_column(table: str, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise UsageError(
            f"{table} has no column {column!r}, only {', '.join(names) or 'an empty first line'}; --column"
        )


@contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    if is_url(source):
        files, place = _file_system(source)
        with files.open(place, "rb") as file:
            yield file
    else:
        _check_file(source)
        with open(source, "rb") as file:
            yield file


def _result(reading: "Future[bytes]") -> "bytes | ImageError":
    try:
        return reading.result()
    except ImageError as error:
        return error


def _read(source: str) -> bytes:
    with _reading(source):
        if not is_url(source):
            _check_size(source, _check_file(source))
            return Path(source).read_bytes()
        files, place = _file_system(source)
        found = files.info(place)
        if found["type"] != "file":
            raise ImageError(f"{source} is a folder: expected the URL of an image file")
        _check_size(source, found["size"] or 0)
        content: bytes = files.cat_file(place)
        return content


def _check_file(path: str) -> int:
    """The size of a regular file in bytes: nobody waits for what comes through a pipe."""
    if not path:
        raise ImageError("the name of this input is empty: expected a path or a URL")
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path} does not exist: expected the path of a file") from None
    except ValueError as error:  # the name holds a null character
        raise ImageError(f"{path!r} cannot be the name of a file ({error})") from None
    if not stat.S_ISREG(found.st_mode):
        reason = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ImageError(f"{path} is {reason}: expected the path of a file")
    return found.st_size


def _check_size(source: str, size: int) -> None:
    if size > _MAX_BYTES:
        raise ImageError(f"{source} has {size / 1e6:.0f} MB, the limit is {_MAX_BYTES / 1e6:.0f}; scale it down")


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Turn every error of a file system into ImageError: fsspec's packages raise types of their own."""
    try:
        yield
    except (ImageError, UsageError, DependencyError, ImportError):
        raise
    except FileNotFoundError:
        raise ImageError(f"{source} does not exist; {_EXPECTED}") from None
    except Exception as error:
        raise ImageError(f"{source} cannot be read ({one_line(error) or type(error).__name__})") from None


def _kind(url: str) -> tuple[str, bool]:
    """What `_check_url` looks at: the scheme, and whether another URL is chained to it."""
    return url.partition("://")[0], "::" in url


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    files, place = url_to_fs(url)
    return files, str(place)


def _check_url(url: str, offline: bool) -> None:
    """Check that fsspec can read a URL here.

    Raises:
        UsageError: it cannot, or should not.
        DependencyError: a package is missing.
    """
    scheme = url.partition("://")[0].lower()
    if "::" in url:
        raise UsageError(f"{url}: chained URLs are not read; copy the files out first")
    if scheme in ("http", "https"):
        raise UsageError(f"{url}: pictures are not downloaded from web servers; download them and pass a folder")
    if offline and scheme not in ("file", "local", "memory"):
        raise UsageError(f"{url} needs the network, but --offline was given")
    try:
        from fsspec import get_filesystem_class
    except ImportError:
        raise DependencyError("fsspec", "batch", f"read {scheme}:// URLs") from None
    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        raise UsageError(f"{url} cannot be read: {one_line(error)}") from None
    except ValueError:
        raise UsageError(
            f"{url}: fsspec knows no {scheme}://; expected s3://, gs://, az:// or another of its names"
        ) from None
