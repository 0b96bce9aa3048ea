"""What `emola bench` finds, as frozen records: one JSON document, with its schema for free."""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sdk.errors import UsageError

SCHEMA_VERSION: Literal["1.0"] = "1.0"
CONTROL = "control"  # 200,000 numbers sorted before and after each round: not ours, but comparable


class _Record(BaseModel):
    """Attributes: derived: figures that `Report.to_dict` adds for readers; what reads a report computes them anew."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    derived: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _without_derived(cls, content: Any) -> Any:
        return {k: v for k, v in content.items() if k not in cls.derived} if isinstance(content, dict) else content


class Floor(_Record):
    """The least time that a stage can take on this machine.

    Attributes:
        flops, bytes: what it must compute and read, from the manifest's geometry.
        ms: the longer of both at the ceilings that were measured in the same run.
        bound: which of the two that is.
    """

    flops: float
    bytes: float
    ms: float
    bound: Literal["compute", "memory"]


class Stage(_Record):
    """One stage.

    Attributes:
        rounds: milliseconds of every visit, by round; the visits of a round are no independent samples.
        floor: None where no arithmetic says what the stage must take.
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
        """Of the ceiling that is reached, 0..1; above 1 the ceiling was measured too low."""
        return self.floor.ms / self.median_ms if self.floor else None


class Ceilings(_Record):
    """What the machine can do, measured in the same run; None where it was not measured.

    Attributes:
        bandwidth_gbs: GB/s at which as many bytes can be read as a decode step reads, over and over.
        working_set_mb: how many that are: a small model lives in a cache, a large one in main memory.
        float32_gflops: of a large matrix product by numpy's BLAS.
        int4_gflops: of ONNX Runtime's MatMulNBits with 8-bit activations, on weights of 4096 x 4096.
        reason: why some are missing.
    """

    bandwidth_gbs: float | None = None
    working_set_mb: float | None = None
    float32_gflops: float | None = None
    int4_gflops: float | None = None
    reason: str | None = None


class Footprint(_Record):
    """A fresh process that opens one variant and analyses one picture.

    Attributes:
        import_ms, open_ms, first_token_ms, done_ms: since the process was started; the last is the whole analysis.
        weights_mb: of the variant's files, as they lie on the disk.
        imported_mb, opened_mb: resident memory at these moments.
        peak_mb: the most that was resident at any time.
        mapped_mb: how much of the memory after opening is pages of files: shared, and dropped under pressure.
        failure: why the variant does not run here; then nothing else is known.
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


class Energy(_Record):
    """What the decode steps cost.

    Attributes:
        source: the meter, and what it covers; or why there is none.
        joules, tokens: of decode steps back to back.
    """

    derived = ("tokens_per_joule",)

    source: str
    joules: float | None = None
    tokens: int | None = None

    @property
    def tokens_per_joule(self) -> float | None:
        return self.tokens / self.joules if self.joules and self.tokens else None


class Report(_Record):
    """Everything about one run.

    Attributes:
        notice: of the model, which stands wherever its results are shown.
        tokens_per_second: of decoding in `analyze`, after the first token of each answer.
        parity: relative error of each stage against the torch model, measured before anything was timed.
        peers: what `benchmarks/peers.py` found, as it wrote it.
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

    def to_dict(self) -> dict[str, Any]:
        """With the figures that follow from the samples."""
        content = self.model_dump(mode="json")
        for record, part in zip((*self.stages, self.energy), (*content["stages"], content["energy"]), strict=True):
            part |= {name: getattr(record, name) for name in record.derived}
        return content


def read_report(path: Path) -> Report:
    """A report that `emola bench --json` wrote.

    Raises:
        UsageError: the file cannot be read or is something else.
    """
    content = read_json(path)
    content.pop("comparison", None)
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path} is no report of `emola bench --json`: {where}: {first['msg']}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; of several lines the last one that is one, as the scripts in benchmarks/ end.

    Raises:
        UsageError: there is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error})") from None
    for candidate in (text, *reversed(text.splitlines())):
        try:
            content = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(content, dict):
            return content
    raise UsageError(f"{path}: expected a JSON object, found none")
