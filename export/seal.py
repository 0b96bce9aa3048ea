"""Stage `seal`: gather the files, measure them through the runtime, let the gate judge, write the manifest last."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.gate import GateOptions, compare_rege, judge, measure_latency
from export.ngrams import NGRAMS
from export.options import ExportOptions
from export.quantise.autogptq import layout_files
from export.report import write_report
from export.stages import RECORD, Stages
from export.targets.machines import find_target
from export.targets.plan import Plan, plan
from sdk.bundles.files import FileRecord, file_sha256
from sdk.bundles.manifest import MANIFEST, Manifest, Variant, read_manifest
from sdk.bundles.measured import FLOAT32_TOLERANCE, Gate, Parity, QuantisedLayer
from sdk.errors import BackendError, DependencyError, ExportError
from sdk.files import write_file
from sdk.runtime.backends.select import open_variant
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference, measure_parity
from trainer.checkpoint import Checkpoint
from trainer.evaluation.evaluate import EvaluationSet

GPTQ_FOLDER = "decoder/gptq"


@dataclass(frozen=True)
class Parts:
    """What the earlier stages left: the merged checkpoint, their folders, and the work folder of this export."""

    checkpoint: Checkpoint
    graphs: Path
    reference: Path
    gptq: "Path | None"
    ngrams: "Path | None"
    work: Path


def gate_key(options: GateOptions) -> dict[str, Any]:
    """What decides the verdict, as JSON."""
    evaluation = options.open()
    return {**dataclasses.asdict(options), "evaluation": evaluation.digest if evaluation else None, "root": None}


def seal(
    draft: Manifest, parts: Parts, options: ExportOptions, folder: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Fill the folder of the bundle.

    Args:
        draft: everything but the files and their figures.
        report: told one line per step.

    Raises:
        ExportError: a graph does not compute what torch computes, or the gate is not passed.
    """
    _gather(parts, options, folder)
    files = {
        path.relative_to(folder).as_posix(): FileRecord(size=path.stat().st_size, sha256=file_sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    reference = Reference.load(folder / draft.reference)
    parity, devices = [], {}
    for variant in draft.variants:
        try:
            pipeline, device = _open(folder, draft, variant)
        except (BackendError, DependencyError) as error:
            devices[variant.name] = f"not measured: {error}"
            continue
        devices[variant.name] = f"measured on {device}"
        parity += _check_parity(pipeline, reference)
    latency = measure_latency(pipeline, reference)  # of the last variant, which is the CPU's
    manifest = draft.model_copy(
        update={
            "files": files,
            "parity": tuple(parity),
            "latency": latency,
            "layers": _layers(parts.gptq),
            "environment": {**draft.environment, **devices},
        }
    )
    del pipeline
    manifest = _pass_gate(manifest, parts, options, folder, report)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return {f"{p.variant} {p.stage}": p.relative_error for p in manifest.parity}


def _gather(parts: Parts, options: ExportOptions, folder: Path) -> None:
    shutil.copytree(parts.graphs, folder, ignore=shutil.ignore_patterns(RECORD), dirs_exist_ok=True)
    shutil.copyfile(parts.reference / "reference.npz", folder / "reference.npz")
    if parts.ngrams:
        shutil.copyfile(parts.ngrams / NGRAMS, folder / NGRAMS)
    if options.keep_gptq and parts.gptq:
        (folder / GPTQ_FOLDER).mkdir()
        for path in layout_files(parts.gptq):
            shutil.copyfile(path, folder / GPTQ_FOLDER / path.name)
    if options.detector_model:
        shutil.copyfile(options.detector_model, folder / "detector.onnx")


def _open(folder: Path, draft: Manifest, variant: Variant) -> tuple[Pipeline, str]:
    """A variant on its own device or, where this machine lacks that, the same graph on the CPU; and which it is.

    Raises:
        BackendError, DependencyError: an AutoGPTQ folder, which has no graph, and no GPU.
    """
    try:
        return Pipeline(folder, draft, open_variant(folder, draft, variant)), variant.device
    except (BackendError, DependencyError):
        if variant.backend == "gptq_cuda":
            raise
        return Pipeline(folder, draft, open_variant(folder, draft, variant, device="cpu")), "cpu"


def _check_parity(pipeline: Pipeline, reference: Reference) -> list[Parity]:
    """Parity of every stage; a quantised decoder is reported, everything else must agree.

    Raises:
        ExportError: a graph does not compute what torch computes.
    """
    judged = []
    for parity in measure_parity(pipeline, reference):
        if parity.stage == "decoder" and pipeline.backend.variant.precision != "float32":
            parity = parity.model_copy(update={"tolerance": max(2 * parity.relative_error, FLOAT32_TOLERANCE)})
        if not parity.passed:
            raise ExportError(
                f"the {parity.stage} graph differs from torch by {parity.relative_error:.1e} (relative), at most "
                f"{parity.tolerance:.0e} is allowed; nothing was sealed"
            )
        judged.append(parity)
    return judged


def _pass_gate(
    manifest: Manifest, parts: Parts, options: ExportOptions, folder: Path, report: Callable[[str], None]
) -> Manifest:
    """The manifest with the verdict; writes the report whatever it is."""
    evaluation, rege = options.gate.open(), None
    if evaluation:
        answers = parts.work / _answers(manifest, evaluation)
        rege = compare_rege(parts.checkpoint, folder, manifest, evaluation, answers, report)
    gate = judge(manifest, rege, _plan(parts.checkpoint, options), options.gate)
    manifest = manifest.model_copy(update={"gate": gate})
    write_report(manifest, options.report, allowed=options.gate.allow)
    if gate.shortfalls and not options.gate.allow:
        raise ExportError(
            f"not sealed: {'; '.join(gate.shortfalls)}. See {options.report}; export with other options, or --allow to "
            "overrule"
        )
    return manifest


def judge_again(
    manifest: Manifest,
    checkpoint: Checkpoint,
    merged: Callable[[], Checkpoint],
    options: ExportOptions,
    stages: Stages,
) -> Manifest:
    """The manifest of a bundle that was sealed before, held against what its gate is asked now.

    The figures it carries are taken as they are; only REGE is measured if it was not on these records. A verdict that
    asks more is written into the manifest and the report.

    Args:
        merged: makes the checkpoint that REGE is measured against; called if it must be.

    Raises:
        ExportError: it falls short of what is asked now; the bundle stays as it is.
    """
    out, evaluation = options.out, options.gate.open()
    before = manifest.gate or Gate(rege=None, thresholds=GateOptions().thresholds, failures=(), overruled=False)
    rege = before.rege
    if evaluation and (rege is None or rege.data != evaluation.digest):
        answers = stages.work / _answers(manifest, evaluation)
        rege = compare_rege(merged(), out, manifest, evaluation, answers, stages.report)
    gate = judge(manifest, rege, _plan(checkpoint, options), options.gate)
    if gate.shortfalls and not options.gate.allow:
        raise ExportError(
            f"{out} holds this export already and stays as it is, but falls short of what is asked now: "
            f"{'; '.join(gate.shortfalls)}; export with other options, or --allow to overrule"
        )
    if gate.rege == before.rege and {*gate.slow} <= {*before.slow} and not options.gate.ask_more(before):
        stages.report(f"{out} holds this export already")
        return manifest
    manifest = manifest.model_copy(update={"gate": gate})
    write_report(manifest, options.report, allowed=options.gate.allow)
    write_file(out / MANIFEST, manifest.to_json().encode())
    stages.report(f"{out} holds this export already; it was judged again, manifest and report record the verdict")
    return read_manifest(out)


def _answers(manifest: Manifest, evaluation: EvaluationSet) -> str:
    """Folder of the answers of one bundle to one set."""
    return f"answers-{evaluation.digest[:12]}-{manifest.digest_of()[:12]}"


def _plan(checkpoint: Checkpoint, options: ExportOptions) -> "Plan | None":
    """What was planned for this machine; other machines are judged by `emola engines` on themselves."""
    if options.target is None or find_target(options.target).sm is not None:
        return None
    return plan(options.target, find_target(options.target), options.workload(checkpoint))


def _layers(gptq: "Path | None") -> tuple[QuantisedLayer, ...]:
    """The figures of a folder that this export quantised; one that was given has none."""
    record = gptq / RECORD if gptq else None
    found = json.loads(record.read_text())["figures"]["layers"] if record and record.is_file() else ()
    return tuple(QuantisedLayer(**layer) for layer in found)
