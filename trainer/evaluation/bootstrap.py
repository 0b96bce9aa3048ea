"""95 % intervals of scores, and paired comparisons of two runs, by resampling the evaluation set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdk.arrays import Doubles
from sdk.errors import ScoreError
from sdk.faba.rege import (
    EMOTION_READERS,
    UNIT_READERS,
    Protocol,
    annotated_action_units,
    emotion_index,
    score,
)
from sdk.faba.rouge import rouge_l

RESAMPLES = 4000
FIGURES = ("s_re", "s_ge", "s_rege")


@dataclass(frozen=True)
class SampleScores:
    """Contribution of each sample to the scores of a protocol.

    Attributes:
        hits, wrong, missed: (n, units) true positives, false positives and false negatives of each scored action unit;
            for emotions (n, 1), with `hits` 1 where the emotion is right and the others 0.
        rouge: (n,) ROUGE-L in 0..1; 0 where it is undefined.
        emotion: recognition is measured by accuracy, not by F1.
    """

    hits: Doubles
    wrong: Doubles
    missed: Doubles
    rouge: Doubles
    emotion: bool

    def __len__(self) -> int:
        return len(self.rouge)

    def figures(self, weights: Doubles) -> Doubles:
        """(m, 3) S_re, S_ge and S_rege in percent for m weightings (m, n) of the samples, each summing to n."""
        hits, wrong, missed = (weights @ part for part in (self.hits, self.wrong, self.missed))
        recognition = hits / len(self) if self.emotion else 2 * hits / np.maximum(2 * hits + wrong + missed, 1)
        s_re, s_ge = 100 * recognition.mean(axis=1), 100 * (weights @ self.rouge) / len(self)
        return np.stack([s_re, s_ge, s_re + s_ge], axis=1)

    def totals(self) -> dict[str, float]:
        """The figures of all samples, by name."""
        return dict(zip(FIGURES, self.figures(np.ones((1, len(self))))[0].tolist(), strict=True))


def sample_scores(
    predictions: Sequence[str],
    annotations: Sequence[Mapping[str, Any]],
    *,
    task: str,
    dataset: str = "FABA",
    protocol: Protocol = "official",
) -> SampleScores:
    """Score each sample; arguments as in `sdk.faba.rege.score`."""
    overall = score(predictions, annotations, task=task, dataset=dataset, protocol=protocol)
    rouge = np.array([rouge_l(p, a["gpt4"]) or 0.0 for p, a in zip(predictions, annotations, strict=True)])
    if overall.task == "emotion":
        read = EMOTION_READERS[protocol]
        right = [read(p) == emotion_index(a["label"]) for p, a in zip(predictions, annotations, strict=True)]
        hits = np.array(right, np.float64)[:, None]
        return SampleScores(hits, np.zeros_like(hits), np.zeros_like(hits), rouge, emotion=True)
    units = [code for code, f1 in overall.per_au.items() if f1 is not None]
    found = _marks([UNIT_READERS[protocol](prediction) for prediction in predictions], units)
    true = _marks([annotated_action_units(annotation["label"]) for annotation in annotations], units)
    return SampleScores(found * true, found * (1 - true), true * (1 - found), rouge, emotion=False)


def _marks(sets: Sequence[set[int]], units: Sequence[int]) -> Doubles:
    return np.array([[unit in found for unit in units] for found in sets], np.float64)


def intervals(scores: SampleScores, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % interval of each figure, in percent."""
    found = scores.figures(_resample(len(scores), seed))
    low, high = np.percentile(found, (2.5, 97.5), axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(FIGURES)}


@dataclass(frozen=True)
class Comparison:
    """One figure of two runs on the same samples: difference in points, its 95 % interval, and a two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def compare(first: SampleScores, second: SampleScores, seed: int = 0) -> dict[str, Comparison]:
    """`first` minus `second`, each resample drawing the same samples for both.

    Raises:
        ScoreError: the runs differ in size.
    """
    if len(first) != len(second):
        raise ScoreError(f"the two runs have {len(first)} and {len(second)} samples; they must be of the same set")
    weights, ones = _resample(len(first), seed), np.ones((1, len(first)))
    found = first.figures(weights) - second.figures(weights)
    overall = (first.figures(ones) - second.figures(ones))[0]
    low, high = np.percentile(found, (2.5, 97.5), axis=0)
    p_values = 2 * np.minimum((found <= 0).mean(axis=0), (found >= 0).mean(axis=0)).clip(max=0.5)
    return {
        name: Comparison(float(overall[i]), float(low[i]), float(high[i]), float(p_values[i]))
        for i, name in enumerate(FIGURES)
    }


def _resample(count: int, seed: int) -> Doubles:
    """(RESAMPLES, count) how often each sample is drawn."""
    random = np.random.default_rng(seed)
    return random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
