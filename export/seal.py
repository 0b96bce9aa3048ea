"""Stage `seal`: gather the files, measure them through the runtime, pass the gate, and write the manifest last."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.describe import GPTQ_FOLDER
from export.gate import pass_gate
from export.measure import check_parity
from export.ngrams import NGRAMS
from export.options import ExportOptions
from export.prepare import ExportJob
from export.quantise.autogptq import layout_files
from export.stages import RECORD
from sdk.bundles.files import FileRecord, file_sha256
from sdk.bundles.manifest import MANIFEST, Manifest, Variant
from sdk.bundles.measured import QuantisedLayer
from sdk.errors import BackendError, DependencyError, ExportError
from sdk.runtime.backends.select import open_variant
from sdk.runtime.latency import measure_latency
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference
from sdk.untrusted_json import read_json_object
from trainer.checkpoint import Checkpoint


@dataclass(frozen=True)
class Parts:
    """What the earlier stages made.

    Attributes:
        checkpoint: complete, with LoRA merged.
        graphs, reference: folders of these stages.
        gptq: folder of the quantised decoder, or None.
        ngrams: folder of the stage `answers`, or None.
    """

    checkpoint: Checkpoint
    graphs: Path
    reference: Path
    gptq: Path | None
    ngrams: Path | None


def seal(
    job: ExportJob, draft: Manifest, parts: Parts, folder: Path, report: Callable[[str], None]
) -> dict[str, float]:
    """Fill the folder of the bundle.

    Args:
        job: the export.
        draft: the manifest without files and figures.
        parts: what the earlier stages made.
        folder: of the bundle.
        report: called with one line per step.

    Returns:
        The relative error of each stage of each variant.

    Raises:
        ExportError: a graph does not compute what torch computes, or the bundle does not pass the gate.
    """
    _gather(parts, job.options, folder)
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
        parity += check_parity(pipeline, reference)
    latency = measure_latency(pipeline, reference)  # of the last variant, which is the CPU's
    manifest = draft.model_copy(
        update={
            "files": files,
            "parity": tuple(parity),
            "latency": latency,
            "layers": _layers(parts.gptq),
            "environment": {**draft.environment, **devices, "reference": _computed(parts.reference)},
        }
    )
    del pipeline
    manifest = pass_gate(job, parts.checkpoint, manifest, folder, report)
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
    """Open a variant on its device or, if this machine lacks it, the same graph on the CPU; returns the device too.

    Raises:
        BackendError, DependencyError: an AutoGPTQ folder, which has no graph, and this machine has no GPU.
    """
    try:
        return Pipeline(folder, draft, open_variant(folder, draft, variant)), variant.device
    except (BackendError, DependencyError):
        if variant.backend == "gptq_cuda":
            raise
        return Pipeline(folder, draft, open_variant(folder, draft, variant, device="cpu")), "cpu"


def _computed(reference: Path) -> str:
    """The arithmetic of the torch decoder that parity is measured against, e.g. "bfloat16 on cpu"."""
    figures = read_json_object(reference / RECORD, ExportError)["figures"]
    return str(figures.get("computed", "float32 on cpu"))  # version 0 recorded none


def _layers(gptq: Path | None) -> tuple[QuantisedLayer, ...]:
    """The figures of the stage `gptq`; a folder that the options name has none."""
    record = gptq / RECORD if gptq else None
    found = read_json_object(record, ExportError)["figures"]["layers"] if record and record.is_file() else ()
    return tuple(QuantisedLayer(**layer) for layer in found)
