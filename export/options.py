"""What to export, and where: the options of `emola export`, and what can be refused before gigabytes are read."""

import dataclasses
import shutil
from pathlib import Path

import torch

from export.gate import GateOptions
from export.graphs.decoder import Precision
from export.graphs.write import check_landmark_model, decoder_shapes, workload
from export.insightface import check_terms
from export.quantise.autogptq import GptqWeights
from export.quantise.calibrate import CalibrationSet
from export.quantise.gptq import GptqOptions
from export.quantise.layerwise import check_shapes
from export.targets.machines import find_target
from export.targets.plan import Workload, check_fits
from sdk.errors import ExportError
from sdk.faces.detect import ScrfdDetector
from trainer.checkpoint import Checkpoint

QUANTIZE = ("none", "int4", "gptq")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to export, and where.

    Attributes:
        adapter, base, vision_tower: as in `trainer.checkpoint.load_emola`.
        out: folder of the bundle; must not exist.
        landmark_model: ONNX file with 2d106det's interface, or None.
        detector_model: ONNX file of a SCRFD detector that travels in the bundle, or None.
        quantize: the decoder: "none" (float32), "int4" (round to nearest, no data needed) or "gptq".
        calibration: the records that GPTQ calibrates on.
        answers: training files whose answers the runtime shall draft from; none: those of `calibration`.
        gptq: how it quantises.
        gptq_folder: a decoder that GPTQ quantised before, in the AutoGPTQ layout; taken as it is, no calibration.
        keep_gptq: put the AutoGPTQ folder into the bundle, as `decoder/gptq`, for runtimes that read it.
        head_bits: of the output head of a quantised decoder, 8 or 4.
        device: where GPTQ computes: "cpu" or "cuda".
        target: key of `export.targets.machines.TARGETS` that the bundle must fit, or None.
        cuda: also write the decoder with float16 activations, as a variant for NVIDIA GPUs; both share their weights.
        tensorrt: also write the float16 encoder that `emola engines` builds from.
        accept_noncommercial: weights whose licence forbids commercial use may go in.
        gate: what the bundle must reach before it is sealed.
    """

    adapter: "str | None"
    base: str
    out: Path
    vision_tower: str | None = None
    landmark_model: Path | None = None
    detector_model: Path | None = None
    quantize: str = "int4"
    calibration: CalibrationSet | None = None
    answers: tuple[Path, ...] = ()
    gptq: GptqOptions = dataclasses.field(default_factory=GptqOptions)
    gptq_folder: Path | None = None
    keep_gptq: bool = False
    head_bits: int = 8
    device: str = "cpu"
    target: str | None = None
    cuda: bool = False
    tensorrt: bool = False
    accept_noncommercial: bool = False
    gate: GateOptions = dataclasses.field(default_factory=GateOptions)

    @property
    def precision(self) -> Precision:
        if self.quantize == "none":
            return Precision("float32")
        if self.quantize == "int4":
            return Precision("int4", 4, self.head_bits)
        bits = GptqWeights(self.gptq_folder).bits if self.gptq_folder else self.gptq.bits
        return Precision(f"gptq-int{bits}", bits, self.head_bits)

    def check(self) -> Checkpoint:
        """Open the checkpoint after everything that can be refused early.

        Raises:
            CheckpointError, DataError, ExportError: nothing was written.
        """
        if self.quantize not in QUANTIZE:
            raise ExportError(f"quantize must be one of {', '.join(QUANTIZE)}, not {self.quantize!r}")
        if self.head_bits not in (4, 8):
            raise ExportError(f"the head can have 8 or 4 bits, not {self.head_bits}")
        if self.keep_gptq and self.quantize != "gptq":
            raise ExportError("--keep-gptq keeps what GPTQ made: it needs --quantize gptq, or --gptq DIR")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ExportError("this machine or this build of torch has no CUDA; leave --device at auto or cpu")
        checkpoint = Checkpoint(self.adapter, self.base, self.vision_tower)
        if self.landmark_model:
            if not self.landmark_model.is_file():
                raise ExportError(f"landmark model {self.landmark_model} does not exist; expected an ONNX file")
            check_landmark_model(self.landmark_model, checkpoint.config.landmark_size)
            check_terms(self.landmark_model, "landmark", self.accept_noncommercial)
        if self.detector_model:
            ScrfdDetector(str(self.detector_model))  # opens it and looks at its inputs and outputs
            check_terms(self.detector_model, "detector", self.accept_noncommercial)
        self._check_decoder(checkpoint)
        if self.target:
            check_fits(self.target, find_target(self.target), self.workload(checkpoint))
        self._check_disk(checkpoint)
        return checkpoint

    def workload(self, checkpoint: Checkpoint) -> Workload:
        """What `export.targets.plan` needs to know of the bundle to come."""
        return workload(checkpoint, self.out.name, self.precision, self.gptq.group)

    def space(self, checkpoint: Checkpoint) -> float:
        """Bytes that lie on the disk at most: what a stage made stays until the bundle stands."""
        work, text = self.workload(checkpoint), checkpoint.config.text
        decoder, table = work.decoders[0].size, 4 * text.vocab_size * text.hidden_size
        folders = 2 * (decoder + table + (6 if self.tensorrt else 4) * work.encoder_weights)  # graphs, and the bundle
        if self.keep_gptq:
            folders += decoder + 2 * table
        if self.calibration:
            rows = self.calibration.count * (checkpoint.config.image_rows + 200)
            folders += decoder + 2 * table + rows * 4 * (5 * text.hidden_size + text.intermediate_size)
        merged = sum(path.stat().st_size for path in checkpoint.files())
        return 1.05 * (merged + folders)  # a twentieth for all that is small

    @property
    def answer_files(self) -> tuple[Path, ...]:
        return self.answers or ((self.calibration.path,) if self.calibration else ())

    @property
    def report(self) -> Path:
        """The report of this export, beside the bundle, sealed or not."""
        return self.out.with_name(f"{self.out.name}.report.html")

    def _check_decoder(self, checkpoint: Checkpoint) -> None:
        if self.quantize != "gptq":
            return
        if self.gptq_folder:
            shapes = decoder_shapes(checkpoint)
            GptqWeights(self.gptq_folder).check(shapes)
        elif self.calibration is None:
            raise ExportError(
                "GPTQ needs training records: pass --calibration records.json, a quantised decoder (--gptq DIR), or "
                "--quantize int4"
            )
        else:
            check_shapes(checkpoint, self.gptq)

    def _check_disk(self, checkpoint: Checkpoint) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        needed, free = self.space(checkpoint), shutil.disk_usage(self.out.parent).free
        if free < needed:
            raise ExportError(
                f"{self.out.parent}: about {needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free"
            )
