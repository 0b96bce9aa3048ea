"""`emola paper`: published figures, data that are missing, runs that go on, rows of ours with intervals."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, SHARED
from made_up_datasets import write_data, write_faba

from sdk.cli import main
from sdk.errors import TrainingError
from trainer.evaluation.evaluate import EvaluationSet, answer, evaluate
from trainer.paper.execute import execute, waiting
from trainer.paper.experiments import MODELS, STUDIES, Evaluation, Job, OwnRow, Place
from trainer.paper.figures import Figure, row_figures
from trainer.paper.published import TABLES
from trainer.paper.report import Report, csv_text, markdown, write_report

# Rows whose printed mean is not that of the printed units; the paper has them so.
UNEVEN = {("4", "DRML"), ("4", "EAC-Net"), ("5", "DRML"), ("5", "EAC-Net"), ("5", "SRERL"), ("7", "MiniGPT4-v2")}


def test_the_averages_of_the_published_rows():
    """Avg. and S_re of action units are the mean of the units of the row, within rounding."""
    wrong = set()
    for table in TABLES.values():
        units = [
            index for index, column in enumerate(table.columns) if column.startswith("AU") and column[2:].isdigit()
        ]
        mean = next((i for i, column in enumerate(table.columns) if column in ("Avg.", "AU S_re")), None)
        for row in table.rows if units else ():
            if abs(np.mean([row.values[i] for i in units]) - row.values[mean]) > 0.11:
                wrong.add((table.number, row.method))
    assert wrong == UNEVEN


def test_the_published_rows_are_those_of_the_paper():
    """Every row, figure by figure, in the text of the paper."""
    text = SHARED / "paper.md"
    if not text.exists():
        pytest.skip(f"no text of the paper at {text}")
    content = re.sub(r"</?b>|\*", "", text.read_text(encoding="utf-8"))
    lines = {tuple(float(n) for n in re.findall(r"(?<=\t)\d+\.\d+", line)) for line in content.splitlines()}
    for table in TABLES.values():
        assert all(len(row.values) == len(table.columns) for row in table.rows)
        missing = [row.method for row in table.rows if row.values not in lines]
        assert not missing, f"Table {table.number}"
    assert [len(table.rows) for table in TABLES.values()] == [9, 15, 15, 8, 5, 3, 3]


def test_a_table_without_data_shows_the_published_rows(tmp_path, capsys):
    assert main(["paper", "table", "7", "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "| EmoLA | the paper | 64.5 | 31.7 | 96.2 | 72.8 |" in shown
    assert "[68] Liu et al., arXiv 2310.03744" in shown
    assert "Not run yet: EmoLA." in shown


def test_the_list_says_what_is_there(tmp_path, capsys):
    write_faba(tmp_path / "FABAInstruct")
    assert main(["paper", "list", "--data", str(tmp_path), "--json"]) == 0
    found = {row["table"]: row["complete"] for row in json.loads(capsys.readouterr().out)}
    assert found["7"]
    assert not found["4"]


@pytest.mark.parametrize(
    ("table", "name", "address"),
    [
        ("3", "RAF-DB", "whdeng.cn"),
        ("4", "DISFA", "mohammadmahoor.com"),
        ("5", "BP4D", "binghamton.edu"),
        ("6", "GFT", "osf.io"),
        ("7", "FABAInstruct", "johnx69.github.io"),
    ],
)
def test_missing_data_are_named_with_their_source_and_shape(tmp_path, capsys, table, name, address):
    options = ("--base", "base", "--landmark-network", "network.onnx", "--runs", str(tmp_path / "runs"))
    assert main(["paper", "table", table, "--data", str(tmp_path), *options]) == 1
    *shape, error = capsys.readouterr().err.strip().splitlines()
    assert f"expected the data set {name}, missing: " in error
    assert address in error
    assert any(line.strip().startswith(f"{name}/") for line in shape)
    assert not (tmp_path / "runs").exists()


def test_made_up_data_of_every_set_are_complete(tmp_path):
    """What the readers take is what `emola paper` asks for."""
    write_data(tmp_path)
    assert {name: study.source.missing(tmp_path) for name, study in STUDIES.items()} == {name: [] for name in STUDIES}


def test_the_plan_of_disfa(tmp_path, capsys):
    """Crops and landmark files once, then training and evaluation of three folds."""
    files = ("--base", "llava", "--landmark-network", "net.onnx", "--runs", str(tmp_path), "--data", "d")
    options = ("--authors-evaluation", "--train-options", "--rank 8")
    assert main(["paper", "table", "4", *files, *options, "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["data", "data", *["train", "evaluate"] * 3]
    assert lines[0].startswith(f"emola data prepare disfa d/DISFA --out {tmp_path}/data/disfa-authors")
    assert lines[1].endswith("--network net.onnx --mode emola")
    assert all(line.endswith("--rank 8") for line in lines if " train " in line)
    assert all(line.endswith("--template llava_v1 --image-aspect crop") for line in lines if " evaluate " in line)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--base", "nowhere"), 1, "--base nowhere: expected a folder with config.json"),
        (("--base", str(GOLDEN / "llava-base"), "--vision-tower", "none"), 1, "--vision-tower none: expected a folder"),
        (("--base", str(GOLDEN / "llava-base"), "--landmark-network", "n.onnx"), 1, "landmark model n.onnx does not"),
        (("--base", str(GOLDEN / "llava-base"), "--launcher", "nolauncher -n 2"), 2, "no program 'nolauncher'"),
        (("--base", "base", "--train-options", "'open"), 2, "argument --train-options: expected words as in a shell"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_run(tmp_path, capsys, options, code, message):
    write_faba(tmp_path / "FABAInstruct")
    command = ["paper", "table", "8", "--data", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main([*command, *options]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_plan_names_what_is_not_given(capsys):
    """A plan needs no file; what is missing has a name of its own."""
    assert main(["paper", "table", "6", "--plan"]) == 0
    crops, landmarks, *_ = capsys.readouterr().out.splitlines()
    assert crops.endswith("--align LANDMARK_NETWORK")
    assert landmarks.endswith("--network LANDMARK_NETWORK")


def jobs(folder: Path) -> list[Job]:
    return [Job((name,), folder / name) for name in ("first", "second", "third")]


def test_a_killed_table_goes_on_where_it_stopped(tmp_path):
    """What is done is not run again; a job whose output was removed is."""
    started = []

    def start(words, stop_at=None):
        if words[0] == stop_at:
            raise KeyboardInterrupt
        started.append(words[0])
        (tmp_path / words[0]).touch()
        return 0

    with pytest.raises(KeyboardInterrupt):
        execute(jobs(tmp_path), tmp_path, lambda words: start(words, "second"), lambda line: None)
    execute(jobs(tmp_path), tmp_path, start, lambda line: None)
    assert started == ["first", "second", "third"]
    (tmp_path / "second").unlink()
    assert [job.words for job in waiting(jobs(tmp_path), tmp_path)] == [("second",)]


def test_a_failed_job_stops_the_table(tmp_path):
    with pytest.raises(TrainingError, match="`emola first` ended with exit code 3"):
        execute(jobs(tmp_path), tmp_path, lambda words: 3, lambda line: None)
    assert len(waiting(jobs(tmp_path), tmp_path)) == 3


class Fixed:
    """Says for every face the same."""

    name, batch_size = "fixed", 8

    def __init__(self, text: str) -> None:
        self.text = text

    def answer(self, records):
        return [self.text] * len(records)


def finished(folder: Path, persons: int, frames: int, fold: int = 1, text: str = "AU1, AU12") -> Evaluation:
    """A finished evaluation of frames of some persons; all frames of a person have the same units."""
    rows = [
        {
            "image": f"images/SN{person:03}_{frame:05}.jpg",
            "landmark": "x.npy",
            "label": ("none", "1, 12", "12")[person % 3],
            "gpt4": ("No AU", "AU1, AU12", "AU12")[person % 3],
        }
        for person in range(persons)
        for frame in range(frames)
    ]
    data, run = folder / f"fold{fold}.json", folder / f"run{fold}"
    data.write_text(json.dumps(rows))
    for row in rows:
        (folder / row["image"]).parent.mkdir(exist_ok=True)
        (folder / row["image"]).touch()
    found = EvaluationSet.read(data, "au", "DISFA")
    evaluate(answer(Fixed(text), found, run, lambda done, total: None), found, run)
    return Evaluation("DISFA", "au", data, run, (), by_person=True)


def test_our_figures_are_those_of_the_scores(tmp_path):
    test = finished(tmp_path, persons=6, frames=2)
    figures = row_figures(OwnRow("EmoLA", ((test,),)))
    official = json.loads((test.folder / "scores.json").read_text())["official"]
    assert figures["Avg."].value == pytest.approx(official["s_re"])
    assert figures["AU S_ge"].value == pytest.approx(official["s_ge"])
    assert figures["AU1"].value == pytest.approx(official["per_au"]["1"])
    assert figures["AU12"].low < figures["AU12"].value == 80 < figures["AU12"].high


def test_frames_of_one_person_count_once(tmp_path):
    """Ten times as many frames of the same persons do not narrow the interval; as independent frames they would."""
    few = row_figures(OwnRow("EmoLA", ((finished(tmp_path, persons=6, frames=2),),)))["AU1"]
    many = finished(tmp_path, persons=6, frames=20, fold=2)
    same = row_figures(OwnRow("EmoLA", ((many,),)))["AU1"]
    alone = Evaluation(many.dataset, many.task, many.data, many.folder, ())
    independent = row_figures(OwnRow("EmoLA", ((alone,),)))["AU1"]
    assert (same.low, same.high) == pytest.approx((few.low, few.high))
    assert independent.high - independent.low < 0.5 * (same.high - same.low)


def test_folds_are_averaged_as_the_paper_does(tmp_path):
    """Over the folds, then over the units, as `emola evaluate --average` does."""
    tests = [finished(tmp_path, persons=6, frames=2, fold=fold) for fold in (1, 2)]
    tests.append(finished(tmp_path, persons=6, frames=2, fold=3, text="AU12"))
    figures, single = (row_figures(OwnRow("EmoLA", (tuple(part),))) for part in (tests, tests[:1]))
    assert figures["AU1"].value == pytest.approx(single["AU1"].value * 2 / 3)
    assert figures["Avg."].value == pytest.approx((figures["AU1"].value + figures["AU12"].value) / 2)


def test_a_report_in_three_forms(tmp_path):
    """Published rows and ours in Markdown and CSV; the page has its plots inside and loads nothing."""
    figures = {"Accuracy": Figure(90.5, 89.0, 91.5)}
    report = Report.of(STUDIES["3"], [("EmoLA", figures), ("another", None)])
    assert "| EmoLA | this run | 90.5 [89.0, 91.5] |" in markdown(report)
    assert "Not run yet: another." in markdown(report)
    assert "the emotion that the SDK reads" in markdown(report)
    rows = list(csv.DictReader(io.StringIO(csv_text(report))))
    assert rows[-1] == {
        "method": "EmoLA",
        "source": "this run",
        "Accuracy": "90.5000",
        "Accuracy low": "89.0000",
        "Accuracy high": "91.5000",
    }
    assert float(rows[0]["Accuracy"]) == 86.9
    page = next(path for path in write_report(report, tmp_path) if path.suffix == ".html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)


def test_every_row_of_every_study_has_its_own_folders(tmp_path):
    """Two variants never write into one folder."""
    place = Place(tmp_path, tmp_path / "runs", "base", models=MODELS, endpoint=("http://localhost:1/v1", "seer"))
    made: dict[Path, tuple[str, ...]] = {}
    for study in STUDIES.values():
        for row in study.rows(place):
            for job in row.jobs():
                assert made.setdefault(job.makes, job.words) == job.words


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_table_that_is_killed_twice_is_that_of_an_undisturbed_run(tmp_path, capsys, monkeypatch):
    """SIGKILL to `emola paper` and its command, in a training and in an evaluation: then the same answers and table."""
    pytest.importorskip("torch")
    write_faba(tmp_path / "FABAInstruct")
    for task in ("emotion", "au"):
        path = tmp_path / f"FABAInstruct/eval/eval_{task}_anno.json"
        path.write_text(json.dumps(json.loads(path.read_text()) * 6))
    model = ("--base", str(GOLDEN / "llava-base"), "--vision-tower", str(GOLDEN / "clip"), "--data", str(tmp_path))
    training = "--rank 4 --max-steps 24 --save-steps 1 --batch-size 2 --precision float32 --workers 0"
    options = (f"--train-options={training}", "--evaluate-options=--max-new-tokens 12 --batch-size 1")

    def command(runs: str) -> list[str]:
        return ["paper", "table", "7", *model, *options, "--runs", str(tmp_path / runs)]

    killed = tmp_path / "killed/emotion"
    kill_when(command("killed"), killed / "log.jsonl", lines=2)
    error = kill_when(command("killed"), killed / "eval-emotion/predictions.jsonl", lines=2)
    assert "resuming from checkpoint-" in error
    monkeypatch.setattr("trainer.commands.paper.command_runner", lambda launcher: main)
    for runs in ("killed", "whole"):
        assert main(command(runs)) == 0, capsys.readouterr().err
    journal = [json.loads(line)["words"] for line in (tmp_path / "killed/jobs.jsonl").read_text().splitlines()]
    assert [words[0] for words in journal] == ["train", "evaluate"] * 2
    for name in ("emotion/eval-emotion/predictions.jsonl", "au/eval-au/predictions.jsonl", "table-7.csv"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


def kill_when(command: list[str], journal: Path, lines: int) -> str:
    """Start `emola`, end it and the command that it runs with SIGKILL when a journal is long enough; their stderr."""
    start = [sys.executable, "-m", "sdk", *command]
    process = subprocess.Popen(start, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[1]
