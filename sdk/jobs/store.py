"""Results of a job while it runs: an SQLite file beside the output, which a later run continues.

Results belong to contents, by SHA-256, and inputs refer to contents. So nothing is analysed twice when a job is stopped
and started again, when files are renamed or added, or when a worker delivers a result a second time.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sdk.errors import OutputError
from sdk.files import temporary
from sdk.jobs.job import Record
from sdk.locks import writing_into
from sdk.printable import one_line
from sdk.replacement import output_errors
from sdk.untrusted_json import parse_json

if TYPE_CHECKING:
    from typing_extensions import Self

_COMMIT_S = 1.0  # a killed process loses the results of this time
_TABLES = """
CREATE TABLE IF NOT EXISTS settings (content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS contents (sha256 BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (sha256 BLOB, part INTEGER, analysis TEXT NOT NULL, PRIMARY KEY (sha256, part));
DROP TABLE IF EXISTS inputs;
CREATE TABLE inputs (number INTEGER PRIMARY KEY, sha256 BLOB, error TEXT);
"""
_RESULTS = f"""
SELECT number, sha256, part, analysis, NULL AS error FROM inputs JOIN parts USING (sha256)
UNION ALL SELECT number, sha256, {1 << 62}, NULL, error FROM inputs WHERE error IS NOT NULL
ORDER BY number, part
"""


class Result(NamedTuple):
    """One row: an analysis in JSON, or the error of an input."""

    number: int
    sha256: bytes | None
    analysis: str | None
    error: str | None


class Store:
    """The results so far of the job that writes `out`. A context manager; one process at a time.

    Args:
        out: path of the output; the file is beside it.
        settings: what decides the results.

    Attributes:
        count: inputs that have a result.
        failed: those of them that failed.

    Raises:
        OutputError: another process runs this job, or the file cannot be written or holds results of other settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = temporary(out), settings
        self.count = self.failed = 0
        self._committed = time.monotonic()
        with ExitStack() as opened:
            opened.enter_context(writing_into(self._path, beside=True))
            with self._errors():
                self._connection = sqlite3.connect(self._path)
                opened.callback(self._connection.close)
                self._connection.executescript(_TABLES)
                self._claim()
            self._opened = opened.pop_all()

    def _claim(self) -> None:
        found = self._connection.execute("SELECT content FROM settings").fetchone()
        if found is None:
            self._connection.execute("INSERT INTO settings VALUES (?)", (json.dumps(self._settings),))
            return
        try:
            settings = parse_json(found[0])
        except ValueError as error:
            raise OutputError(f"{self._path}: its settings are not JSON ({error}); remove it to start again") from None
        check_settings(self._path, settings, self._settings)

    def known(self) -> list[bytes]:
        """Digests of the contents that are completely analysed."""
        with self._errors():
            return [digest for (digest,) in self._connection.execute("SELECT sha256 FROM contents")]

    def add(self, record: Record) -> bool:
        """Keep a record; return whether it is the first that completes its input."""
        with self._errors():
            if record.analysis is not None:
                self.keep(record.sha256, record.part, record.analysis)
            return record.last and self._complete(record)

    def keep(self, sha256: bytes | None, part: int, analysis: str) -> None:
        """Keep one analysis of a content."""
        with self._errors():
            self._connection.execute("INSERT OR IGNORE INTO parts VALUES (?, ?, ?)", (sha256, part, analysis))
            if time.monotonic() - self._committed > _COMMIT_S:
                self._connection.commit()
                self._committed = time.monotonic()

    def complete(self, sha256: bytes | None) -> None:
        """Record that all analyses of a content are kept."""
        with self._errors():
            self._connection.execute("INSERT OR IGNORE INTO contents VALUES (?)", (sha256,))

    def _complete(self, record: Record) -> bool:
        values = (record.number, record.sha256, record.error)
        if not self._connection.execute("INSERT OR IGNORE INTO inputs VALUES (?, ?, ?)", values).rowcount:
            return False
        if record.error is None:
            self.complete(record.sha256)
        self.count, self.failed = self.count + 1, self.failed + (record.error is not None)
        return True

    def results(self) -> Iterator[Result]:
        """Yield all rows, ordered by input and frame; the error of a video comes after its frames."""
        with self._errors():
            self._connection.commit()
            for number, sha256, _, analysis, error in self._connection.execute(_RESULTS):
                yield Result(number, sha256, analysis, error)

    def remove(self) -> None:
        """Remove the file: the results are elsewhere."""
        self._connection.close()
        self._path.unlink()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with output_errors(self._path):
            try:
                yield
            except sqlite3.DatabaseError as error:
                if "full" in str(error):
                    raise
                raise OutputError(f"{self._path}: {one_line(error)}; remove it to start again") from error

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._opened:
            if self._path.exists():
                self._leave()

    def _leave(self) -> None:
        """Keep the file for a later run, unless it holds nothing."""
        with self._errors():
            self._connection.commit()
            is_empty = self._connection.execute("SELECT 1 FROM parts LIMIT 1").fetchone() is None
        if is_empty:
            self.remove()


def check_settings(path: Path, found: Any, expected: Mapping[str, Any]) -> None:
    """Check that results were made with the same settings.

    Args:
        found: what the file says about its settings, parsed from JSON.

    Raises:
        OutputError: they were not; names the settings that differ.
    """
    if not isinstance(found, dict):
        raise OutputError(f"{path}: expected an object of settings, found another value; remove it to start again")
    changed = [name for name, value in expected.items() if found.get(name) != value]
    if changed:
        names = ", ".join(f"{name} (found {found.get(name)}, expected {expected[name]})" for name in changed)
        raise OutputError(f"{path} holds results of another job: {names} differ; choose another --out, or remove it")
