"""The manifest of a bundle before its files are hashed and measured."""

import dataclasses
import os
import platform
from importlib.metadata import version
from pathlib import Path

import sdk
from export.graphs.write import half_path
from export.model import geometry
from export.ngrams import NGRAMS
from export.prepare import ExportJob, workload
from export.quantise.autogptq import GptqWeights, layout_files
from sdk.bundles.language import AnswerLanguage
from sdk.bundles.manifest import Manifest, Variant
from sdk.bundles.prompt import Prompt, Question
from sdk.faba.prompts import IMAGE, QUESTIONS, TASKS, TEMPLATES
from sdk.runtime.backends.gptq_cuda.weights import GROUPS, computes_heads
from sdk.runtime.language import Grammar
from trainer.checkpoint import Checkpoint
from trainer.model.config import preprocessing
from trainer.model.terms import INTENDED_USE
from trainer.synthetic.describe import answer_language
from trainer.synthetic.label_phrases import label_phrases
from trainer.tokenization import IMAGE_TOKEN, load_tokenizer, prompt_ids

GPTQ_FOLDER = "decoder/gptq"
_MAX_NEW_TOKENS = 512


def describe(job: ExportJob, checkpoint: Checkpoint, gptq: Path | None) -> Manifest:
    """The manifest of a bundle without the hashes of its files and the measured figures.

    Args:
        job: the export.
        checkpoint: complete, with LoRA merged.
        gptq: folder of the quantised decoder, or None.
    """
    options, conventions, shape = job.options, checkpoint.conventions, geometry(checkpoint.config)
    variants, provenance, prompt = _variants(job, gptq, shape.head_size), _provenance(job), _prompt(job, checkpoint)
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
        encoder_weights=workload(checkpoint, options.out.name, job.precision, options.gptq.group).encoder_weights,
        ngrams=NGRAMS if options.answer_files else None,
        labels=label_phrases(),
        language=_language(job),
        preprocessing=preprocessing(checkpoint.config, conventions, checkpoint.statistics),
        prompt=prompt,
        geometry=shape,
        variants=variants,
        provenance=provenance,
        licences=job.licences,
        parity=(),
        environment=_environment(),
    )


def _variants(job: ExportJob, gptq: Path | None, head_size: int) -> tuple[Variant, ...]:
    """The variants, those with more requirements first; the graphs share one file of weights."""
    precision, options = job.precision, job.options
    kept = gptq_variants(gptq, head_size) if gptq and options.keep_gptq and precision.bits == 4 else ()
    graph = f"decoder/{precision.name}.onnx"
    on_cpu = Variant(
        name=f"ort-{precision.name}",
        backend="ort",
        precision=precision.name,
        decoder=graph,
        external=(f"{graph}.data",),
    )
    if not options.cuda:
        return *kept, on_cpu
    name = precision.name if precision.bits else "float16"
    changes = {"name": f"ort-cuda-{name}", "precision": name, "decoder": half_path(graph), "device": "cuda"}
    return *kept, on_cpu.model_copy(update=changes), on_cpu


def gptq_variants(folder: Path, head_size: int) -> tuple[Variant, ...]:
    """The variant that runs an AutoGPTQ folder on the GPU kernels, or none if they do not support it.

    Args:
        folder: of the quantised decoder; the kernels read only safetensors.
        head_size: of the decoder; the kernels compute only some sizes.
    """
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


def _provenance(job: ExportJob) -> dict[str, str]:
    options = job.options
    return {
        "base": Path(options.base).name,
        "adapter": Path(options.adapter).name if options.adapter else "none",
        "recipe": job.recipe,
        **_quantisation(job),
        "emola-edge": sdk.__version__,
        **{name: version(name) for name in ("torch", "transformers", "onnx")},
    }


def _quantisation(job: ExportJob) -> dict[str, str]:
    options, calibration = job.options, job.options.calibration
    if options.gptq_folder:
        return {"quantisation": f"taken from {options.gptq_folder.name}, head in {options.head_bits} bits"}
    if not calibration:
        return {}
    settings = ", ".join(f"{key} {value}" for key, value in dataclasses.asdict(options.gptq).items())
    return {
        "quantisation": f"GPTQ, {settings}, head in {options.head_bits} bits",
        "calibration": f"{calibration.count} records of {calibration.path.name}, seed {calibration.seed}",
    }


def _prompt(job: ExportJob, checkpoint: Checkpoint) -> Prompt:
    """The fixed prompts as ids of the training tokenizer; the tokenizer of the bundle was checked to give the same."""
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
        max_new_tokens=_MAX_NEW_TOKENS,
        known_questions=_known_questions(job) if checkpoint.conventions.known_questions_only else None,
    )


def _language(job: ExportJob) -> AnswerLanguage | None:
    """The language of texts about rendered faces, if every training answer belongs to it."""
    language = answer_language()
    grammar = Grammar(language, TASKS, None, tuple(language.topics))
    return language if job.answers and all(grammar.accepts(record.answer) for record in job.answers) else None


def _known_questions(job: ExportJob) -> tuple[str, ...]:
    return tuple(sorted({record.question for record in job.answers}))


def _environment() -> dict[str, str]:
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
    }
