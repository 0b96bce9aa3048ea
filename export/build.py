"""`export_bundle`: from a checkpoint to a sealed bundle, in stages that survive an interruption."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from export.budget import check_disk, check_memory, table
from export.describe import describe
from export.gate import judge_again
from export.graphs.write import write_graphs
from export.merge import merged_checkpoint
from export.ngrams import write_ngrams
from export.options import ExportOptions
from export.prepare import ExportJob, needs_of, prepare
from export.quantise.activations import ActivationFile
from export.quantise.calibrate import calibrate
from export.quantise.layerwise import quantise_decoder
from export.reference import write_reference
from export.seal import Parts, seal
from export.stages import RECORD, Stages
from sdk.bundles.manifest import Manifest, read_manifest
from sdk.errors import BundleError, ExportError
from sdk.locks import writing_into
from trainer.checkpoint import Checkpoint


def export_bundle(options: ExportOptions, report: Callable[[str], None] = lambda line: None) -> Manifest:
    """Make a sealed bundle. A run that was stopped continues where it stopped when it is started again.

    Args:
        options: what to export, and where.
        report: called with one line per stage.

    Returns:
        The manifest of the bundle at `options.out`.

    Raises:
        CheckpointError, DataError, ExportError: nothing is written to `options.out`.
    """
    job = prepare(options)
    stages = Stages(options.work, report)
    with writing_into(options.out, beside=True):
        if options.out.exists():
            sealed = _same_export(options.out, job.recipe)
            manifest = judge_again(job, sealed, stages)
        else:
            manifest = _build(job, stages)
        shutil.rmtree(stages.work, ignore_errors=True)
    return manifest


def plan_export(options: ExportOptions) -> list[str]:
    """What `export_bundle` would need, as a table, without starting it; the last line says whether this machine has it.

    Raises:
        CheckpointError, DataError, ExportError: the options or what they name do not fit together.
    """
    job = prepare(options)
    found = needs_of(job, Stages(options.work, lambda line: None).finished(job.stage_inputs))
    try:
        check_disk(found, options.out, options.work)
        check_memory(found)
    except ExportError as error:
        return [*table(found), f"would not start: {error}"]
    return [*table(found), "memory and disk suffice"]


def _same_export(out: Path, recipe: str) -> Manifest:
    """The manifest of the bundle at `out`, which must be made from the same files with the same options."""
    try:
        manifest = read_manifest(out)
    except BundleError:
        manifest = None
    if manifest is None or manifest.provenance.get("recipe") != recipe:
        raise ExportError(f"{out} exists already and is another bundle or none; remove it or choose another name")
    return manifest


def _build(job: ExportJob, stages: Stages) -> Manifest:
    """Run the stages, then move the sealed bundle to its place."""
    options, inputs = job.options, job.stage_inputs
    found = needs_of(job, stages.finished(inputs))
    for line in table(found):
        stages.report(line)
    check_disk(found, options.out, options.work)
    check_memory(found)
    merged = merged_checkpoint(job, stages)
    gptq = _quantise(job, merged, stages) if job.records else options.gptq_folder
    reference = _write_reference(job, merged, stages)  # before torch's exporter keeps 1.4 GB for itself
    graphs = _write_graphs(job, merged, gptq, stages)
    ngrams = (
        stages.run("answers", {}, lambda folder: write_ngrams(merged, job.answers, folder)) if job.answers else None
    )
    draft = describe(job, merged, gptq)
    parts = Parts(merged, graphs, reference, gptq, ngrams)
    sealed = stages.run("seal", inputs["seal"], lambda folder: seal(job, draft, parts, folder, stages.report))
    (sealed / RECORD).unlink()
    sealed.rename(options.out)
    return read_manifest(options.out)


def _quantise(job: ExportJob, merged: Checkpoint, stages: Stages) -> Path:
    """The stages `calibrate` and `gptq`; returns the folder of the quantised decoder."""
    options, inputs = job.options, job.stage_inputs
    rows = stages.run(
        "calibrate", inputs["calibrate"], lambda folder: calibrate(merged, job.records, folder, stages.report)
    )

    def quantise(folder: Path) -> dict[str, Any]:
        activations, device = ActivationFile.load(rows), options.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return quantise_decoder(merged, activations, folder, options.gptq, device=device, report=stages.report)

    return stages.run("gptq", inputs["gptq"], quantise, resumable=True)


def _write_graphs(job: ExportJob, merged: Checkpoint, gptq: Path | None, stages: Stages) -> Path:
    options = job.options

    def write(folder: Path) -> dict[str, int]:
        landmark, half, cuda = options.landmark_model, options.tensorrt, options.cuda
        return write_graphs(merged, folder, landmark, job.precision, gptq, half=half, cuda=cuda)

    return stages.run("graphs", job.inputs, write)


def _write_reference(job: ExportJob, merged: Checkpoint, stages: Stages) -> Path:
    options, exact = job.options, not job.precision.bits

    def write(folder: Path) -> dict[str, Any]:
        return write_reference(
            merged, options.landmark_model, folder, device=options.device, exact=exact, report=stages.report
        )

    return stages.run("reference", job.inputs, write)
