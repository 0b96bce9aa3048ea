"""`export_bundle`: checkpoint -> sealed bundle, in stages that survive an interruption."""

import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sdk
from export.graphs.write import geometry, half_path, write_graphs
from export.insightface import licence_of
from export.merge import merge
from export.ngrams import NGRAMS, read_answers, write_ngrams
from export.options import ExportOptions
from export.quantise.activations import Rows
from export.quantise.autogptq import GptqWeights, layout_files
from export.quantise.calibrate import calibrate, digest
from export.quantise.layerwise import quantise_decoder
from export.reference import compute_reference
from export.seal import GPTQ_FOLDER, Parts, gate_key, judge_again, seal
from export.stages import RECORD, Stages
from sdk.bundles.files import file_sha256
from sdk.bundles.manifest import Licence, Manifest, Prompt, Question, Variant, read_manifest
from sdk.errors import BundleError, ExportError
from sdk.faba.prompts import IMAGE, QUESTIONS, TEMPLATES
from sdk.runtime.backends.gptq_cuda.weights import GROUPS, computes_heads
from trainer.checkpoint import Checkpoint
from trainer.corpus.records import Record
from trainer.model.config import preprocessing
from trainer.synthetic.label_phrases import label_phrases
from trainer.tokenization import IMAGE_TOKEN, load_tokenizer, prompt_ids

MAX_NEW_TOKENS = 512
INTENDED_USE = (
    "Describing the visible facial expression of consenting adults for research, accessibility and user interfaces. "
    "Not for judging what a person feels, not for decisions about people; emotion recognition at work and in education "
    "is prohibited in the European Union (AI Act, Article 5(1)(f)), and people must be told of it (Article 50(3))."
)


def export_bundle(options: ExportOptions, report: Callable[[str], None] = lambda line: None) -> Manifest:
    """Make a sealed bundle. A run that was stopped continues where it stopped when it is started again.

    Args:
        report: told one line per stage.

    Returns:
        The manifest of the bundle at `options.out`.

    Raises:
        CheckpointError, ExportError: nothing is left at `options.out`.
    """
    checkpoint = options.check()
    out, landmark = options.out, options.landmark_model
    records = options.calibration.records() if options.calibration else []
    sources = {"files": [[path.name, file_sha256(path)] for path in checkpoint.files()]}  # names may repeat
    answers = read_answers(options.answer_files)
    inputs = _inputs(options, records)
    recipe = hashlib.sha256(json.dumps([sdk.__version__, sources, inputs], sort_keys=True).encode()).hexdigest()
    work = out.with_name(f"{out.name}.work")
    stages = Stages(work, report)

    def merge_all() -> Checkpoint:
        return Checkpoint(None, stages.run("merge", sources, lambda folder: merge(checkpoint, folder)))

    if out.exists():
        manifest = judge_again(_same_export(out, recipe), checkpoint, merge_all, options, stages)
    else:
        merged = merge_all()
        gptq = _quantise(stages, merged, options, records, inputs) if records else options.gptq_folder
        graphs = stages.run(
            "graphs",
            inputs,
            lambda folder: write_graphs(
                merged, folder, landmark, options.precision, gptq, half=options.tensorrt, cuda=options.cuda
            ),
        )
        reference = stages.run("reference", {}, lambda folder: _write_reference(merged, landmark, folder))
        ngrams = stages.run("answers", {}, lambda folder: write_ngrams(merged, answers, folder)) if answers else None
        draft = _describe(options, merged, recipe, gptq)
        parts = Parts(merged, graphs, reference, gptq, ngrams, work)
        asked = {"name": out.name, "gate": gate_key(options.gate)}
        sealed = stages.run("seal", asked, lambda folder: seal(draft, parts, options, folder, report))
        (sealed / RECORD).unlink()
        sealed.rename(out)
        manifest = read_manifest(out)
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def _inputs(options: ExportOptions, records: list[Record]) -> dict[str, Any]:
    """Everything besides the checkpoint that decides what the bundle holds, as JSON."""
    landmark, detector = options.landmark_model, options.detector_model
    inputs: dict[str, Any] = {
        "precision": dataclasses.asdict(options.precision),
        "landmark": file_sha256(landmark) if landmark else None,
        "half": options.tensorrt,
        "cuda": options.cuda,
        "keep_gptq": options.keep_gptq,
        "detector": file_sha256(detector) if detector else None,
    }
    if options.gptq_folder:
        inputs["gptq"] = {path.name: file_sha256(path) for path in layout_files(options.gptq_folder)}
    if records:
        inputs |= {"calibration": digest(records), "gptq": dataclasses.asdict(options.gptq)}
    if options.answer_files:
        inputs["answers"] = [file_sha256(path) for path in options.answer_files]
    return inputs


def _quantise(
    stages: Stages, merged: Checkpoint, options: ExportOptions, records: list[Record], inputs: dict[str, Any]
) -> Path:
    """The stages `calibrate` and `gptq`; the folder with the quantised decoder."""
    drawn = {"calibration": inputs["calibration"]}
    rows = stages.run("calibrate", drawn, lambda folder: calibrate(merged, records, folder))

    def quantise(folder: Path) -> dict[str, Any]:
        return quantise_decoder(
            merged, Rows.load(rows), folder, options.gptq, device=options.device, report=stages.report
        )

    return stages.run("gptq", {"gptq": inputs["gptq"]}, quantise, resumable=True)


def _same_export(out: Path, recipe: str) -> Manifest:
    """The bundle at `out`, if it was made from the same files and options."""
    try:
        manifest = read_manifest(out)
    except BundleError:
        manifest = None
    if manifest is None or manifest.provenance.get("recipe") != recipe:
        raise ExportError(f"{out} exists already and is another bundle or none; remove it or choose another name")
    return manifest


