"""The options of an export: what to write, where, and what it must reach."""

from dataclasses import dataclass, field
from pathlib import Path

from export.quantise.calibrate import CalibrationSet
from export.quantise.gptq import GptqOptions
from sdk.bundles.measured import Gate
from sdk.errors import ExportError
from sdk.ranges import FINITE
from trainer.model.processor import Device

QUANTIZE = ("none", "int4", "gptq")
_STRICTER = {"rege_drop": -1, "latency_factor": -1, "first_tokens": 1}  # sign of the change that makes it stricter


@dataclass(frozen=True)
class GateOptions:
    """What a bundle must reach to be sealed.

    Attributes:
        evaluation: file in the FABA-Instruct layout on which REGE is measured, or None.
        task: "au" or "emotion".
        dataset: decides which action units count.
        root: folder of the relative paths; None searches for it above the file.
        limit: number of records from the start of the file; None takes all.
        rege_drop: points of REGE that the bundle may lose against torch.
        latency_factor: the bundle may take this many times the planned latency; only for a target without a GPU, since
            `emola check` judges the others.
        first_tokens: share of first answer tokens that must equal those of torch.
        allow: seal although it falls short; the manifest records it.
    """

    evaluation: Path | None = None
    task: str = "emotion"
    dataset: str = "FABA"
    root: Path | None = None
    limit: int | None = None
    rege_drop: float = 1.0
    latency_factor: float = 1.5
    first_tokens: float = 0.0
    allow: bool = False

    def __post_init__(self) -> None:
        for name, value in self.thresholds.items():
            FINITE.check(name, value, ExportError)

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds by name."""
        return {name: getattr(self, name) for name in _STRICTER}

    def stricter_than(self, before: Gate) -> bool:
        """Whether a bundle that passed `before` can fall short of these thresholds."""
        found = self.thresholds
        return any(sign * (found[name] - before.thresholds[name]) > 0 for name, sign in _STRICTER.items())


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and where.

    Attributes:
        adapter, base, vision_tower: as in `trainer.checkpoint.load_emola`.
        out: folder of the bundle.
        landmark_model: ONNX file with the interface of 2d106det, or None.
        detector_model: ONNX file of a detector to put into the bundle, SCRFD or of `emola pretrain-detector`, or
            None.
        quantize: the decoder: "none" (float32), "int4" (round to nearest, needs no data) or "gptq".
        calibration: the records that GPTQ calibrates on.
        answers: training files whose answers the runtime drafts from; empty takes that of `calibration`.
        gptq: how GPTQ quantises.
        gptq_folder: a decoder in the AutoGPTQ layout that is used as it is, without calibration.
        keep_gptq: put the AutoGPTQ folder into the bundle as `decoder/gptq`, for runtimes that read it.
        head_bits: of the output head of a quantised decoder, 8 or 4.
        device: that computes GPTQ and what the torch model answers: "cpu", "cuda" or "auto".
        target: key of `export.targets.machines.TARGETS` that the bundle must fit, or None.
        cuda: also write the decoder with float16 activations as a variant for NVIDIA GPUs; both share their weights.
        tensorrt: also write the float16 encoder that `emola engines` builds from.
        accept_noncommercial: accept weights whose licence forbids commercial use.
        gate: what the bundle must reach to be sealed.
    """

    adapter: str | None
    base: str
    out: Path
    vision_tower: str | None = None
    landmark_model: Path | None = None
    detector_model: Path | None = None
    quantize: str = "int4"
    calibration: CalibrationSet | None = None
    answers: tuple[Path, ...] = ()
    gptq: GptqOptions = field(default_factory=GptqOptions)
    gptq_folder: Path | None = None
    keep_gptq: bool = False
    head_bits: int = 8
    device: Device = "auto"
    target: str | None = None
    cuda: bool = False
    tensorrt: bool = False
    accept_noncommercial: bool = False
    gate: GateOptions = field(default_factory=GateOptions)

    @property
    def answer_files(self) -> tuple[Path, ...]:
        """The training files whose answers the runtime drafts from."""
        return self.answers or ((self.calibration.path,) if self.calibration else ())

    @property
    def work(self) -> Path:
        """The folder beside the bundle that holds finished stages until the export ends."""
        return self.out.with_name(f"{self.out.name}.work")

    @property
    def report(self) -> Path:
        """The report beside the bundle, which is written even if the bundle is not sealed."""
        return self.out.with_name(f"{self.out.name}.report.html")
