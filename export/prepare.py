"""Before the first stage: check the options, and read and hash the small files that they name."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sdk
from export.budget import Need, Sizes, needs
from export.graphs.decoder import Precision
from export.model import decoder_shapes, geometry
from export.networks import check_landmark_model, check_terms
from export.ngrams import read_training_files
from export.options import QUANTIZE, ExportOptions
from export.quantise.autogptq import GptqWeights, layout_files
from export.quantise.calibrate import digest
from export.quantise.layerwise import check_shapes
from export.targets.machines import find_target
from export.targets.plan import Plan, Workload, check_fits, stored_decoder
from sdk.bundles.files import file_sha256
from sdk.bundles.manifest import Licence
from sdk.errors import ExportError
from sdk.faces.detect import open_detector_file
from trainer.checkpoint import Checkpoint
from trainer.corpus.records import Record
from trainer.evaluation.evaluate import EvaluationSet
from trainer.model.emola import EmoLA
from trainer.model.terms import UNRECORDED

_ANSWER_ROWS = 200  # of a calibration record: question and answer, to estimate disk space
_FACE_ROWS = 512  # question and answer at most, to estimate memory
_QUANTISATION = {"calibrate": "calibration", "gptq": "gptq"}  # stages, and what decides them


@dataclass(frozen=True)
class ExportJob:
    """An export that was checked: its options and what they name, opened.

    Attributes:
        options: of the export.
        checkpoint: base, vision tower and adapter, not yet merged.
        precision: of the decoder.
        work: sizes of the bundle to be written.
        plan: that the latency of the bundle is compared with, or None if this machine cannot be the target.
        licences: of all weights.
        records: that GPTQ calibrates on.
        answers: records whose answers the runtime drafts from.
        evaluation: the set on which REGE is measured, or None.
        sources: the files of the checkpoint and their hashes, as JSON.
        inputs: everything besides the checkpoint that decides what the bundle holds, as JSON.
    """

    options: ExportOptions
    checkpoint: Checkpoint
    precision: Precision
    work: Workload
    plan: Plan | None
    licences: tuple[Licence, ...]
    records: list[Record]
    answers: list[Record]
    evaluation: EvaluationSet | None
    sources: dict[str, Any]
    inputs: dict[str, Any]

    @property
    def recipe(self) -> str:
        """A hash that is equal for exports from the same files with the same options."""
        content = json.dumps([sdk.__version__, self.sources, self.inputs], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def stage_inputs(self) -> dict[str, dict[str, Any]]:
        """What decides the result of each stage besides the stages before it, by name and in order."""
        found: dict[str, dict[str, Any]] = {"merge": self.sources}
        if self.records:
            found |= {key: {name: self.inputs[name]} for key, name in _QUANTISATION.items()}
        found |= {"reference": self.inputs, "graphs": self.inputs}
        if self.answers:
            found["answers"] = {}
        return {**found, "seal": {"name": self.options.out.name, "gate": self.gate_inputs}}

    @property
    def gate_inputs(self) -> dict[str, Any]:
        """Everything besides the bundle that decides the verdict of the gate, as JSON."""
        evaluation = self.evaluation.digest if self.evaluation else None
        return {**dataclasses.asdict(self.options.gate), "evaluation": evaluation, "root": None}


def prepare(options: ExportOptions) -> ExportJob:
    """Check the options, cheapest checks first, and open what they name.

    Raises:
        CheckpointError, DataError, ExportError: nothing was written.
    """
    _check_values(options)
    checkpoint = Checkpoint(options.adapter, options.base, options.vision_tower)
    if checkpoint.config.prior_position != "after":
        raise ExportError("the landmark row comes before the picture in this checkpoint; a bundle has it after it")
    files, gate = checkpoint.files(), options.gate
    licences = _licences(options, checkpoint)
    precision = _precision(options, checkpoint)
    work = workload(checkpoint, options.out.name, precision, options.gptq.group)
    plan = _plan(options.target, work)
    records = options.calibration.records() if options.calibration else []
    answers = read_training_files(options.answer_files)
    evaluation = None
    if gate.evaluation:
        evaluation = EvaluationSet.read(gate.evaluation, gate.task, gate.dataset, root=gate.root, limit=gate.limit)
    return ExportJob(
        options=options,
        checkpoint=checkpoint,
        precision=precision,
        work=work,
        plan=plan,
        licences=licences,
        records=records,
        answers=answers,
        evaluation=evaluation,
        inputs=_inputs(options, precision, records),
        sources={"files": [[path.name, file_sha256(path)] for path in files]},  # names may repeat
    )


def workload(checkpoint: Checkpoint, name: str, precision: Precision, group: int) -> Workload:
    """The workload of a checkpoint whose decoder is stored in a given precision.

    Args:
        checkpoint: of the model.
        name: for people.
        precision: of the decoder.
        group: weights of a quantised decoder that share a scale.
    """
    with torch.device("meta"):
        model = EmoLA(checkpoint.config)
    encoders = (model.vision_tower, model.mm_projector, model.landmark_feature_projector)
    shape = geometry(checkpoint.config)
    bits, head_bits = (precision.bits, precision.head_bits) if precision.bits else (32, 32)
    halved = checkpoint.merged["language_model.model.norm.weight"].dtype == torch.float16  # see `write_embeddings`
    return Workload(
        name,
        shape,
        (stored_decoder(precision.name, shape, bits, head_bits, group),),
        encoder_weights=sum(parameter.numel() for part in encoders for parameter in part.parameters()),
        image_rows=checkpoint.config.image_rows,
        embedding_bytes=(2 if halved else 4) * shape.vocabulary * shape.hidden_size,
    )


def needs_of(job: ExportJob, done: frozenset[str] = frozenset()) -> list[Need]:
    """What each stage of an export needs.

    Args:
        job: the export.
        done: stages that an earlier run finished.
    """
    options, config, text = job.options, job.checkpoint.config, job.checkpoint.config.text
    shape, work, exact = geometry(config), job.work, not job.precision.bits
    arithmetic = job.checkpoint.arithmetic(options.device, exact=exact)
    attention = shape.head_size * (2 * shape.heads + 2 * shape.kv_heads)
    rows = options.calibration.count * (config.image_rows + _ANSWER_ROWS) if options.calibration else 0
    tables = shape.vocabulary * shape.hidden_size
    sizes = Sizes(
        files=sum(path.stat().st_size for path in job.checkpoint.files()),
        layer=shape.hidden_size * (attention + 3 * text.intermediate_size),
        layers=shape.layers,
        table=tables,
        encoders=work.encoder_weights,
        decoder=work.decoders[0].size,
        face=8 * shape.layers * shape.kv_heads * shape.head_size * (config.image_rows + _FACE_ROWS),
        records=options.calibration.count if options.calibration else 0,
        rows=rows * 4 * (5 * text.hidden_size + text.intermediate_size),
        evaluation=len(job.evaluation.records) if job.evaluation else 0,
        weight_bytes=arithmetic.dtype.itemsize,
        layerwise=arithmetic.layerwise,
        on_gpu=arithmetic.device == "cuda",
        half=options.tensorrt,
        kept=work.decoders[0].size + 8 * tables if options.keep_gptq else 0,
    )
    return needs(sizes, list(job.stage_inputs), done)


def _check_values(options: ExportOptions) -> None:
    if options.quantize not in QUANTIZE:
        raise ExportError(f"quantize must be one of {', '.join(QUANTIZE)}, not {options.quantize!r}")
    if options.head_bits not in (4, 8):
        raise ExportError(f"the head can have 8 or 4 bits, not {options.head_bits}")
    if options.keep_gptq and options.quantize != "gptq":
        raise ExportError("--keep-gptq keeps the result of GPTQ: it needs --quantize gptq or --gptq DIR")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ExportError("this machine or this build of torch has no CUDA; leave --device at auto or cpu")


def _licences(options: ExportOptions, checkpoint: Checkpoint) -> tuple[Licence, ...]:
    """The licences of all weights; checks the interfaces and terms of the face networks."""
    terms = checkpoint.conventions.licence or UNRECORDED
    found = [Licence(part="vision tower, projectors and decoder", origin=Path(options.base).name, licence=terms)]
    if options.adapter:
        found.append(Licence(part="adapter", origin=Path(options.adapter).name, licence=terms))
    if options.landmark_model:
        check_landmark_model(options.landmark_model, checkpoint.config.landmark_size)
        found.append(check_terms(options.landmark_model, "landmark", options.accept_noncommercial))
    if options.detector_model:
        open_detector_file(options.detector_model)  # checks the interface
        found.append(check_terms(options.detector_model, "detector", options.accept_noncommercial))
    return tuple(found)


def _precision(options: ExportOptions, checkpoint: Checkpoint) -> Precision:
    """The precision of the decoder; checks that GPTQ can quantise it, or that it was quantised from this base."""
    if options.quantize == "none":
        return Precision("float32")
    if options.quantize == "int4":
        return Precision("int4", 4, options.head_bits)
    if options.gptq_folder:
        weights = GptqWeights(options.gptq_folder)
        weights.check(decoder_shapes(checkpoint))
        bits = weights.bits
    elif options.calibration:
        check_shapes(checkpoint, options.gptq)
        bits = options.gptq.bits
    else:
        raise ExportError(
            "GPTQ needs training records: pass --calibration records.json, a quantised decoder (--gptq DIR), or "
            "--quantize int4"
        )
    return Precision(f"gptq-int{bits}", bits, options.head_bits)


def _plan(name: str | None, work: Workload) -> Plan | None:
    """Check that the model fits the target; `emola engines` judges the latency of a target with a GPU on itself."""
    if name is None:
        return None
    target = find_target(name)
    plan = check_fits(name, target, work)
    return None if target.sm else plan


def _inputs(options: ExportOptions, precision: Precision, records: list[Record]) -> dict[str, Any]:
    """Everything besides the checkpoint that decides what the bundle holds; its hash is in bundles, so keys stay."""
    layout = layout_files(options.gptq_folder) if options.gptq_folder else []
    landmark, detector = options.landmark_model, options.detector_model
    inputs: dict[str, Any] = {
        "precision": dataclasses.asdict(precision),
        "landmark": file_sha256(landmark) if landmark else None,
        "half": options.tensorrt,
        "cuda": options.cuda,
        "keep_gptq": options.keep_gptq,
        "detector": file_sha256(detector) if detector else None,
    }
    if layout:
        inputs["gptq"] = {path.name: file_sha256(path) for path in layout}
    if records:
        inputs |= {"calibration": digest(records), "gptq": dataclasses.asdict(options.gptq)}
    if options.answer_files:
        inputs["answers"] = [file_sha256(path) for path in options.answer_files]
    return inputs
