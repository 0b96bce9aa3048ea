"""REGE of a bundle against the answers of the torch model, on the same samples. Needs no torch."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdk.bundles.evaluation import TorchAnswer, TorchAnswers
from sdk.bundles.files import file_sha256
from sdk.bundles.measured import RegeComparison
from sdk.errors import DataError
from sdk.faba.rege import score
from trainer.corpus.records import Record
from trainer.evaluation.bootstrap import compare, sample_scores
from trainer.evaluation.evaluate import EvaluationSet


def torch_answers(model: str, evaluation: EvaluationSet, texts: Sequence[str], max_new_tokens: int) -> TorchAnswers:
    """The answers of a torch model in the form that a bundle stores.

    Args:
        model: name of the answerer.
        evaluation: the set.
        texts: its answers, in the order of the set.
        max_new_tokens: limit of an answer.
    """
    return TorchAnswers(
        model=model,
        task=evaluation.task,
        dataset=evaluation.dataset,
        data=evaluation.digest,
        max_new_tokens=max_new_tokens,
        answers=tuple(
            TorchAnswer(
                image=record.image,
                record=_digest(record),
                picture=file_sha256(record.image_path),
                landmark=file_sha256(record.landmark_path),
                answer=text,
            )
            for record, text in zip(evaluation.records, texts, strict=True)
        ),
    )


def open_evaluation(path: Path, stored: TorchAnswers, root: Path | None, limit: int | None = None) -> EvaluationSet:
    """Read the set that torch answered.

    Args:
        path: file in the FABA-Instruct layout.
        stored: torch's answers to it.
        root: as in `trainer.corpus.records.read_records`.
        limit: number of records from the start; None takes all that torch answered.

    Raises:
        DataError: a record or one of its files is another one than torch saw.
    """
    count = min(limit or len(stored.answers), len(stored.answers))
    found = EvaluationSet.read(path, stored.task, stored.dataset, root=root, limit=count)
    if len(found.records) < count:
        raise DataError(f"{path} holds {len(found.records)} records, torch answered {count}; pass that set")
    for record, known in zip(found.records, stored.answers, strict=False):
        if _digest(record) != known.record:
            raise DataError(f"{record.id} is not the record that torch answered ({known.image}); pass the same set")
        for file, sha256 in ((record.image_path, known.picture), (record.landmark_path, known.landmark)):
            if not file.is_file() or file_sha256(file) != sha256:
                raise DataError(f"{file} is missing or not the file that torch saw; pass the data of the export")
    return found


def compare_answers(texts: Sequence[str], stored: TorchAnswers, evaluation: EvaluationSet) -> RegeComparison:
    """REGE of a bundle minus that of torch, with a paired bootstrap.

    Args:
        texts: the bundle's answers to the records of `evaluation`.
        stored: torch's, which may be of more records.
        evaluation: the records that both answered.
    """
    options: dict[str, Any] = {"task": evaluation.task, "dataset": evaluation.dataset}
    theirs = [known.answer for known in stored.answers[: len(evaluation.records)]]
    ours, annotations = list(texts), evaluation.annotations
    scores, torch_scores = (
        sample_scores(texts, annotations, task=evaluation.task, dataset=evaluation.dataset) for texts in (ours, theirs)
    )
    found = compare(scores, torch_scores)["s_rege"]
    return RegeComparison(
        **options,
        samples=len(evaluation.records),
        reference=score(theirs, annotations, **options).s_rege,
        measured=score(ours, annotations, **options).s_rege,
        difference=found.difference,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        data=evaluation.digest,
    )


def _digest(record: Record) -> str:
    content = [record.image, record.landmark, record.question, record.answer, record.label]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
