"""Coding sheets of action units, one file per sequence: the first column is the frame, the header names the units."""

import re
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as short

from sdk.errors import DataError
from trainer.corpus.datasets.label_file import is_frame, read_table


def read_occurrence(path: Path, units: Sequence[int]) -> tuple[dict[int, frozenset[int]], int]:
    """Read the active units of each frame of a CSV file.

    Args:
        path: header such as `Frame,1,2,4` or `frame,AU1,AU2,AU4`, then one row per frame; 1 active, 0 not active, any
            other number (9 in BP4D) not coded.
        units: codes to read.

    Returns:
        The active ones among `units` by frame number, and how many frames were left out because one of the units is
        not coded.

    Raises:
        DataError: a unit has no column, or a row does not have this form.
    """
    rows = read_table(path)
    columns = _columns(rows[0] if rows else [], path, units)
    active: dict[int, frozenset[int]] = {}
    for line, row in enumerate(rows[1:], 2):
        try:
            codes = {unit: int(row[column]) for unit, column in columns.items()}
        except (ValueError, IndexError):
            codes = {}
        if not codes or not is_frame(row[0].strip()):
            raise DataError(f"{path}: row {line} is not a frame number with a code per unit: {short(row[:5])}")
        frame = int(row[0])
        if all(code in (0, 1) for code in codes.values()):
            active[frame] = frozenset(unit for unit, code in codes.items() if code)
    return active, len(rows) - 1 - len(active)


def _columns(header: Sequence[str], path: Path, units: Sequence[int]) -> dict[int, int]:
    names = [re.fullmatch(r"\s*(?:AU)?\s*0*(\d{1,4})\s*", name, re.IGNORECASE) for name in header]
    found = {int(name[1]): column for column, name in enumerate(names) if name and column > 0}
    missing = [unit for unit in units if unit not in found]
    if missing:
        raise DataError(f"{path}: expected a header of action unit numbers; there is no column for {missing}")
    return {unit: found[unit] for unit in units}
