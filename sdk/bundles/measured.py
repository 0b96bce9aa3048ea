"""Measurements of an export in the manifest: parity, latency, calibration of label scores, quality gate."""

import math
from collections.abc import Mapping

from pydantic import Field

from sdk.bundles.files import FrozenModel
from sdk.errors import ExportError
from sdk.faba.prompts import Task

FLOAT32_TOLERANCE = 1e-4  # relative error of a stage in float32


class Parity(FrozenModel):
    """One stage of one variant, compared with the torch reference.

    Attributes:
        max_error: largest absolute difference.
        relative_error: norm of the difference over norm of the reference.
        tolerance: largest relative error that passes: 1e-4 in float32; for a quantised decoder twice the error at
            export, so that another machine must give the same answers.
        cosine: cosine of the angle between the output and the reference.
        agreement: share of greedy tokens that equal those of the reference, for stages that yield tokens.
        first_tokens: the same share for the first token of each answer.
    """

    variant: str
    stage: str
    max_error: float
    relative_error: float
    tolerance: float
    cosine: float | None = None
    agreement: float | None = None
    first_tokens: float | None = None

    @property
    def passed(self) -> bool:
        return self.relative_error <= self.tolerance


class LabelCalibration(FrozenModel):
    """Calibration of the label scores of one task; see `sdk.faba.calibration`.

    Attributes:
        temperature: divisor of the log-odds of the scores.
        error_before, error: expected calibration error in 0..1 of the scores as they are and as a user gets them.
        samples: number of faces that the temperature was fitted to.
        data: SHA-256 of the evaluation file.
    """

    task: Task
    temperature: float = Field(ge=1e-3, le=1e3)
    error_before: float
    error: float
    samples: int = Field(ge=1)
    data: str


class Latency(FrozenModel):
    """Median and 95th percentile of one stage in milliseconds, on the machine described in `Manifest.environment`."""

    variant: str
    stage: str
    p50_ms: float
    p95_ms: float


class QuantisedLayer(FrozenModel):
    """Quantisation of one decoder layer by GPTQ.

    Attributes:
        seconds: duration.
        errors: relative error of the outputs of each linear layer, on its calibration rows.
    """

    seconds: float
    errors: dict[str, float]


class RegeComparison(FrozenModel):
    """REGE of the bundle and of the torch model on the same samples, in points.

    Attributes:
        difference, low, high: measured minus reference, and its 95 % interval.
        data: digest of the evaluation set; "" if not recorded.
        computed: type and device of the torch model, e.g. "bfloat16 on cpu"; "" if not recorded.
    """

    task: str
    dataset: str
    samples: int
    reference: float
    measured: float
    difference: float
    low: float
    high: float
    p_value: float
    data: str = ""
    computed: str = ""

    def __str__(self) -> str:
        return (
            f"{self.task}, {self.dataset}, {self.samples} samples: torch {self.reference:.2f}, bundle "
            f"{self.measured:.2f}, difference {self.difference:+.2f} (95 %: {self.low:+.2f} .. {self.high:+.2f})"
        )


class Gate(FrozenModel):
    """The quality gate at export: thresholds, and the failures that the user accepted.

    Attributes:
        failures: failed thresholds, without latency.
        overruled: whether the user accepted the failures.
        slow: failed latency thresholds that the user accepted. They are measured times and not part of the digest.
        unjudged: what the export could not judge, and what does; not part of the digest, as it depends on the machine.
    """

    rege: RegeComparison | None
    thresholds: dict[str, float]
    failures: tuple[str, ...]
    overruled: bool
    slow: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()

    @property
    def shortfalls(self) -> tuple[str, ...]:
        return (*self.failures, *self.slow)


def check_thresholds(thresholds: Mapping[str, float]) -> None:
    """Refuse NaN: everything passes a comparison with it.

    Raises:
        ExportError: a threshold is NaN.
    """
    for name, value in thresholds.items():
        if math.isnan(value):
            raise ExportError(f"{name} is a number, not NaN: every bundle would pass")
