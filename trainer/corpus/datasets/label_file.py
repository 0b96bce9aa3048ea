"""Text and tables of label files."""

import csv
import io
from pathlib import Path

from sdk.errors import DataError

MAX_DIGITS = 9  # of the number of a frame


def read_text(path: Path) -> str:
    """Read a file of labels in UTF-8, with or without a byte order mark.

    Raises:
        DataError: the file cannot be read or is in another encoding.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x} at place {error.start}): save it as UTF-8"
        ) from None


def read_table(path: Path) -> list[list[str]]:
    """Read the rows of a CSV file that are not empty; errors as in `read_text`."""
    try:
        return [row for row in csv.reader(io.StringIO(read_text(path), newline="")) if row]
    except csv.Error as error:
        raise DataError(f"{path} is not a table of comma-separated values ({error}); copy it again") from None


def is_frame(text: str) -> bool:
    """Whether a text is the number of a frame."""
    return text.isdecimal() and len(text) <= MAX_DIGITS