def _write_reference(checkpoint: Checkpoint, landmark: Path | None, folder: Path) -> dict[str, Any]:
    compute_reference(checkpoint, landmark).save(folder / "reference.npz")
    return {}


def _describe(options: ExportOptions, checkpoint: Checkpoint, recipe: str, gptq: "Path | None") -> Manifest:
    """The manifest, but for the files and their figures."""
    config, conventions, statistics = checkpoint.config, checkpoint.conventions, checkpoint.statistics
    return Manifest(
        name=options.out.name,
        notice=conventions.notice,
        intended_use=INTENDED_USE,
        files={},
        tokenizer="tokenizer.json",
        vision="vision.onnx",
        vision_half="vision-half.onnx" if options.tensorrt else None,
        landmark="landmark.onnx" if options.landmark_model else None,
        detector="detector.onnx" if options.detector_model else None,
        embeddings="decoder/embeddings.npy",
        reference="reference.npz",
        ngrams=NGRAMS if options.answer_files else None,
        labels=label_phrases(),
        preprocessing=preprocessing(config, conventions, statistics),
        prompt=_prompt(checkpoint),
        geometry=geometry(config),
        variants=_variants(options, gptq, config.text.head_dim),
        provenance={
            "base": Path(options.base).name,
            "adapter": Path(options.adapter).name if options.adapter else "none",
            "recipe": recipe,
            **_calibration(options),
            "emola-edge": sdk.__version__,
            **{name: version(name) for name in ("torch", "transformers", "onnx")},
        },
        licences=_licences(options, checkpoint),
        parity=(),
        environment=_environment(),
    )


def _variants(options: ExportOptions, gptq: "Path | None", head_size: int) -> tuple[Variant, ...]:
    """What runs the decoder, the narrower requirement first; its graphs share one file of weights."""
    precision, kept = options.precision, options.keep_gptq and gptq
    on_gpu = _gptq_variant(gptq, head_size) if kept and precision.bits == 4 else ()
    graph = f"decoder/{precision.name}.onnx"
    on_cpu = Variant(
        name=f"ort-{precision.name}",
        backend="ort",
        precision=precision.name,
        decoder=graph,
        external=(f"{graph}.data",),
    )
    if not options.cuda:
        return *on_gpu, on_cpu
    name = precision.name if precision.bits else "float16"
    changes = {"name": f"ort-cuda-{name}", "precision": name, "decoder": half_path(graph), "device": "cuda"}
    return *on_gpu, on_cpu.model_copy(update=changes), on_cpu


def _gptq_variant(folder: Path, head_size: int) -> tuple[Variant, ...]:
    """The AutoGPTQ folder itself, on the GPU kernels where they read and compute it: safetensors, some shapes."""
    names = [path.name for path in layout_files(folder)]
    weights = [name for name in names if name.endswith(".safetensors")]
    readable = weights and "config.json" in names
    if not (readable and computes_heads(head_size) and GptqWeights(folder).group in GROUPS):
        return ()
    variant = Variant(
        name="gptq-cuda-int4",
        backend="gptq_cuda",
        precision="gptq-int4",
        decoder=f"{GPTQ_FOLDER}/config.json",
        external=tuple(f"{GPTQ_FOLDER}/{name}" for name in weights),
        device="cuda",
    )
    return (variant,)


def _calibration(options: ExportOptions) -> dict[str, str]:
    if options.gptq_folder:
        return {"quantisation": f"taken from {options.gptq_folder.name}, head in {options.head_bits} bits"}
    if not options.calibration:
        return {}
    settings = ", ".join(f"{key} {value}" for key, value in dataclasses.asdict(options.gptq).items())
    return {
        "quantisation": f"GPTQ, {settings}, head in {options.head_bits} bits",
        "calibration": f"{options.calibration.count} records of {options.calibration.path.name}, "
        f"seed {options.calibration.seed}",
    }


def _prompt(checkpoint: Checkpoint) -> Prompt:
    """The fixed prompts as ids of the training tokenizer; the bundle's tokenizer was checked to give the same."""
    tokenizer = load_tokenizer(checkpoint.base)
    template = TEMPLATES[checkpoint.conventions.template]
    ids = {task: prompt_ids(tokenizer, template.prompt(question)) for task, question in QUESTIONS.items()}
    at = ids["emotion"].index(IMAGE_TOKEN)
    return Prompt(
        template=template.name,
        prefix_ids=tuple(ids["emotion"][:at]),
        image_rows=checkpoint.config.image_rows,
        free_question=template.prompt("{question}").split(IMAGE)[1],
        questions={
            task: Question(text=question, token_ids=tuple(ids[task][at + 1 :])) for task, question in QUESTIONS.items()
        },
        stop_ids=(tokenizer.eos_id(),),
        max_new_tokens=MAX_NEW_TOKENS,
    )


def _licences(options: ExportOptions, checkpoint: Checkpoint) -> tuple[Licence, ...]:
    unknown = "not recorded by the checkpoint; LLaVA-1.5 and Vicuna 1.5: Llama 2 Community License, CLIP: MIT"
    terms = checkpoint.conventions.licence or unknown
    found = [Licence(part="vision tower, projectors and decoder", origin=Path(options.base).name, licence=terms)]
    if options.adapter:
        found.append(Licence(part="adapter", origin=Path(options.adapter).name, licence=terms))
    if options.landmark_model:
        found.append(licence_of(options.landmark_model, "landmark"))
    if options.detector_model:
        found.append(licence_of(options.detector_model, "detector"))
    return tuple(found)


def _environment() -> dict[str, str]:
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
    }
