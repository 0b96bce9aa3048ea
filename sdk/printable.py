"""Text from a file or a library, on its way to a terminal."""

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


def find_control(value: Any) -> str | None:
    """The first text with a control character in a value of JSON, its keys included."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return next(filter(None, map(find_control, value)), None)
    return value if isinstance(value, str) and CONTROL.search(value) else None
