"""Write files so that an interrupted process leaves none half-written: rename complete files, or append lines."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdk.errors import DataError, SdkError
from sdk.locks import PATIENCE_S, SUFFIX
from sdk.replacement import Replacement, output_errors
from sdk.untrusted_json import parse_json, read_json_object

_TURN_S = 60.0  # limit for the writers of a small file before


def temporary(path: Path) -> Path:
    """A fixed temporary name for `path`, for content that a later run continues; needs a lock."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def replacing(path: Path, *, folder: bool = False, patience_s: float = PATIENCE_S) -> Iterator[Path]:
    """Yield a temporary path and rename it to `path` when the block ends; see `sdk.replacement.Replacement`.

    If the block raises, the temporary path is removed and `path` stays as it was.

    Args:
        path: to be replaced.
        folder: the block fills a folder, which is there; otherwise it writes a file.
        patience_s: as in `sdk.locks.Lock`.

    Raises:
        OutputError: the path cannot be written, or another process is writing it.
    """
    new = Replacement(path, folder=folder, patience_s=patience_s)
    try:
        with output_errors(path):
            yield new.place
    except BaseException:
        new.discard()
        raise
    new.keep()


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it; several writers of one file take turns."""
    with replacing(path, patience_s=_TURN_S) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file under a temporary name and rename it.

    What UTF-8 does not have, parts of file names in other encodings, is written as JSON escapes.
    """
    write_file(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def claim_folder(
    record: Path, content: Mapping[str, Any], what: str, error: type[SdkError], *, shared: bool = False
) -> bool:
    """Record the purpose of an output folder before anything else is written there.

    Args:
        record: path of the JSON file in that folder.
        content: settings that decide the content of the folder; other keys of an existing record are ignored.
        what: name of the content for messages, e.g. "training run".
        error: type of the error to raise.
        shared: the folder may hold other files before it is claimed.

    Returns:
        True if the folder was claimed before with the same content.

    Raises:
        SdkError: of type `error`; the folder holds something else.
    """
    folder = record.parent
    if record.is_file():
        found = read_json_object(record, error, advice="choose another folder")
        changed = list(_changes(found, content))
        if changed:
            raise error(f"{folder} holds another {what}: {', '.join(changed)} differ; choose another folder")
        return True
    if not shared and folder.exists() and any(path.name != SUFFIX for path in folder.iterdir()):
        raise error(f"{folder} is not empty and holds no {what}; choose another folder")
    write_json(record, content)
    return False


def _changes(found: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[str]:
    """The keys whose values differ, with both values; keys of a nested object as `recipe.seed`."""
    for key, value in content.items():
        before = found.get(key)
        if isinstance(before, dict) and isinstance(value, Mapping):
            nested = {**dict.fromkeys(before), **value}  # a key that only the record has is a change, too
            yield from (f"{key}.{change}" for change in _changes(before, nested))
        elif before != value:
            yield f"{key} (found {_short(before)}, expected {_short(value)})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def append_journal(path: Path, row: Mapping[str, Any]) -> None:
    """Add one object to a JSONL file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_journal(path: Path, **types: type[Any]) -> list[dict[str, Any]]:
    """Read the objects of a JSONL file; an incomplete last line is removed from the file.

    Args:
        path: of the file; a missing file holds nothing.
        types: keys that every object must have, with the types of their values.

    Raises:
        DataError: names the line that is not such an object.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_file(path, whole)
    return read_lines(path, **types)


def read_lines(path: Path, **types: type[Any]) -> list[dict[str, Any]]:
    """Read the objects of a JSONL file, one per line; arguments and errors as in `read_journal`."""
    lines = enumerate(path.read_bytes().split(b"\n"), 1)
    return [_read_line(line, f"{path}, line {number}", types) for number, line in lines if line.strip()]


def _read_line(line: bytes, place: str, types: Mapping[str, type[Any]]) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"{place} is not JSON ({error}); delete this line, or the file to start again") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected a JSON object, found {_short(row)}; delete this line")
    for key, kind in types.items():
        if type(row.get(key)) is not kind:
            raise DataError(
                f"{place}: expected {key} of type {kind.__name__}, found {_short(row.get(key))}; delete this line"
            )
    return row
