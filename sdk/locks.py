"""One writer at a time: a lock file, which the operating system unlocks when its process ends, however that happens.

A lock file is empty and removed with its lock. A killed process leaves one that nobody holds; the next writer takes it
over, and so knows the names of the temporary files that were left, which contain its number.
"""

import errno
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from sdk.errors import OutputError

SUFFIX = ".emola-lock"  # the whole name of the lock file in a folder; after `.NAME` for a file of that name
PATIENCE_S = 2.0  # time to wait for another process; afterwards the two count as two runs with one output
_ENDS = ("partial", "before")  # of the new content, and of an earlier folder while the new one takes its name
_LONGEST_NAME = 200  # bytes; file systems take 255, the temporary names are longer
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # error numbers of a lock that another process holds
_open: set[int] = set()


class Lock:
    """An exclusive lock on an output.

    Without a lock if the file system offers none; then only the unique names of temporary files protect a writer.

    Args:
        path: of the lock file; its folder is created.
        output: what is locked, for messages.
        patience_s: time to wait for another process; None: as long as it takes.

    Attributes:
        number: of the lock file, as text: equal for the owners that take it over from each other, and for no others.

    Raises:
        OutputError: another process holds the lock.
        OSError: the lock file cannot be made.
    """

    def __init__(self, path: Path, output: Path, patience_s: float | None = PATIENCE_S) -> None:
        self._path = path
        until = None if patience_s is None else time.monotonic() + patience_s
        while (found := _acquire(path)) is None:
            if until is not None and time.monotonic() > until:
                raise OutputError(
                    f"another process is writing {output}; wait until it has finished, or choose another path"
                )
            time.sleep(0.01)
        self._descriptor, held = found
        self.number = f"{os.fstat(self._descriptor).st_ino:x}" if held else secrets.token_hex(8)
        _open.add(self._descriptor)

    def release(self) -> None:
        """Remove the lock file and unlock it."""
        _open.discard(self._descriptor)
        if sys.platform == "win32":  # an open file cannot be removed
            os.close(self._descriptor)
            _unlink(self._path)
        else:
            _unlink(self._path)
            os.close(self._descriptor)


@contextmanager
def writing_into(folder: Path, *, beside: bool = False, patience_s: float | None = PATIENCE_S) -> Iterator[None]:
    """Keep other processes from writing into the same folder.

    What a killed process left of single files in the folder is removed: its successor may not write those files again.

    Args:
        folder: created, with the lock file in it.
        beside: the folder is not created, and the lock file is beside it.
        patience_s: as in `Lock`.

    Raises:
        OutputError: another process writes into it, or it cannot be written.
    """
    try:
        path = sibling(folder.absolute(), SUFFIX, hidden=True) if beside else folder / SUFFIX
        after_another = path.exists()
        lock = Lock(path, folder, patience_s)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
    try:
        if after_another:
            _remove_left(folder)
        yield
    finally:
        lock.release()


def _remove_left(folder: Path) -> None:
    """Remove the lock files of single files that nobody holds, and their temporary files."""
    for path in folder.rglob(f".*{SUFFIX}"):
        target = path.with_name(path.name[1:].removesuffix(SUFFIX))
        if path.is_file():
            with suppress(OutputError, OSError):
                lock = Lock(path, target, patience_s=0.0)
                try:
                    clear(target, lock.number)
                finally:
                    lock.release()


def sibling(path: Path, suffix: str, *, hidden: bool = False) -> Path:
    """A path in the same folder, named after this one."""
    name = path.name if len(os.fsencode(path.name)) <= _LONGEST_NAME else sha256(os.fsencode(path.name)).hexdigest()
    return path.with_name(f"{'.' if hidden else ''}{name}{suffix}")


def temporary_places(target: Path, number: str) -> tuple[Path, Path]:
    """Where the owner of the lock with this number writes new content, and puts an earlier folder aside."""
    place, aside = (sibling(target, f".{number}.{end}") for end in _ENDS)
    return place, aside


def clear(target: Path, number: str) -> None:
    """Remove unfinished content, and give an earlier folder its name back; arguments as in `temporary_places`."""
    place, aside = temporary_places(target, number)
    if aside.exists() and not target.exists():
        aside.replace(target)
    remove(aside)
    remove(place)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _acquire(path: Path) -> tuple[int, bool] | None:
    """The descriptor of the file, and whether it is locked; None if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor)
        if sys.platform == "win32" or os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor, True
    except FileNotFoundError:  # its owner removed it just now
        pass
    except OSError as error:
        if error.errno not in _HELD:  # this file system has no locks
            return descriptor, False
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _leave_to_the_parent() -> None:
        """Close the locks in a forked process, which would otherwise hold them after the death of its parent."""
        while _open:
            os.close(_open.pop())

    os.register_at_fork(after_in_child=_leave_to_the_parent)


def _unlink(path: Path) -> None:
    with suppress(OSError):  # on Windows, another process has opened it
        path.unlink()
