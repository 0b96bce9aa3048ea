"""Read JSON that anybody may have written: one reader for files, lines and replies, with limits of size and depth.

Everything that is wrong with a text is a ValueError: no RecursionError, no MemoryError, and no number or letter that
fails later (integers of more than 20 digits, infinite numbers, halves of a surrogate pair).
"""

import json
import math
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sdk.errors import SdkError

DEPTH = 64  # levels of lists and objects
SIZE = 64 << 20  # bytes of a file
DATA_SIZE = 1 << 30  # bytes of a data set's file
LINE_SIZE = 4 << 20  # bytes of a line of JSONL

_CHUNK = 1 << 20  # bytes; one read of `limit` bytes would take that much memory for any file
_DIGITS = 20  # of an integer; 64 bits have at most as many


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded; in file names, Python keeps other bytes as halves of surrogate pairs."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def parse_json(content: "str | bytes") -> Any:
    """Parse a JSON text in UTF-8, with or without a byte order mark, which programs on Windows write.

    Raises:
        ValueError: it is not JSON, or beyond the limits; the message says what is wrong.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse, parse_int=_integer, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"more than {DEPTH} levels deep") from None
    except MemoryError:
        raise ValueError("it does not fit into memory") from None
    except json.JSONDecodeError as error:
        raise ValueError(str(error)) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 at byte {error.start}") from None
    _check_depth(value)
    if b"\\ud" in data or b"\\uD" in data:
        _check_letters(value)
    return value


def read_json(
    path: Path, error: type[SdkError], *, limit: int = SIZE, advice: str = "copy it again or make it anew"
) -> Any:
    """Read a JSON file.

    Args:
        error: type of the error to raise.
        limit: largest size in bytes.
        advice: what to do about a damaged file; ends the message.

    Raises:
        SdkError: of type `error`; the file cannot be read, is too large or is not JSON.
    """
    try:
        with path.open("rb") as file:
            content = b"".join(islice(iter(lambda: file.read(_CHUNK), b""), limit // _CHUNK + 1))
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror})") from None
    if len(content) > limit:
        raise error(f"{path}: expected JSON of at most {limit / 1e6:.0f} MB, found more; {advice}")
    try:
        return parse_json(content)
    except ValueError as cause:
        raise error(f"{path} is not JSON ({cause}); {advice}") from None


def read_json_object(
    path: Path, error: type[SdkError], *, limit: int = SIZE, advice: str = "copy it again or make it anew"
) -> dict[str, Any]:
    """Read a JSON file that holds one object; arguments and errors as in `read_json`."""
    content = read_json(path, error, limit=limit, advice=advice)
    if not isinstance(content, dict):
        raise error(f"{path}: expected a JSON object, found {_kind(content)}; {advice}")
    return content


def read_json_lines(path: Path, error: type[SdkError], *, advice: str = "copy it again or make it anew") -> list[Any]:
    """Read a JSONL file, one JSON text in each line; empty lines are skipped.

    Raises:
        SdkError: of type `error`; the file cannot be read, or a line is longer than LINE_SIZE or is not JSON.
    """
    rows = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LINE_SIZE + 1), b""), 1):
                if len(line) > LINE_SIZE:
                    raise ValueError(f"line {number} is longer than {LINE_SIZE / 1e6:.0f} MB")
                if line.strip():
                    rows.append(_parse_line(line, number))
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror})") from None
    except ValueError as cause:
        raise error(f"{path} is not JSONL ({cause}); {advice}") from None
    return rows


def _parse_line(line: bytes, number: int) -> Any:
    try:
        return parse_json(line)
    except ValueError as cause:
        raise ValueError(f"line {number}: {cause}") from None


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a single value")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS + digits.startswith("-"):
        raise ValueError(f"an integer has more than {_DIGITS} digits")
    return int(digits)


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError("a number is infinite")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        level = [part for item in level for part in _parts(item) if isinstance(part, (dict, list))]
        if not level:
            return
    raise ValueError(f"more than {DEPTH} levels deep")


def _check_letters(value: Any) -> None:
    level = [value]
    while level:
        if not all(is_utf8(item) for item in level if isinstance(item, str)):
            raise ValueError("half of a surrogate pair")
        level = [part for item in level for part in _parts(item)]


def _parts(item: Any) -> Any:
    """The keys and values of an object, the items of a list; nothing of any other value."""
    if isinstance(item, dict):
        return chain(item, item.values())
    return item if isinstance(item, list) else ()
