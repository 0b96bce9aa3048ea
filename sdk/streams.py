"""The standard streams of a command: they accept every character, and a closed one is replaced by the null device."""

import codecs
import os
import sys
from typing import TextIO

_ESCAPES = "emola.escape"


def prepare_streams() -> None:
    """Make stdin, stdout and stderr fit for use; before any file is opened.

    A descriptor that the caller closed would otherwise be given to the next file, and messages would be written into
    it. A character that the encoding of a stream does not have is written as an escape sequence of JSON, which keeps
    JSON documents valid.
    """
    for descriptor in (0, 1, 2):
        _occupy(descriptor)
    codecs.register_error(_ESCAPES, _escape)
    sys.stdout, sys.stderr = _usable(sys.stdout), _usable(sys.stderr)


def discard_stdout() -> None:
    """Send what is still to be written to the null device, after an error that the interpreter would meet again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _occupy(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, which is this one


def _usable(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if hasattr(stream, "reconfigure"):  # not so in a notebook or a test
        stream.reconfigure(errors=_ESCAPES)
    return stream


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = (units[index : index + 2].hex() for index in range(0, len(units), 2))
    return "".join(f"\\u{pair}" for pair in pairs), error.end
