"""The report of `emola bench`: frozen models that are written as one JSON document."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sdk.bundles.files import first_fault
from sdk.errors import UsageError
from sdk.untrusted_json import parse_json

SCHEMA_VERSION: Literal["1.0"] = "1.0"
CONTROL = "control"  # stage that sorts 200,000 numbers before and after each round, to measure the machine's speed


class _ReportPart(BaseModel):
    """Base of the parts of a report.

    Attributes:
        derived: names of properties that `Report.to_dict` adds to the JSON; reading a report drops them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    derived: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _without_derived(cls, content: Any) -> Any:
        return {k: v for k, v in content.items() if k not in cls.derived} if isinstance(content, dict) else content


class Floor(_ReportPart):
    """The minimum time of a stage on this machine.

    Attributes:
        flops, bytes: necessary operations and bytes read, from the geometry in the manifest.
        ms: time of the slower of the two at the ceilings measured in the same run.
        bound: "compute" or "memory", the slower of the two.
    """

    flops: float
    bytes: float
    ms: float
    bound: Literal["compute", "memory"]


class Stage(_ReportPart):
    """One stage.

    Attributes:
        rounds: milliseconds of every visit, by round. The visits of one round are not independent samples.
        floor: minimum time; None if it cannot be computed.
    """

    derived = ("median_ms", "p95_ms", "share")

    name: str
    rounds: tuple[Annotated[tuple[float, ...], Field(min_length=1)], ...] = Field(min_length=1)
    floor: Floor | None = None

    @property
    def samples(self) -> list[float]:
        return [sample for visits in self.rounds for sample in visits]

    @property
    def median_ms(self) -> float:
        return float(np.median(self.samples))

    @property
    def p95_ms(self) -> float:
        return float(np.percentile(self.samples, 95))

    @property
    def share(self) -> float | None:
        """Floor over median: the reached share of the ceiling in 0..1; above 1 if the ceiling was measured too low."""
        return self.floor.ms / self.median_ms if self.floor else None


class Ceilings(_ReportPart):
    """Limits of the machine, measured in the same run; None if not measured.

    Attributes:
        bandwidth_gbs: GB/s when as many bytes as a decode step needs are read repeatedly.
        working_set_mb: number of these bytes in MB: a small model fits in a cache, a large one in main memory only.
        float32_gflops: speed of a large matrix product by numpy's BLAS.
        int4_gflops: speed of ONNX Runtime's MatMulNBits with 8-bit activations, on weights of 4096 x 4096.
        reason: why values are missing.
    """

    bandwidth_gbs: float | None = None
    working_set_mb: float | None = None
    float32_gflops: float | None = None
    int4_gflops: float | None = None
    reason: str | None = None


class Footprint(_ReportPart):
    """Time and memory of a new process that opens one variant and analyses one picture.

    Attributes:
        import_ms, open_ms, first_token_ms, done_ms: times since the process was started; the last is the end of the
            analysis.
        weights_mb: size of the variant's files on disk.
        imported_mb, opened_mb: resident memory after import and after opening.
        peak_mb: peak of the resident memory.
        mapped_mb: pages of files in the memory after opening; they are shared and can be dropped.
        failure: why the variant does not run here; then the other values are None.
    """

    variant: str
    weights_mb: float
    import_ms: float | None = None
    open_ms: float | None = None
    first_token_ms: float | None = None
    done_ms: float | None = None
    imported_mb: float | None = None
    opened_mb: float | None = None
    peak_mb: float | None = None
    mapped_mb: float | None = None
    failure: str | None = None


class Energy(_ReportPart):
    """Energy of decode steps.

    Attributes:
        source: the meter and the hardware that it covers, or why there is none.
        joules, tokens: energy and number of decode steps without pause.
    """

    derived = ("tokens_per_joule",)

    source: str
    joules: float | None = None
    tokens: int | None = None

    @property
    def tokens_per_joule(self) -> float | None:
        return self.tokens / self.joules if self.joules and self.tokens else None


class Report(_ReportPart):
    """The report of one run.

    Attributes:
        notice: notice of the model, to show with every result, or None.
        made: time of the run in ISO 8601, UTC.
        tokens_per_second: decoding speed in `analyze`, after the first token of each answer: it counts tokens that were
            drafted, of which one step reads several, and those that a grammar forces, which need no choice.
        steps_per_second: decoding speed without both, one token for each step; it depends on the machine only.
        parity: relative error of each stage against the torch model, measured before the timing.
        peers: output of `benchmarks/peers.py`, or None.
    """

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    model: str
    digest: str
    variant: str
    notice: str | None
    made: str
    environment: dict[str, str]
    ceilings: Ceilings
    stages: tuple[Stage, ...]
    tokens_per_second: float | None
    footprints: tuple[Footprint, ...]
    energy: Energy
    parity: dict[str, float]
    peers: dict[str, Any] | None = None

    derived = ("steps_per_second",)

    @property
    def steps_per_second(self) -> float | None:
        return next((1000 / stage.median_ms for stage in self.stages if stage.name == "step"), None)

    def to_dict(self) -> dict[str, Any]:
        """The report as dicts, lists, strings and numbers, with the derived values."""
        content = self.model_dump(mode="json")
        parts = (content, *content["stages"], content["energy"])
        for record, part in zip((self, *self.stages, self.energy), parts, strict=True):
            part |= {name: getattr(record, name) for name in record.derived}
        return content


def read_report(path: Path) -> Report:
    """Read a report that `emola bench --json` wrote.

    Raises:
        UsageError: the file cannot be read or is not a report.
    """
    content = read_json(path)
    content.pop("comparison", None)
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path} is not a report of `emola bench --json`: {first_fault(error)}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object: the whole file, or its last line with an object, as the scripts in benchmarks/ print it.

    Raises:
        UsageError: the file cannot be read or has no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error})") from None
    for candidate in (text, *reversed(text.splitlines())):
        try:
            content = parse_json(candidate)
        except ValueError:
            continue
        if isinstance(content, dict):
            return content
    raise UsageError(f"{path}: expected a JSON object, found none")
