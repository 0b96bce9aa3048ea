"""Text from a file or a library, on its way to a terminal."""

import json
import re
from typing import Any

# Control characters except line feed and tab, and the marks that turn the direction of writing.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Replace control characters, which could move a terminal's cursor or set its title."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(error: BaseException) -> str:
    """The message of an error, which libraries may break into lines."""
    return " ".join(str(error).split())


def json_text(value: Any, indent: int = 1) -> str:
    """Indented JSON in which a list of numbers, such as a box or all landmarks of a face, takes one line."""
    return _json_lines(value, indent, "\n")


def _json_lines(value: Any, indent: int, end: str) -> str:
    """The JSON of a value; `end` is the line break before its closing bracket, with the indentation of that line."""
    inner = end + " " * indent
    if isinstance(value, dict) and value:
        pairs = (
            f"{json.dumps(key, ensure_ascii=False)}: {_json_lines(each, indent, inner)}" for key, each in value.items()
        )
        return "{" + inner + f",{inner}".join(pairs) + end + "}"
    if isinstance(value, (list, tuple)) and not _is_numbers(value):
        return "[" + inner + f",{inner}".join(_json_lines(each, indent, inner) for each in value) + end + "]"
    return json.dumps(value, ensure_ascii=False)


def _is_numbers(value: Any) -> bool:
    """Whether a list holds only numbers and lists of numbers, or nothing."""
    return all(
        _is_numbers(each) if isinstance(each, (list, tuple)) else isinstance(each, (int, float)) for each in value
    )


def find_control(value: Any) -> str | None:
    """The first text with a control character in a value of JSON, its keys included."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return next(filter(None, map(find_control, value)), None)
    return value if isinstance(value, str) and CONTROL.search(value) else None
