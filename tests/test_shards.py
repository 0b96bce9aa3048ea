"""Evaluation in several processes: the same answers as in one, whatever was killed before."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import GOLDEN
from training import ONE_THREAD

from sdk.errors import DataError
from trainer.corpus.records import Record
from trainer.evaluation.bundle_answerer import Refused
from trainer.evaluation.evaluate import EvaluationSet, answer, answer_share, evaluate
from trainer.evaluation.shards import Shard


class Scripted:
    """Answers with the number of the face and the size of its batch; can stop after some batches."""

    name, batch_size = "scripted", 2

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self._batches, self._stop_after = 0, stop_after

    def answer(self, records):
        if self._batches == self._stop_after:
            raise KeyboardInterrupt
        self._batches += 1
        self.asked += [record.id for record in records]
        return [Refused("dark") if r.id == "3" else f"face {r.id} of {len(records)}" for r in records]


def faces(count: int = 11) -> EvaluationSet:
    return EvaluationSet([Record(str(n), Path(), f"{n}.png", "x", "?", "happy", 0) for n in range(count)], "emotion")


def share(folder: Path, rank: int, count: int, answerer: Scripted | None = None):
    answerer = answerer or Scripted()
    found = answer_share(answerer, faces(), folder, lambda done, total: None, Shard(rank, count))
    return found, answerer.asked


def test_three_processes_give_the_answers_of_one(tmp_path):
    """The journal, the scores and the reasons of refusals are those of one process, to the byte."""
    expected = answer(Scripted(), faces(), tmp_path / "one", lambda done, total: None)
    found = {}
    threads = [
        threading.Thread(target=lambda rank=rank: found.update({rank: share(tmp_path / "many", rank, 3)}))
        for rank in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0][0] == expected
    assert found[1][0] is found[2][0] is None
    asked = [face for _, part in found.values() for face in part]
    assert sorted(asked, key=int) == [str(n) for n in range(11)]
    assert [path.name for path in sorted((tmp_path / "many").glob("*.jsonl"))] == ["predictions.jsonl"]
    for folder in ("one", "many"):
        evaluate(expected, faces(), tmp_path / folder)
    assert (tmp_path / "one/scores.json").read_bytes() == (tmp_path / "many/scores.json").read_bytes()
    assert json.loads((tmp_path / "many/scores.json").read_text())["refused"] == {"3": "dark"}


def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path):
    """Two processes are killed, one within a line; a single one answers the rest and no face twice."""
    asked = []
    for rank in range(2):
        answerer = Scripted(stop_after=1)
        with pytest.raises(KeyboardInterrupt):
            share(tmp_path, rank, 2, answerer)
        asked += answerer.asked
    assert asked == ["0", "1", "2", "3"]
    second = tmp_path / "predictions.1.jsonl"
    second.write_bytes(second.read_bytes()[:-4])
    found, rest = share(tmp_path, 0, 1)
    assert found == answer(Scripted(), faces(), tmp_path / "one", lambda done, total: None)
    assert set(rest) == {"2", "3", "4", "5", "6", "7", "8", "9", "10"}
    assert not second.exists()


def test_a_damaged_line_is_named(tmp_path):
    share(tmp_path, 0, 1)
    (tmp_path / "predictions.1.jsonl").write_text('{"index": "one"}\n')
    with pytest.raises(DataError, match=r"predictions\.1\.jsonl has a line that is not an answer"):
        share(tmp_path, 0, 1)


def test_the_share_of_a_process_comes_from_its_launcher():
    assert Shard.of_environment({}) == Shard(0, 1, 0)
    assert Shard.of_environment({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Shard(5, 8, 1)
    with pytest.raises(DataError, match="expected RANK from 0"):
        Shard.of_environment({"RANK": "2", "WORLD_SIZE": "2"})
    with pytest.raises(DataError, match="whole numbers"):
        Shard.of_environment({"RANK": "two"})


@pytest.mark.slow
def test_torchrun_evaluates_as_one_process_does(tmp_path):
    """Answers and scores of the golden model are those of one process."""
    pytest.importorskip("torch")
    rows = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text())[:5]
    content = [{"image": r["image"], "landmark": r["landmark"], "label": 0, "gpt4": "A happy face."} for r in rows]
    (tmp_path / "eval.json").write_text(json.dumps(content))
    files = ("--base", GOLDEN / "llava-base", "--vision-tower", GOLDEN / "clip", "--root", GOLDEN / "data")
    model = (GOLDEN / "llava-lora-emola-trained", *files, "--data", tmp_path / "eval.json", "--task", "emotion")
    options = (*model, "--max-new-tokens", "4", "--batch-size", "2", "--device", "cpu")
    launchers = {"one": [], "two": ["-m", "torch.distributed.run", "--nproc-per-node", "2"]}
    shown = {}
    for name, launcher in launchers.items():
        command = [sys.executable, *launcher, "-m", "sdk", "evaluate", *options, "--output", tmp_path / name]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=ONE_THREAD)
        assert done.returncode == 0, done.stderr
        shown[name] = done.stdout
        assert "5 faces answered in" in done.stderr
    assert shown["one"] == shown["two"]
    for file in ("predictions.jsonl", "scores.json", "run.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
