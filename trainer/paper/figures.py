"""The figures of finished evaluations, each with a 95 % interval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdk.arrays import Doubles
from sdk.errors import DataError
from sdk.untrusted_json import read_json_object
from trainer.corpus.records import Record
from trainer.evaluation.bootstrap import RESAMPLES, SampleScores, sample_scores
from trainer.evaluation.evaluate import NOUN_DATASET, PREDICTIONS, RUN, SCORES, EvaluationSet, read_answers
from trainer.paper.experiments import Evaluation, OwnRow


@dataclass(frozen=True)
class Figure:
    """A figure in percent with its 95 % interval."""

    value: float
    low: float
    high: float


def row_figures(row: OwnRow) -> dict[str, Figure] | None:
    """The figures of a row by column; None if one of its evaluations is not finished."""
    tests = [test for part in row.parts for test in part]
    if not all((test.folder / SCORES).is_file() for test in tests):
        return None
    return {column: figure for part in row.parts for column, figure in _part_figures(part)}


def _part_figures(tests: Sequence[Evaluation]) -> Iterator[tuple[str, Figure]]:
    """The figures of one task: means over the folds, of the scores and of their resamples."""
    first = tests[0]
    if first.dataset == NOUN_DATASET:
        found = read_json_object(first.folder / SCORES, DataError)
        yield "Accuracy", Figure(found["accuracy"], *found["intervals"]["accuracy"])
        return
    drawn = [_resampled(test) for test in tests]
    if first.task == "au":
        units = sorted({unit for _, _, found in drawn for unit in found})
        means = [np.mean([found[unit] for _, _, found in drawn if unit in found], axis=0) for unit in units]
        yield from ((f"AU{unit}", _figure(mean)) for unit, mean in zip(units, means, strict=True))
        recognition = np.mean(means, axis=0)
    else:
        recognition = np.mean([found for found, _, _ in drawn], axis=0)
    generation = np.mean([found for _, found, _ in drawn], axis=0)
    task = "AU" if first.task == "au" else "Emotion"
    yield f"{task} S_re", _figure(recognition)
    yield f"{task} S_ge", _figure(generation)
    yield f"{task} S_rege", _figure(recognition + generation)
    yield "Avg.", _figure(recognition)


def _figure(drawn: Doubles) -> Figure:
    low, high = np.percentile(drawn[1:], (2.5, 97.5))
    return Figure(float(drawn[0]), float(low), float(high))


def _resampled(test: Evaluation) -> tuple[Doubles, Doubles, dict[int, Doubles]]:
    """(R + 1,) recognition and generation in percent, and F1 by unit: of the set itself, then of its resamples."""
    evaluation, predictions = _finished(test)
    scores = sample_scores(predictions, evaluation.annotations, task=test.task, dataset=test.dataset)
    groups = [_person(record) if test.by_person else str(index) for index, record in enumerate(evaluation.records)]
    sums, sizes, rouge = _summed(scores, groups)
    weights = _weights(len(sizes))
    hits, wrong, missed = (weights @ part for part in sums)
    generation = 100 * (weights @ rouge) / (weights @ sizes)
    if scores.emotion:
        return 100 * hits[:, 0] / (weights @ sizes), generation, {}
    f1 = 100 * 2 * hits / np.maximum(2 * hits + wrong + missed, 1)
    return f1.mean(axis=1), generation, dict(zip(_units(test), f1.T, strict=True))


def _finished(test: Evaluation) -> tuple[EvaluationSet, list[str]]:
    """The records that were answered, and the answers."""
    answers = read_answers(test.folder / PREDICTIONS)
    evaluation = EvaluationSet.read(test.data, test.task, test.dataset, limit=len(answers))
    if read_json_object(test.folder / RUN, DataError).get("data") != evaluation.digest:
        raise DataError(
            f"{test.folder} holds answers to another set than {test.data}; move one of them away and start again"
        )
    return evaluation, [answers[index] for index in range(len(answers))]


def _units(test: Evaluation) -> list[int]:
    """The action units that have a score, in the order of the scores."""
    per_au = read_json_object(test.folder / SCORES, DataError)["official"]["per_au"]
    return [int(code) for code, f1 in per_au.items() if f1 is not None]


def _person(record: Record) -> str:
    """The person of a frame: the pictures of the video data sets are named after person and frame."""
    return Path(record.image).stem.split("_")[0]


def _summed(scores: SampleScores, groups: Sequence[str]) -> tuple[list[Doubles], Doubles, Doubles]:
    """Counts (3 of (G, units)), sizes (G,) and sums of ROUGE-L (G,) of the groups."""
    names, place = np.unique(groups, return_inverse=True)

    def total(values: Doubles) -> Doubles:
        found = np.zeros((len(names), *values.shape[1:]))
        np.add.at(found, place, values)
        return found

    counts = [total(part) for part in (scores.hits, scores.wrong, scores.missed)]
    return counts, total(np.ones(len(scores))), total(scores.rouge)


def _weights(count: int) -> Doubles:
    """(RESAMPLES + 1, count) how often each group is drawn; once each in the first row."""
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.concatenate([np.ones((1, count)), drawn.astype(np.float64)])
