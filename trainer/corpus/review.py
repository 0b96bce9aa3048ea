"""The sheet on which a person checks the answers of an evaluation set (Sec. 3.1: "carefully check and revise each")."""

import csv
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from sdk.files import write_file
from trainer.corpus.records import Record

COLUMNS = ("image", "question", "answer", "label", "verdict")
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


def write_review(records: Sequence[Record], folder: Path) -> None:
    """Write `review.csv` and `review.html`: picture, question, answer, label and an empty verdict per record."""
    rows = [(os.path.relpath(r.image_path, folder), r.question, r.answer, str(r.label), "") for r in records]
    table = io.StringIO()
    csv.writer(table).writerows([COLUMNS, *rows])
    content = table.getvalue().encode("utf-8-sig", "backslashreplace")  # Excel recognises UTF-8 by its byte order mark
    write_file(folder / "review.csv", content)
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    lines = "\n".join(
        f"<tr>{_cells(quote(os.fsencode(image)), *map(html.escape, texts))}</tr>" for image, *texts in rows
    )
    page = _PAGE.format(count=len(rows), head=head, rows=lines)
    write_file(folder / "review.html", page.encode(errors="backslashreplace"))


def _cells(image: str, *texts: str) -> str:
    return "".join(f"<td>{cell}</td>" for cell in (f'<img src="{image}" loading="lazy" alt="">', *texts))
