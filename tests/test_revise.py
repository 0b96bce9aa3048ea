"""`emola data revise`: the verdicts of a person are applied to an annotated evaluation set."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from sdk.cli import main

pytest.importorskip("torch")

from trainer.corpus.prepare import annotation_name
from trainer.corpus.records import Record, evaluation_row, read_records
from trainer.corpus.review import COLUMNS, read_review, write_review
from trainer.corpus.templates import QUESTION_TEMPLATES

ANSWERS = {"emotion": ("The face is happy.", "Happiness"), "action_units": ("AU6 and AU12.", "6, 12")}


@pytest.fixture
def folder(tmp_path):
    """An evaluation set of four faces with both tasks, and its review sheet."""
    place = tmp_path / "set/eval"
    (place / "images").mkdir(parents=True)
    records = []
    for name in "abcd":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place / f"images/{name}.jpg")
        for task, (answer, label) in ANSWERS.items():
            files = f"eval/images/{name}.jpg", f"eval/landmarks/{name}.npy"
            records.append(Record(name, place.parent, *files, QUESTION_TEMPLATES[task][0], answer, label))
    for task, (answer, _) in ANSWERS.items():
        rows = [evaluation_row(record) for record in records if record.answer == answer]
        (place / annotation_name("eval", task)).write_text(json.dumps(rows))
    write_review(records, place)
    return place


def edit(folder, delimiter=",", **changes):
    """Save the sheet as a spreadsheet does; `changes`: "a_emotion" -> the last cells of that row."""
    rows = [[row.image, row.question, row.answer, row.label, row.verdict] for row in read_review(folder)]
    for place, cells in changes.items():
        name, task = place.split("_", 1)
        (row,) = [r for r in rows if f"/{name}.jpg" in r[0] and r[1] == QUESTION_TEMPLATES[task][0]]
        row[len(row) - len(cells) :] = cells
    table = io.StringIO()
    csv.writer(table, delimiter=delimiter).writerows([COLUMNS, *rows])
    (folder / "review.csv").write_text(table.getvalue(), encoding="utf-8-sig")


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_verdicts_are_applied(folder, capsys, delimiter):
    """One record is kept, one dropped, one gets another answer and label, one was not looked at."""
    edit(
        folder,
        delimiter,
        a_emotion=["ok"],
        b_emotion=["Drop"],
        c_emotion=["The face is sad.", "Sadness", "revise"],
        d_action_units=["AU4.", "4", "revise"],
    )
    assert main(["data", "revise", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdicts"] == {"ok": 1, "drop": 1, "revise": 2, "none": 4}
    assert found["records"] == {"emotion": 3, "action_units": 4}
    emotion = read_records(folder / "revised/eval_emotion_anno.json", task="emotion")
    assert [(r.image_path.name, r.answer, r.label) for r in emotion] == [
        ("a.jpg", "The face is happy.", "Happiness"),
        ("c.jpg", "The face is sad.", "Sadness"),
        ("d.jpg", "The face is happy.", "Happiness"),
    ]
    units = read_records(folder / "revised/eval_au_anno.json", task="action_units")
    assert [(r.answer, r.label) for r in units][-1] == ("AU4.", "4")
    assert all(record.image_path.is_file() for record in emotion + units)
    assert len(read_records(folder / "eval_emotion_anno.json", task="emotion")) == 4, "the first answers are kept"


def test_verdicts_outlive_a_resumed_annotation(folder):
    """A resumed run writes the sheet again and keeps the rows that a person has judged."""
    edit(folder, a_emotion=["The face is sad.", "Sadness", "revise"])
    records = [
        Record(
            name, folder.parent, f"eval/images/{name}.jpg", "x.npy", QUESTION_TEMPLATES["emotion"][0], "New.", "Fear"
        )
        for name in "ae"
    ]
    write_review(records, folder)
    assert [(row.answer, row.verdict) for row in read_review(folder)] == [("The face is sad.", "revise"), ("New.", "")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a_emotion": ["fine"]}, "row 2: the verdict is 'fine'; expected nothing or one of ok: "),
        ({"a_emotion": ["The face is sad.", "Sadness", "ok"]}, "is changed but its verdict is 'ok'; write revise"),
        ({"a_emotion": ["The face is sad.", "Gloom", "revise"]}, "row 2: label must be 0..6 or one of"),
        ({"a_action_units": ["AU4.", "99", "revise"]}, "row 3: FACS does not know AU99"),
        ({"a_emotion": [" ", "Sadness", "revise"]}, "row 2: the revised answer is empty"),
    ],
)
def test_a_wrong_sheet_is_one_line(folder, capsys, changes, message):
    """Nothing is written."""
    edit(folder, **changes)
    assert main(["data", "revise", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "revised").exists()


def test_two_verdicts_on_one_answer_are_refused(folder, capsys):
    """A row that was copied and not deleted: neither verdict is silently lost."""
    sheet = folder / "review.csv"
    sheet.write_text(sheet.read_text(encoding="utf-8-sig") + sheet.read_text(encoding="utf-8-sig").splitlines()[1])
    assert main(["data", "revise", str(folder)]) == 1
    assert "a.jpg and the same task, too; delete one of them" in capsys.readouterr().err
    assert not (folder / "revised").exists()


def test_other_columns_and_no_sheet(folder, capsys):
    (folder / "review.csv").write_text("image,answer\na.jpg,x\n")
    assert main(["data", "revise", str(folder)]) == 1
    assert (
        "expected the columns image, question, answer, label, verdict; found image, answer" in capsys.readouterr().err
    )
    (folder / "review.csv").write_text('image,question,answer,label,verdict\na.jpg,"' + "x" * 200_000)
    assert main(["data", "revise", str(folder)]) == 1
    assert "review.csv cannot be read (field larger than field limit (131072)); save it" in capsys.readouterr().err
    (folder / "review.csv").unlink()
    assert main(["data", "revise", str(folder)]) == 1
    assert "`emola data annotate --split eval` writes it" in capsys.readouterr().err
