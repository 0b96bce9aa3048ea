"""Give back the memory of files that a library has mapped into this process."""

import ctypes
import mmap
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SMAPS = Path("/proc/self/smaps")
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S{4} \S+ \S+ \d+ +(.*)\n")


def drop_pages(path: Path) -> None:
    """Let the system take back the mapped pages of a file. They are read again, from its cache, when they are used.

    On Linux only. A mapping in which this process has changed a page stays as it is.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    for begin, end in list(_unchanged(str(path.resolve()))):
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def _unchanged(name: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each mapping of a file whose pages are those of the file."""
    found: tuple[int, int] | None = None
    with suppress(OSError), _SMAPS.open(errors="surrogateescape") as lines:
        for line in lines:
            if match := _MAPPING.fullmatch(line):
                found = (int(match[1], 16), int(match[2], 16)) if match[3] == name else None
            elif found and line.startswith("Anonymous:") and line.split()[1] == "0":  # its own copies
                yield found
