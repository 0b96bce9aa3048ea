"""A journal with a broken line is one error that names the line; what a killed process left at the end is dropped."""

import json

import pytest

from sdk.errors import DataError
from sdk.files import append_journal, read_journal

BROKEN = {
    "cut in the middle": b'{"index": 1, "predi',
    "zeros of a crashed disk": b"\0\0\0\0",
    "another encoding": b'{"index": 1, "prediction": "caf\xe9"}',
    "a list": b"[1]",
    "null": b"null",
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "4,400 digits": b'{"index": ' + b"9" * 4400 + b', "prediction": ""}',
    "no key": b'{"index": 1}',
    "a fraction": b'{"index": 1.5, "prediction": ""}',
    "Infinity": b'{"index": Infinity, "prediction": ""}',
    "a truth value": b'{"index": true, "prediction": ""}',
    "no text": b'{"index": 1, "prediction": null}',
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "predictions.jsonl"
    append_journal(path, {"index": 0, "prediction": "A smile."})
    content = path.read_bytes() + line + b"\n"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"predictions\.jsonl, line 2") as caught:
        read_journal(path, index=int, prediction=str)
    assert len(str(caught.value)) < 300 + len(str(path))
    assert path.read_bytes() == content, "nothing is lost"


def test_an_unfinished_last_line_is_dropped(tmp_path):
    path = tmp_path / "predictions.jsonl"
    append_journal(path, {"index": 0})
    path.write_bytes(path.read_bytes() + b'{"index": 1')
    assert read_journal(path, index=int) == read_journal(path) == [{"index": 0}]
    assert read_journal(tmp_path / "none.jsonl", index=int) == []


def test_answers_of_a_run(tmp_path):
    pytest.importorskip("torch")
    from trainer.evaluation.evaluate import read_answers

    path = tmp_path / "predictions.jsonl"
    append_journal(path, {"index": 0, "prediction": "A smile.", "refused": "no"})
    assert read_answers(path) == {0: "A smile."}
    append_journal(path, {"index": "1", "prediction": "A smile."})
    with pytest.raises(DataError, match="line 2: expected index of type int, found '1'"):
        read_answers(path)


def test_a_log_of_a_killed_run_is_read(tmp_path):
    pytest.importorskip("torch")
    from trainer.training.plot import read_log

    rows = [{"step": 1, "loss": 2.0}, [1], None, {"loss": 1.0}, {"step": "2"}, {"step": 3, "loss": 1.0}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 4')
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 3]
