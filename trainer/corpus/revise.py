"""Apply the verdicts of a person to an annotated evaluation set (Sec. 3.1: "carefully check and revise each")."""

import os
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdk.errors import DataError, ScoreError
from sdk.faba.prompts import TASKS, Task
from sdk.faba.rege import annotated_action_units, emotion_index
from sdk.faba.vocabulary import ACTION_UNITS
from sdk.files import write_json
from trainer.corpus.prepare import annotation_name
from trainer.corpus.records import Record, evaluation_row, read_records
from trainer.corpus.review import SHEET, VERDICTS, ReviewedAnswer, read_review
from trainer.corpus.stats import asks_for_units

REVISED = "revised"  # folder of the revised files, beside the sheet


def revise(folder: Path) -> dict[str, Any]:
    """Write the evaluation files of a set anew, with the verdicts of its sheet, to the folder `revised` in it.

    Args:
        folder: holds `review.csv` with verdicts from `VERDICTS`, and the evaluation files that `annotate` wrote. A row
            without a verdict leaves its record as it is.

    Returns:
        `verdicts`: how often each was given; `records`: how many are left by task.

    Raises:
        DataError: the sheet is missing or does not fit the files, or names the row that is wrong.
    """
    rows = read_review(folder)
    if not rows:
        raise DataError(f"{folder / SHEET} is missing or empty; `emola data annotate --split eval` writes it")
    by_task: dict[Task, dict[str, ReviewedAnswer]] = defaultdict(dict)
    for number, row in enumerate(rows, 2):
        place = f"{folder / SHEET}, row {number}"
        _check(row, place)
        if by_task[_task(row)].setdefault(row.image, row) is not row:
            raise DataError(f"{place}: an earlier row is of {row.image} and the same task, too; delete one of them")
    left = {task: _apply(by_task[task], folder, task) for task in TASKS if task in by_task}
    for task, records in left.items():
        write_json(folder / REVISED / annotation_name("eval", task), [evaluation_row(record) for record in records])
    verdicts = Counter(row.verdict.strip().lower() or "none" for row in rows)
    return {"verdicts": dict(verdicts), "records": {task: len(records) for task, records in left.items()}}


def _task(row: ReviewedAnswer) -> Task:
    return "action_units" if asks_for_units(row.question) else "emotion"


def _check(row: ReviewedAnswer, place: str) -> None:
    """Refuse a verdict that is unknown, and a revision that is not an answer or a label."""
    verdict = row.verdict.strip().lower()
    if verdict and verdict not in VERDICTS:
        known = "; ".join(f"{name}: {meaning}" for name, meaning in VERDICTS.items())
        raise DataError(f"{place}: the verdict is {row.verdict!r}; expected nothing or one of {known}")
    if verdict != "revise":
        return
    if not row.answer.strip():
        raise DataError(f"{place}: the revised answer is empty; write drop to leave the record out")
    try:
        if _task(row) == "emotion":
            emotion_index(row.label)
        elif unknown := annotated_action_units(row.label) - ACTION_UNITS.keys():
            raise ScoreError(f"FACS does not know AU{min(unknown)}")
    except ScoreError as error:
        raise DataError(f"{place}: {str(error).removeprefix('annotation 0: ')}") from None


def _apply(rows: dict[str, ReviewedAnswer], folder: Path, task: Task) -> list[Record]:
    """The records of a task that are left, with their revised answers and labels."""
    path = folder / annotation_name("eval", task)
    records = read_records(path, task=task)
    left = []
    for record in records:
        row = rows.get(os.path.relpath(record.image_path, folder.resolve()))
        if row is None:
            raise DataError(f"{folder / SHEET} has no row for {record.image}; it is not the sheet of {path.name}")
        verdict = row.verdict.strip().lower()
        if verdict not in ("revise", "drop") and (row.answer, row.label) != (record.answer, str(record.label)):
            raise DataError(
                f"{folder / SHEET}: answer or label of {row.image} is changed but its verdict is {row.verdict!r}; "
                "write revise to take the change over"
            )
        if verdict == "revise":
            record = replace(record, answer=row.answer.strip(), label=row.label.strip())
        if verdict != "drop":
            left.append(record)
    return left
