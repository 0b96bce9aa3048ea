"""Files of predictions, annotations, data sets, labels and checkpoints."""

import argparse
import contextlib
import io
import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutate import damaged_bytes, damaged_json, damaged_table
from worker import Call, Target

from sdk.commands import rege
from sdk.errors import CheckpointError, DataError, ScoreError

GOLDEN = Path(__file__).parents[2] / "tests/data/golden"
_TEXTS = ("He looks happy. AU6 and AU12 are raised.", "AU4: lowered brows.", "She is sad; AU 15.", "", "No emotion.")
_EMOTIONS = [
    {"label": label, "gpt4": text} for label, text in zip((3, "Sadness", "0", 6, "Anger"), _TEXTS, strict=True)
]
_UNITS = [{"label": f"AU{n}, {n + 1}", "gpt4": text} for n, text in enumerate(_TEXTS, 1)]
_PREDICTIONS = (
    list(_TEXTS),
    {str(index): text for index, text in enumerate(_TEXTS)},
    [{"index": index, "prediction": text} for index, text in enumerate(_TEXTS)],
)
_TABLES = (
    b"Frame,AU1,AU2,AU4\n1,0,1,0\n2,1,9,0\n3,0,0,1\n",
    b"participant,split\nF001,train\nF002,test\nF003,train\n",
    b"train_00001.jpg 5\ntest_0001.jpg 1\n",
)


def _rege(index: int) -> bytes:
    """Task, protocol, annotations and predictions, each on its line or in one file."""
    draw = Random(f"rege {index}")
    task = draw.choice(("au", "emotion"))
    damaged = draw.random() < 0.5
    annotations: Any = _UNITS if task == "au" else _EMOTIONS
    predictions = draw.choice(_PREDICTIONS)
    lines = draw.random() < 0.3 and isinstance(predictions, list)
    one = damaged_json(annotations, draw) if damaged else json.dumps(annotations).encode()
    if lines:
        rows = [json.dumps(row).encode() for row in predictions]
        at = draw.randrange(len(rows))
        rows[at] = damaged_json(predictions[at], draw)
        two = b"\n".join(rows)
    else:
        two = json.dumps(predictions).encode() if damaged and draw.random() < 0.5 else damaged_json(predictions, draw)
    header = {"task": task, "protocol": draw.choice(("official", "paper")), "suffix": "jsonl" if lines else "json"}
    return b"\x1e".join((json.dumps(header).encode(), one, two))


def _open_rege(scratch: Path) -> Call:
    def call(data: bytes) -> None:
        header, annotations, predictions = data.split(b"\x1e", 2)
        options = json.loads(header)
        one, two = scratch / "annotations.json", scratch / f"predictions.{options.pop('suffix')}"
        one.write_bytes(annotations)
        two.write_bytes(predictions)
        args = argparse.Namespace(**options, dataset="FABA", annotations=one, predictions=two, json=True)
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()):
            rege.run(args)
        json.loads(output.getvalue(), parse_constant=_no_constant)

    return call


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@cache
def _records() -> tuple[list[Any], list[Any]]:
    train = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text(encoding="utf-8"))[:4]
    evaluation = [{"image": row["image"], "landmark": row["landmark"], "gpt4": "Sad.", "label": 1} for row in train]
    return train, evaluation


def _data_file(index: int) -> bytes:
    draw = Random(f"data {index}")
    rows = draw.choice(_records())
    return draw.choice((b"emotion", b"au", b"none")) + b"\n" + damaged_json(rows, draw)


def _open_records(scratch: Path) -> Call:
    from trainer.corpus.checks import check_rows
    from trainer.corpus.records import read_records, read_rows

    path, root = scratch / "anno.json", GOLDEN / "data"
    tasks = {b"emotion": "emotion", b"au": "action_units", b"none": None}

    def call(data: bytes) -> None:
        name, content = data.split(b"\n", 1)
        path.write_bytes(content)
        rows = read_rows(path)
        for problem in check_rows(rows, path, root, task=tasks[name], decode=False):
            str(problem).encode("utf-8", "backslashreplace")
        for record in read_records(path, root, tasks[name]):
            assert isinstance(record.question + record.answer, str)

    return call


def _table(index: int) -> bytes:
    draw = Random(f"table {index}")
    kind = draw.randrange(4)
    if kind == 3:
        return b"3" + damaged_bytes(_landmark(), draw)
    return str(kind).encode() + damaged_table(_TABLES[kind], draw)


@cache
def _landmark() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(212, np.float32))
    return stream.getvalue()


def _open_tables(scratch: Path) -> Call:
    from trainer.corpus.datasets.gft import read_partition
    from trainer.corpus.datasets.occurrence import read_occurrence
    from trainer.corpus.datasets.rafdb import LIST, read_rafdb
    from trainer.corpus.records import Record, read_landmarks

    path = scratch / "table"
    (scratch / LIST).parent.mkdir(parents=True)
    record = Record("x", scratch, "", "table", "", "")
    read = (
        lambda: read_occurrence(path, (1, 2, 4)),
        lambda: read_partition(path),
        lambda: read_rafdb(scratch),
        lambda: read_landmarks(record),
    )

    def call(data: bytes) -> None:
        kind = int(data[:1])
        (scratch / LIST if kind == 2 else path).write_bytes(data[1:])
        read[kind]()

    return call


_CONFIGS = (
    *("llava-base/config.json", "clip/config.json", "clip/preprocessor_config.json"),
    *("llava-lora-emola-trained/config.json", "llava-lora-emola-trained/adapter_config.json"),
)


def _config(index: int) -> bytes:
    """The name of a file of a checkpoint, and its damaged content."""
    draw = Random(f"config {index}")
    name = draw.choice([name for name in _CONFIGS if (GOLDEN / name).is_file()])
    return name.encode() + b"\n" + damaged_json(json.loads((GOLDEN / name).read_text(encoding="utf-8")), draw)


def _open_checkpoint(scratch: Path) -> Call:
    from trainer.checkpoint import Checkpoint

    folders: Sequence[str] = ("llava-base", "clip", "llava-lora-emola-trained")
    for name in folders:
        shutil.copytree(GOLDEN / name, scratch / name)

    def call(data: bytes) -> None:
        name, content = data.split(b"\n", 1)
        path = scratch / name.decode()
        before = path.read_bytes()
        try:
            path.write_bytes(content)
            Checkpoint(scratch / folders[2], scratch / folders[0], scratch / folders[1])
        finally:
            path.write_bytes(before)

    return call


DATA_TARGETS = (
    Target("rege", "predictions and annotations (REGE)", _open_rege, _rege, (ScoreError,), 150_000),
    Target("records", "data files", _open_records, _data_file, (DataError,), 20_000),
    Target("tables", "tables of labels, landmark files", _open_tables, _table, (DataError,), 150_000),
    Target("checkpoints", "configurations of checkpoints", _open_checkpoint, _config, (CheckpointError,), 10_000, 2000),
)
