"""Is this run slower than that one, beyond noise? Stage by stage, from the stored samples."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdk.bench.report import Report, Stage

TOLERANCE = 0.05  # two runs of the same code on the same machine differ by so much
_RESAMPLES, _LOW, _HIGH = 2000, 0.5, 99.5


@dataclass(frozen=True)
class Change:
    """New over old median of a stage, with its 99 % interval.

    Attributes:
        verdict: "slower" or "faster" where the whole interval is more than 5 % away from 1, else "same".
    """

    stage: str
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        return "slower" if self.low > 1 + TOLERANCE else "faster" if self.high < 1 / (1 + TOLERANCE) else "same"

    def to_dict(self) -> dict[str, "str | float"]:
        return {**vars(self), "verdict": self.verdict}


def compare(new: Report, old: Report) -> list[Change]:
    """Every stage that both runs measured.

    Whole rounds are drawn again, not single visits: what slows a machine down lasts longer than one visit.
    """
    before = {stage.name: stage for stage in old.stages}
    random = np.random.default_rng(0)
    changes = []
    for stage in new.stages:
        if stage.name in before:
            ratios = _medians(stage, random) / _medians(before[stage.name], random)
            low, high = np.percentile(ratios, (_LOW, _HIGH))
            ratio = stage.median_ms / before[stage.name].median_ms
            changes.append(Change(stage.name, ratio, float(low), float(high)))
    return changes


def differences(new: Report, old: Report) -> list[str]:
    """What else differs between the runs, so that a change of speed need not come from the code."""
    names = ("processor", "usable cores", "governor", "power mode", "nvidia driver", "OMP_NUM_THREADS")
    found = [
        f"{name}: {old.environment.get(name, 'unknown')} -> {new.environment.get(name, 'unknown')}"
        for name in names
        if old.environment.get(name) != new.environment.get(name)
    ]
    if (old.digest, old.variant) != (new.digest, new.variant):
        found.insert(0, f"model: {old.model} {old.digest[:12]} {old.variant} -> {new.digest[:12]} {new.variant}")
    return found


def _medians(stage: Stage, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """(resamples,) medians of the rounds' medians."""
    rounds = np.array([np.median(visits) for visits in stage.rounds])
    medians: npt.NDArray[np.float64] = np.median(random.choice(rounds, (_RESAMPLES, len(rounds))), axis=1)
    return medians
