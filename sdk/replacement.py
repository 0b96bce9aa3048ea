"""New content of a file or a folder, written beside it and renamed when it is complete."""

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdk.errors import OutputError, SdkError
from sdk.locks import PATIENCE_S, SUFFIX, Lock, clear, remove, sibling, temporary_places

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEARLY_FULL = 1 << 20  # bytes that are free after a write failed
_MOUNTED = (errno.EBUSY, errno.EXDEV)  # a file mounted by itself, as containers do, cannot be renamed over


class Replacement:
    """New content of a path under a temporary name of its own, until `keep` or `discard` is called.

    Links are followed. A file keeps its mode and, where permitted, its owner. What is neither a file nor a folder (a
    pipe, a device) is opened and written as it is, and so is a file to which stdout or stderr is redirected. Other
    names of the same file (hard links) keep the earlier content. What a killed process left is removed.

    Args:
        path: to be replaced; its folder is created.
        folder: the content is a folder, which is made; otherwise it is a file, which is there and empty.
        patience_s: as in `sdk.locks.Lock`.

    Attributes:
        place: where to write the content.
        is_direct: `place` is the path itself, a pipe or a device, of which nothing can be taken back.

    Raises:
        OutputError: the path cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path, *, folder: bool = False, patience_s: float = PATIENCE_S) -> None:
        self._path, self._folder = path, folder
        self.is_direct = not folder and _is_direct(path)
        if self.is_direct:
            self.place = path
            return
        self._target = Path(os.path.realpath(path)) if path.is_symlink() else path
        with output_errors(path):
            self._before = _state(self._target, folder)
            self._lock = Lock(sibling(self._target, SUFFIX, hidden=True), path, patience_s)
        try:
            with output_errors(path):
                self.place, self._aside = temporary_places(self._target, self._lock.number)
                clear(self._target, self._lock.number)
                self._make()
        except BaseException:
            self._lock.release()
            raise

    def keep(self) -> None:
        """Give the content its name."""
        if self.is_direct:
            return
        try:
            with output_errors(self._path):
                if self._before and not self._folder:
                    _copy_state(self._before, self.place)
                if self._folder and self._target.exists():
                    self._target.replace(self._aside)
                self._rename()
        except BaseException:
            self.discard()
            raise
        if self._folder:
            remove(self._aside)
        self._lock.release()

    def discard(self) -> None:
        """Remove the content; the path stays as it was."""
        if not self.is_direct:
            clear(self._target, self._lock.number)
            self._lock.release()

    def _make(self) -> None:
        if self._folder:
            self.place.mkdir()
        else:  # nobody else reads the new content of a file that only its owner may read
            os.close(os.open(self.place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if self._before else 0o666))

    def _rename(self) -> None:
        try:
            self.place.replace(self._target)
        except OSError as error:
            if self._folder or error.errno not in _MOUNTED:
                raise
            shutil.copyfile(self.place, self._target)
            remove(self.place)


def _is_direct(path: Path) -> bool:
    """Whether a path cannot be replaced by a file: a pipe, a device, or the file that stdout or stderr writes."""
    try:
        found = path.stat()
    except OSError:
        return False
    if any(is_kind(found.st_mode) for is_kind in (stat.S_ISFIFO, stat.S_ISCHR, stat.S_ISBLK, stat.S_ISSOCK)):
        return True
    return any(os.path.samestat(found, stream) for stream in _standard_streams())


def _standard_streams() -> Iterator[os.stat_result]:
    for descriptor in (1, 2):
        with suppress(OSError):
            yield os.fstat(descriptor)


def _state(target: Path, folder: bool) -> os.stat_result | None:
    """Mode and owner of what will be replaced; None if there is nothing.

    Raises:
        OSError: it is of the other kind, or write-protected.
    """
    try:
        found = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode) != folder:
        raise OSError(errno.EISDIR, "it is a file, not a folder" if folder else "it is a folder, not a file")
    if not folder and not os.access(target, os.W_OK):
        raise OSError(errno.EACCES, "it is write-protected")
    return found


def _copy_state(before: os.stat_result, place: Path) -> None:
    if sys.platform != "win32":
        with suppress(OSError):  # only the superuser may set the owner
            os.chown(place, before.st_uid, before.st_gid)
    place.chmod(stat.S_IMODE(before.st_mode))


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Raise an OutputError for what a full disk or a folder without permission does to a writer of `path`.

    Errors about other files pass through, and so does that of a pipe whose reader has gone.
    """
    try:
        yield
    except (SdkError, BrokenPipeError):
        raise
    except Exception as error:
        if disk_is_full(error, path.parent):
            raise OutputError(f"{path} cannot be written: the disk is full; make room and start again") from error
        if not isinstance(error, OSError) or not _is_about(error, path):
            raise
        raise OutputError(f"{path} cannot be written ({error.strerror or error}); choose another path") from error


def _is_about(error: OSError, path: Path) -> bool:
    """Whether an error names no file, as those of writing do, or the output, its temporary names or a folder above."""
    if not isinstance(error.filename, (str, os.PathLike)):
        return True
    found = Path(os.path.abspath(error.filename))
    for output in {Path(os.path.abspath(path)), Path(os.path.realpath(path))}:
        own = {output, sibling(output, SUFFIX, hidden=True)}
        if found in own or found in output.parents or str(found).startswith(str(sibling(output, "."))):
            return True
    return False


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Whether a full disk is the cause; safetensors, torch and numpy report it without an error number."""
    if isinstance(error, SdkError):
        return error.__cause__ is not None and disk_is_full(error.__cause__, folder)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    if os.strerror(errno.ENOSPC) in str(error):
        return True
    existing = next((each for each in (folder, *folder.absolute().parents) if each.is_dir()), None)
    return existing is not None and shutil.disk_usage(existing).free < _NEARLY_FULL
