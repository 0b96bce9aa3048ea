"""Answer an evaluation set and score it: resumable, with intervals, comparable run by run."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdk.errors import DataError
from sdk.faba.rege import score

from .answerers import Answerer
from .bootstrap import compare, intervals, sample_scores
from .records import Record

PREDICTIONS, RUN, SCORES = "predictions.jsonl", "run.json", "scores.json"
NOUNS = "RAF-DB"  # its answers are nouns such as "Happiness", compared as they are (Table 3)


@dataclass(frozen=True)
class EvaluationSet:
    """What is asked.

    Attributes:
        records: with labels.
        task: "au" or "emotion".
        dataset: which action units are scored, a key of `sdk.faba.vocabulary.DATASETS`, or "RAF-DB".
    """

    records: Sequence[Record]
    task: str
    dataset: str = "FABA"

    @property
    def annotations(self) -> list[dict[str, Any]]:
        return [{"label": record.label, "gpt4": record.answer} for record in self.records]

    @property
    def digest(self) -> str:
        content = [(r.image, r.landmark, r.question, r.answer, r.label) for r in self.records]
        return hashlib.sha256(json.dumps([self.task, self.dataset, content]).encode()).hexdigest()


def answer(
    answerer: Answerer, evaluation: EvaluationSet, folder: Path, progress: Callable[[int, int], None]
) -> list[str]:
    """Answers of a model to a set, in order; what an earlier run in `folder` answered is not asked again.

    Args:
        progress: told how many of how many are done.

    Raises:
        DataError: the folder holds the answers of another model or to another set.
    """
    _open_folder(folder, {"model": answerer.name, "data": evaluation.digest})
    path, count = folder / PREDICTIONS, len(evaluation.records)
    done = read_answers(path)
    with path.open("a", encoding="utf-8") as file:
        waiting = [index for index in range(count) if index not in done]
        for start in range(0, len(waiting), answerer.batch_size):
            batch = waiting[start : start + answerer.batch_size]
            texts = answerer.answer([evaluation.records[index] for index in batch])
            for index, text in zip(batch, texts, strict=True):
                file.write(json.dumps({"index": index, "prediction": text}, ensure_ascii=False) + "\n")
                done[index] = text
            file.flush()
            progress(len(done), count)
    return [done[index] for index in range(count)]


def read_answers(path: Path) -> dict[int, str]:
    """The answers of a run by index; the line that a killed run cut off is removed from the file."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    rows = [json.loads(line) for line in whole.decode().splitlines()]
    return {row["index"]: row["prediction"] for row in rows}


def _open_folder(folder: Path, run: Mapping[str, str]) -> None:
    known = folder / RUN
    if not known.exists():
        folder.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(run, indent=1))
    found = json.loads(known.read_text())
    if found != run:
        raise DataError(
            f"{folder} holds the answers of {found.get('model')!r} or to another set; choose another folder"
        )


def evaluate(predictions: Sequence[str], evaluation: EvaluationSet, folder: Path) -> dict[str, Any]:
    """Score answers in both protocols and write `scores.json` beside them.

    Returns:
        `official` and `paper` (see `RegeScore`), `intervals` of 95 %; for RAF-DB `accuracy` in percent.
    """
    if evaluation.dataset == NOUNS:
        found: dict[str, Any] = {
            "task": "emotion",
            "dataset": NOUNS,
            "accuracy": _noun_accuracy(predictions, evaluation),
        }
    else:
        options = {"task": evaluation.task, "dataset": evaluation.dataset}
        found = {
            protocol: score(predictions, evaluation.annotations, protocol=protocol, **options).to_dict()
            for protocol in ("official", "paper")
        }
        found["intervals"] = intervals(sample_scores(predictions, evaluation.annotations, **options))
    (folder / SCORES).write_text(json.dumps(found, indent=1))
    return found


def _noun_accuracy(predictions: Sequence[str], evaluation: EvaluationSet) -> float:
    pairs = zip(predictions, evaluation.records, strict=True)
    right = [said.strip(" .\n").lower() == record.answer.strip(" .\n").lower() for said, record in pairs]
    return 100 * sum(right) / len(right)


def compare_runs(predictions: Sequence[str], other: Path, evaluation: EvaluationSet) -> dict[str, Any]:
    """Paired bootstrap of these answers minus those of another run on the same set.

    Raises:
        DataError: the other run is not finished or of another set.
    """
    run = other / RUN
    if not run.exists() or json.loads(run.read_text())["data"] != evaluation.digest:
        raise DataError(f"{other} holds no run on this set; evaluate the other model on it first")
    answers = read_answers(other / PREDICTIONS)
    if len(answers) != len(evaluation.records):
        raise DataError(
            f"{other}: {len(answers)} of {len(evaluation.records)} records are answered; finish that run first"
        )
    options = {"task": evaluation.task, "dataset": evaluation.dataset}
    theirs = [answers[index] for index in range(len(answers))]
    pair = (sample_scores(texts, evaluation.annotations, **options) for texts in (predictions, theirs))
    return {name: asdict(comparison) for name, comparison in compare(*pair).items()}
