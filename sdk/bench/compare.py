"""Compare the stages of two runs and decide from the stored samples which became slower or faster beyond noise.

The time of a stage is divided by the control of the same round, so that slow phases of the machine cancel. The
bootstrap resamples whole rounds, not single visits, because slow phases last longer than one visit.
"""

from dataclasses import dataclass

import numpy as np

from sdk.arrays import Doubles
from sdk.bench.report import CONTROL, Report

TOLERANCE = 0.05  # difference between two runs of the same code on the same machine
_RESAMPLES = 2000
_INTERVAL = (0.5, 99.5)  # percentiles


@dataclass(frozen=True)
class Change:
    """New over old time of a stage, each in units of the control of its round, with the 99 % interval.

    Attributes:
        raw: ratio of the medians in milliseconds, without the control.
        verdict: "slower" or "faster" if the whole interval is more than 5 % away from 1, else "same".
    """

    stage: str
    ratio: float
    low: float
    high: float
    raw: float

    @property
    def verdict(self) -> str:
        return "slower" if self.low > 1 + TOLERANCE else "faster" if self.high < 1 / (1 + TOLERANCE) else "same"

    def to_dict(self) -> dict[str, "str | float"]:
        return {**vars(self), "verdict": self.verdict}


def compare(new: Report, old: Report) -> list[Change]:
    """Compare every stage that both runs measured, except the control."""
    random = np.random.default_rng(0)
    times, before = _in_controls(new), _in_controls(old)
    medians = {stage.name: stage.median_ms for stage in old.stages}
    changes = []
    for stage in new.stages:
        if stage.name in before and stage.name != CONTROL:
            rounds, earlier = times[stage.name], before[stage.name]
            low, high = np.percentile(_resampled(rounds, random) / _resampled(earlier, random), _INTERVAL)
            ratio, raw = np.median(rounds) / np.median(earlier), stage.median_ms / medians[stage.name]
            changes.append(Change(stage.name, float(ratio), float(low), float(high), raw))
    return changes


def _in_controls(report: Report) -> dict[str, Doubles]:
    """Stage -> (rounds,) median time over the median time of the control in the same round."""
    rounds = {stage.name: np.array([np.median(visits) for visits in stage.rounds]) for stage in report.stages}
    control = rounds.get(CONTROL, np.ones(1))
    return {name: times / control for name, times in rounds.items()}


def _resampled(rounds: Doubles, random: np.random.Generator) -> Doubles:
    """(resamples,) medians."""
    medians: Doubles = np.median(random.choice(rounds, (_RESAMPLES, len(rounds))), axis=1)
    return medians


def differences(new: Report, old: Report) -> list[str]:
    """Differences of machine and model between two runs, which may explain a change of speed."""
    names = ("processor", "usable cores", "governor", "power mode", "nvidia driver", "OMP_NUM_THREADS")
    found = [
        f"{name}: {old.environment.get(name, 'unknown')} -> {new.environment.get(name, 'unknown')}"
        for name in names
        if old.environment.get(name) != new.environment.get(name)
    ]
    if (old.digest, old.variant) != (new.digest, new.variant):
        found.insert(0, f"model: {old.model} {old.digest[:12]} {old.variant} -> {new.digest[:12]} {new.variant}")
    return found
