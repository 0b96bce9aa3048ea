"""Is this run slower than that one, beyond noise? Stage by stage, from the stored samples.

A stage is divided by the control of its own round, so that a machine that is slow for a while cancels. Whole rounds are
drawn again for the interval, not single visits: what slows a machine down lasts longer than one visit.
"""

from dataclasses import dataclass

import numpy as np

from sdk.arrays import Doubles
from sdk.bench.report import CONTROL, Report

TOLERANCE = 0.05  # two runs of the same code on the same machine differ by so much
_RESAMPLES, _LOW, _HIGH = 2000, 0.5, 99.5


@dataclass(frozen=True)
class Change:
    """New over old time of a stage, each in units of its round's control, with the 99 % interval.

    Attributes:
        raw: ratio of the medians in milliseconds, the machine's moods included.
        verdict: "slower" or "faster" where the whole interval is more than 5 % away from 1, else "same".
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
    """Every stage that both runs measured, but the control."""
    random = np.random.default_rng(0)
    times, before = _in_controls(new), _in_controls(old)
    medians = {stage.name: stage.median_ms for stage in old.stages}
    changes = []
    for stage in new.stages:
        if stage.name in before and stage.name != CONTROL:
            rounds, earlier = times[stage.name], before[stage.name]
            low, high = np.percentile(_resampled(rounds, random) / _resampled(earlier, random), (_LOW, _HIGH))
            ratio, raw = np.median(rounds) / np.median(earlier), stage.median_ms / medians[stage.name]
            changes.append(Change(stage.name, float(ratio), float(low), float(high), raw))
    return changes


def _in_controls(report: Report) -> dict[str, Doubles]:
    """Stage -> (rounds,) median time over that of the control in the same round."""
    rounds = {stage.name: np.array([np.median(visits) for visits in stage.rounds]) for stage in report.stages}
    control = rounds.get(CONTROL, np.ones(1))
    return {name: times / control for name, times in rounds.items()}


def _resampled(rounds: Doubles, random: np.random.Generator) -> Doubles:
    """(resamples,) medians."""
    medians: Doubles = np.median(random.choice(rounds, (_RESAMPLES, len(rounds))), axis=1)
    return medians


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
