"""Compare measured times with those that a plan expects."""

from collections.abc import Iterable
from dataclasses import dataclass

from export.targets.plan import Plan
from sdk.bundles.measured import Latency

# A planned time below this counts as this much: nobody notices it, and a busy machine varies by as much. A token is
# shorter, because an answer has a hundred of them.
LEAST_MS, LEAST_TOKEN_MS = 25.0, 1.0
FIRST_TOKEN = ("vision", "prefill", "question")


@dataclass(frozen=True)
class StageTime:
    """The time of one stage beside its plan.

    Attributes:
        stage: "vision", "prefill", "question", "token" or "landmark"; "first token" is the sum of the first three.
        p50_ms, p95_ms: measured; that of "first token" is the sum of its stages.
        planned_ms: expected; None if the plan says nothing about this stage.
        factor: how many times the plan is allowed; the median is judged.
        parts: number of stages that this is the sum of.
    """

    stage: str
    p50_ms: float
    p95_ms: float
    planned_ms: float | None
    factor: float
    parts: int = 1

    @property
    def ratio(self) -> float | None:
        """The median over the planned time."""
        return None if self.planned_ms is None else self.p50_ms / max(self.planned_ms, self.least_ms)

    @property
    def least_ms(self) -> float:
        """What a shorter plan counts as."""
        return LEAST_TOKEN_MS if self.stage == "token" else self.parts * LEAST_MS

    @property
    def passed(self) -> bool:
        return self.ratio is None or self.ratio <= self.factor

    def __str__(self) -> str:
        if self.planned_ms is None or self.ratio is None:
            return f"{self.stage}: {self.p50_ms:.1f} ms, not planned"
        counted = f" (counted as {self.least_ms:g} ms)" if self.planned_ms < self.least_ms else ""
        return (
            f"{self.stage}: {self.p50_ms:.1f} ms, planned {self.planned_ms:.1f} ms{counted}, that is {self.ratio:.3g} "
            f"times the plan, at most {self.factor:g} times is allowed"
        )


def stage_times(latency: Iterable[Latency], plan: Plan, factor: float) -> tuple[StageTime, ...]:
    """The measured stages of one variant, and the first token, beside a plan.

    Args:
        latency: as `sdk.runtime.latency.measure_latency` returns it.
        plan: of the machine that it was measured on.
        factor: how many times the plan is allowed.
    """
    found = {stage.stage: stage for stage in latency}
    p50, p95 = (sum(getattr(found[stage], name) for stage in FIRST_TOKEN) for name in ("p50_ms", "p95_ms"))
    first = StageTime("first token", p50, p95, plan.first_token_ms, factor, len(FIRST_TOKEN))
    stages = (
        StageTime(name, stage.p50_ms, stage.p95_ms, plan.stages_ms.get(name), factor) for name, stage in found.items()
    )
    return (*stages, first)
