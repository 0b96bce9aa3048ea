"""The sheet on which a person checks the answers of an evaluation set (Sec. 3.1: "carefully check and revise each")."""

import csv
import html
import io
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from urllib.parse import quote

from sdk.errors import DataError
from sdk.files import write_file
from trainer.corpus.records import Record

SHEET = "review.csv"
COLUMNS = ("image", "question", "answer", "label", "verdict")
VERDICTS = {
    "ok": "the answer and its label are right",
    "revise": "take the answer and the label that the sheet holds now",
    "drop": "leave the record out",
}
_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Review</title>
<style>
body {{ font: 16px/1.4 sans-serif; margin: 2em }}
table {{ border-collapse: collapse }}
td, th {{ border: 1px solid #bbb; padding: .5em; vertical-align: top; text-align: left }}
td:last-child {{ min-width: 10em }}
img {{ width: 14em }}
</style>
<h1>{count} answers to review</h1>
<table>
<tr>{head}</tr>
{rows}
</table>
"""


@dataclass(frozen=True)
class ReviewedAnswer:
    """A row of the sheet; `image` is relative to its folder."""

    image: str
    question: str
    answer: str
    label: str
    verdict: str = ""


def write_review(records: Sequence[Record], folder: Path) -> None:
    """Write `review.csv` and `review.html`: picture, question, answer, label and verdict per record.

    A row that has a verdict in an earlier sheet of the folder is kept as it is there.
    """
    reviewed = {(row.image, row.question): row for row in read_review(folder) if row.verdict}
    fresh = [ReviewedAnswer(os.path.relpath(r.image_path, folder), r.question, r.answer, str(r.label)) for r in records]
    rows = [astuple(reviewed.get((row.image, row.question), row)) for row in fresh]
    table = io.StringIO()
    csv.writer(table).writerows([COLUMNS, *rows])
    content = table.getvalue().encode("utf-8-sig", "backslashreplace")  # Excel recognises UTF-8 by its byte order mark
    write_file(folder / SHEET, content)
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    lines = "\n".join(
        f"<tr>{_cells(quote(os.fsencode(image)), *map(html.escape, texts))}</tr>" for image, *texts in rows
    )
    page = _PAGE.format(count=len(rows), head=head, rows=lines)
    write_file(folder / "review.html", page.encode(errors="backslashreplace"))


def read_review(folder: Path) -> list[ReviewedAnswer]:
    """Read the sheet of a folder, as a person saved it; a missing sheet has no rows.

    Raises:
        DataError: the sheet has other columns, or is no CSV in UTF-8.
    """
    path = folder / SHEET
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode("utf-8-sig")
        header = text.partition("\n")[0]
        delimiter = ";" if ";" in header and "," not in header else ","  # spreadsheets of some countries write ";"
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); save it as CSV in UTF-8") from None
    wrong = next((line for line, row in enumerate(rows) if len(row) != len(COLUMNS)), 0)
    if tuple(rows[0] if rows else ()) != COLUMNS or wrong:
        raise DataError(
            f"{path}: expected the columns {', '.join(COLUMNS)}; found {', '.join(rows[wrong]) if rows else 'nothing'}"
        )
    return [ReviewedAnswer(*row) for row in rows[1:]]


def _cells(image: str, *texts: str) -> str:
    return "".join(f"<td>{cell}</td>" for cell in (f'<img src="{image}" loading="lazy" alt="">', *texts))
