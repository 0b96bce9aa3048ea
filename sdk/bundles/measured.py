"""What an export measured, as the manifest of the bundle records it: parity, latency, label scores, the verdict."""

from pydantic import Field

from sdk.bundles.files import FrozenModel
from sdk.faba.prompts import Task

FLOAT32_TOLERANCE = 1e-4  # relative error of a stage in float32


class Parity(FrozenModel):
    """One stage of one variant against the torch reference.

    Attributes:
        max_error: largest absolute difference.
        relative_error: norm of the difference over norm of the reference.
        tolerance: largest relative error that passes: 1e-4 in float32; for a quantised decoder twice what was measured
            when the bundle was sealed, so that another machine must give the same answers.
        agreement: share of greedy tokens equal to the reference's, where the stage yields tokens; `first_tokens` the
            same of the first token of each answer.
        cosine: cosine of the angle between the stage's output and the reference.
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
    """How the label scores of one task were brought in line with how often they are right; see `sdk.faba.calibration`.

    Attributes:
        temperature: log-odds of the scores are divided by it.
        error_before, error: expected calibration error in 0..1 without and with it.
        samples: faces that it was fitted on.
        data: SHA-256 of the evaluation file.
    """

    task: Task
    temperature: float = Field(gt=0)
    error_before: float
    error: float
    samples: int
    data: str


class Latency(FrozenModel):
    """Median and 95th percentile of one stage in milliseconds, on the machine that `environment` describes."""

    variant: str
    stage: str
    p50_ms: float
    p95_ms: float


class QuantisedLayer(FrozenModel):
    """One layer of the decoder as GPTQ left it.

    Attributes:
        seconds: that it took.
        errors: relative error of the outputs of each linear layer, on the rows that it was calibrated on.
    """

    seconds: float
    errors: dict[str, float]


class RegeComparison(FrozenModel):
    """REGE of the bundle and of the torch model on the same samples, in points; difference with its 95 % interval.

    `data` is the digest of the evaluation set ("": not recorded).
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


class Gate(FrozenModel):
    """What was asked of the bundle before it was sealed, and what fell short; it was sealed all the same if overruled.

    Attributes:
        failures, overruled: what fell short but for latency, and whether the user let that pass.
        slow: latencies that fell short and were let pass. Measured by a clock, so not part of the digest.
    """

    rege: RegeComparison | None
    thresholds: dict[str, float]
    failures: tuple[str, ...]
    overruled: bool
    slow: tuple[str, ...] = ()

    @property
    def shortfalls(self) -> tuple[str, ...]:
        return (*self.failures, *self.slow)
