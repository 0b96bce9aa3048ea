"""The table of many analyses as a file: CSV, Excel or Parquet, by the ending of its name."""

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.errors import DependencyError, UsageError
from sdk.files import replacing
from sdk.records import AnalysisRecord
from sdk.tables import COLUMNS, COUNTS, TEXTS, CsvFile, rows

if TYPE_CHECKING:
    from typing_extensions import Self

_WRITERS = {".xlsx": "xlsxwriter", ".parquet": "pyarrow"}
_OTHER_FORMATS = (".xls", ".xlsm", ".ods", ".feather", ".json", ".jsonl")
_EXCEL_ROWS = 1_048_575  # below the header


def open_table(path: Path) -> "CsvFile | FrameFile":
    """Open a table that analyses are added to: .xlsx and .parquet through pandas, any other name as CSV.

    Raises:
        UsageError: the ending is that of another format.
        DependencyError: pandas, or the package that writes the format, is not installed.
        OutputError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix in _OTHER_FORMATS:
        raise UsageError(f"--csv {path}: expected the name of a table: .csv, .xlsx or .parquet, not {suffix}")
    return FrameFile(path) if suffix in _WRITERS else CsvFile(path)


class FrameFile:
    """An Excel or Parquet file with one row per face, written when it is closed, also after an error.

    Without an analysis, an earlier file of that name stays.

    Args:
        path: file name ending in .xlsx or .parquet.

    Raises:
        DependencyError: a package is not installed.
    """

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        self._path = Path(path)
        self._suffix = self._path.suffix.lower()
        self._rows: list[dict[str, Any]] = []
        self._count = 0
        for package in ("pandas", _WRITERS[self._suffix]):
            try:
                importlib.import_module(package)
            except ImportError:
                raise DependencyError(package, "tables", f"write {self._path} (a .csv works without)") from None

    def add(self, analysis: AnalysisRecord) -> None:
        """Append one analysis."""
        self._rows += rows(analysis)
        self._count += 1

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._count or exception[0] is None:
            self._write()

    def _write(self) -> None:
        import pandas

        types = {name: "string" if name in TEXTS else "Int64" if name in COUNTS else "Float64" for name in COLUMNS}
        table = pandas.DataFrame(self._rows, columns=list(COLUMNS)).astype(types)  # whatever the values are
        if self._suffix == ".xlsx" and len(table) > _EXCEL_ROWS:
            raise UsageError(
                f"{self._path}: {len(table)} rows, an Excel sheet has {_EXCEL_ROWS}; write .parquet or .csv"
            )
        with replacing(self._path) as partial, partial.open("wb") as file:
            if self._suffix == ".parquet":
                table.to_parquet(file, index=False, engine="pyarrow")
                return
            # A text that begins with = stays a text: a file name could be made to run as a formula.
            options = {"options": {"strings_to_formulas": False, "strings_to_urls": False}}
            table.to_excel(file, index=False, engine="xlsxwriter", engine_kwargs=options)
