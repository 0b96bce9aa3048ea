"""Answer an evaluation set, score the answers and compare runs; a stopped run resumes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import DataError
from sdk.faba.rege import (
    EMOTION_READERS,
    PROTOCOLS,
    Protocol,
    annotated_action_units,
    emotion_index,
    score,
)
from sdk.faba.vocabulary import DATASETS
from sdk.files import append_journal, claim_folder, read_journal, write_json
from sdk.locks import writing_into
from sdk.untrusted_json import read_json_object
from trainer.corpus.records import Record, read_records
from trainer.evaluation.bootstrap import SampleScores, compare, intervals, sample_scores
from trainer.evaluation.bundle_answerer import Answerer, Refused
from trainer.evaluation.shards import Shard, collect, journals, read_parts

PREDICTIONS, RUN, SCORES = "predictions.jsonl", "run.json", "scores.json"
MAX_REFUSALS = 10  # in a row; after them the name of the model or the options count as wrong
NOUN_DATASET = "RAF-DB"  # its answers are nouns such as "Happiness"; Table 3 states their accuracy


@dataclass(frozen=True)
class EvaluationSet:
    """Records with their task and data set.

    Attributes:
        records: with labels.
        task: "au" or "emotion".
        dataset: decides which action units are scored; a key of `sdk.faba.vocabulary.DATASETS`, or "RAF-DB".
    """

    records: Sequence[Record]
    task: str
    dataset: str = "FABA"

    @classmethod
    def read(
        cls, path: Path, task: str, dataset: str = "FABA", *, root: Path | None = None, limit: int | None = None
    ) -> "EvaluationSet":
        """Read the first `limit` records of a file; `root` as in `read_records`.

        Raises:
            DataError: as in `read_records`, or the data set has no such task, or a record is not of an evaluation.
            ScoreError: a label cannot be scored.
        """
        known = tuple(DATASETS) if task == "au" else ("FABA", NOUN_DATASET)
        if dataset not in known:
            raise DataError(f"{dataset} has no records of the task {task}; expected one of {', '.join(known)}")
        records = read_records(path, root, "action_units" if task == "au" else "emotion")[:limit]
        if without := next((record.id for record in records if record.label is None), None):
            raise DataError(f"{path}: {without} has no label; expected evaluation records with label and gpt4")
        for index, record in enumerate(records):
            if task == "au":
                annotated_action_units(record.label, index)
            else:
                emotion_index(record.label, index)
        return cls(records, task, dataset)

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
    """Answer a set, in order; records that an earlier run in `folder` answered are skipped.

    Args:
        progress: told how many of how many records are answered.

    Raises:
        DataError: the folder holds answers of another model or to another set, or the model refuses every record.
    """
    return answer_share(answerer, evaluation, folder, progress, Shard()) or []


def answer_share(
    answerer: Answerer,
    evaluation: EvaluationSet,
    folder: Path,
    progress: Callable[[int, int], None],
    shard: Shard,
) -> list[str] | None:
    """Answer the share of one of several processes; arguments and errors as in `answer`.

    Returns:
        In the first process the answers of all, as soon as they are there; in the others None.
    """
    path, count = folder / PREDICTIONS, len(evaluation.records)
    with writing_into(folder) if shard.rank == 0 else nullcontext():
        run = {"model": answerer.name, "data": evaluation.digest}
        claim_folder(folder / RUN, run, "evaluation", DataError, shared=True)
        own = shard.journal(path)
        read_answers(own)  # removes the incomplete last line of a killed process
        done = {index: row["prediction"] for index, row in read_parts(path).items()}
        _answer_missing(answerer, evaluation, shard, own, done, progress)
        if shard.rank:
            return None
        if journals(path) != [path]:
            collect(path, count)
        answers = read_answers(path)
    return [answers[index] for index in range(count)]


def _answer_missing(
    answerer: Answerer,
    evaluation: EvaluationSet,
    shard: Shard,
    path: Path,
    done: dict[int, str],
    progress: Callable[[int, int], None],
) -> None:
    """Answer the batches of a share that are not done, and write them to a journal."""
    count, held = len(evaluation.records), list[dict[str, Any]]()
    for number, start in enumerate(range(0, count, answerer.batch_size)):
        batch = range(start, min(start + answerer.batch_size, count))
        if not shard.has(number) or all(index in done for index in batch):
            continue  # batches are never regrouped: a resumed run gives the answers of an uninterrupted one, to the bit
        for index, answered in zip(batch, answerer.answer([evaluation.records[index] for index in batch]), strict=True):
            done[index] = "" if isinstance(answered, Refused) else answered
            row = {"index": index, "prediction": done[index]}
            if isinstance(answered, Refused):
                _hold({**row, "refused": answered.reason}, held, min(MAX_REFUSALS, count))
            else:
                _record(path, [*held, row])
                held = []
        progress(len(done), count)
    _record(path, held)


def _hold(row: dict[str, Any], held: list[dict[str, Any]], most: int) -> None:
    """Hold a refusal back until another record is answered; if all are refused, the records are not the cause."""
    held.append(row)
    if len(held) == most:
        raise DataError(f"{most} records in a row were refused, which is not recorded; the last: {row['refused']}")


def _record(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        append_journal(path, row)


def read_answers(path: Path) -> dict[int, str]:
    """Read the answers of a run by index.

    Raises:
        DataError: a line of the file is not an answer.
    """
    return {row["index"]: row["prediction"] for row in read_journal(path, index=int, prediction=str)}


def evaluate(predictions: Sequence[str], evaluation: EvaluationSet, folder: Path) -> dict[str, Any]:
    """Score answers in every protocol and write `scores.json` to the folder.

    Returns:
        `official`, `paper` and `runtime` (see `sdk.faba.rege.RegeScore`), `intervals` of 95 % of the official figures
        and `intervals_of` the others by protocol; for RAF-DB see `_score_nouns`. If the model refused records, also
        `refused`: the reasons by index.
    """
    scored = _score_nouns if evaluation.dataset == NOUN_DATASET else _score_protocols
    found = scored(predictions, evaluation)
    refused = {row["index"]: row["refused"] for row in read_journal(folder / PREDICTIONS) if "refused" in row}
    if refused:
        found["refused"] = refused
    write_json(folder / SCORES, found)
    return found


def _score_protocols(predictions: Sequence[str], evaluation: EvaluationSet) -> dict[str, Any]:
    found: dict[str, Any] = {"intervals_of": {}}
    for protocol in PROTOCOLS:
        options = {"task": evaluation.task, "dataset": evaluation.dataset}
        found[protocol] = score(predictions, evaluation.annotations, protocol=protocol, **options).to_dict()
        found["intervals_of"][protocol] = intervals(_sample_scores(predictions, evaluation, protocol))
    return {**found, "intervals": found["intervals_of"].pop("official")}


def _score_nouns(predictions: Sequence[str], evaluation: EvaluationSet) -> dict[str, Any]:
    """RAF-DB: accuracies in percent.

    Returns:
        `accuracy` of the emotion that the SDK reads from an answer, with its interval; `literal_accuracy`, which
        expects the noun alone, as the training records have it; `samples`, and how many answers are `unread`.
    """
    scores = _sample_scores(predictions, evaluation)
    pairs = zip(predictions, evaluation.records, strict=True)
    literal = [prediction.strip(" .\n").lower() == record.answer.strip().lower() for prediction, record in pairs]
    return {
        "task": "emotion",
        "dataset": NOUN_DATASET,
        "accuracy": 100 * float(scores.hits.mean()),
        "literal_accuracy": 100 * float(np.mean(literal)),
        "samples": len(predictions),
        "unread": sum(EMOTION_READERS["runtime"](prediction) is None for prediction in predictions),
        "intervals": {"accuracy": intervals(scores)["s_re"]},
    }


def _sample_scores(
    predictions: Sequence[str], evaluation: EvaluationSet, protocol: Protocol = "official"
) -> SampleScores:
    if evaluation.dataset != NOUN_DATASET:
        options = {"task": evaluation.task, "dataset": evaluation.dataset}
        return sample_scores(predictions, evaluation.annotations, protocol=protocol, **options)
    read, pairs = EMOTION_READERS["runtime"], zip(predictions, evaluation.records, strict=True)
    hits = np.array([[read(prediction) == emotion_index(record.label)] for prediction, record in pairs], np.float64)
    return SampleScores(hits, np.zeros_like(hits), np.zeros_like(hits), np.zeros(len(hits)), emotion=True)


def other_answers(other: Path, evaluation: EvaluationSet) -> list[str]:
    """The answers of another run on the same set.

    Raises:
        DataError: the other run is unfinished or of another set.
    """
    run = other / RUN
    if not run.exists() or read_json_object(run, DataError).get("data") != evaluation.digest:
        raise DataError(f"{other} holds no run on this set; evaluate the other model on it first")
    answers = read_answers(other / PREDICTIONS)
    if len(answers) != len(evaluation.records):
        raise DataError(
            f"{other}: {len(answers)} of {len(evaluation.records)} records are answered; finish that run first"
        )
    return [answers[index] for index in range(len(answers))]


def compare_runs(predictions: Sequence[str], theirs: Sequence[str], evaluation: EvaluationSet) -> dict[str, Any]:
    """Compare these answers with those of another run on the same set by a paired bootstrap."""
    found = compare(_sample_scores(predictions, evaluation), _sample_scores(theirs, evaluation))
    if evaluation.dataset == NOUN_DATASET:
        return {"accuracy": asdict(found["s_re"])}
    return {name: asdict(comparison) for name, comparison in found.items()}
