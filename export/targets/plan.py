"""Predict from data sheets and the roofline model whether a bundle fits a machine and how fast it will be."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from export.targets.machines import Target
from sdk.bundles.manifest import Geometry, Manifest, Variant
from sdk.errors import ExportError

_RUNTIME_GB = {True: 0.9, False: 0.25}  # with and without CUDA: its context, the libraries, Python
_LAYER_S = 3e-5  # least time of a step in each layer, from emola-nano on a CPU, where launches take most of the time


@dataclass(frozen=True)
class StoredDecoder:
    """A decoder in the form it is stored in.

    Attributes:
        title: for people.
        size: in bytes, all of which a step reads.
        device: that it is for, or None for any.
    """

    title: str
    size: float
    device: Literal["cpu", "cuda"] | None = None


@dataclass(frozen=True)
class Workload:
    """The figures of a model and of a question that a plan is computed from.

    Attributes:
        name: for people.
        geometry: of the decoder.
        decoders: forms in which it is stored, best first.
        encoder_weights: parameters of the vision tower and of both projectors.
        image_rows: of one face, including the landmark row.
        embedding_bytes: of the token table.
        half: the encoders also exist in float16, for a GPU.
        text_rows: of system text and question.
        answer_rows: positions reserved for answers and free questions.
        cache_bits: of the KV cache; None takes 16 on a GPU and 32 on a CPU. With 8 each head's key and value have a
            16-bit scale. No backend has such a cache yet.
    """

    name: str
    geometry: Geometry
    decoders: tuple[StoredDecoder, ...]
    encoder_weights: int
    image_rows: int
    embedding_bytes: int
    half: bool = True
    text_rows: int = 55
    answer_rows: int = 640
    cache_bits: Literal[8] | None = None

    @property
    def layer_weights(self) -> int:
        """Number of weights of all linear layers, without the head."""
        return self.geometry.layer_weights

    @property
    def cache_bytes(self) -> int:
        """Bytes of the KV cache of one position in 16 bits."""
        return 4 * self.geometry.layers * self.geometry.kv_heads * self.geometry.head_size

    def stored_cache(self, gpu: bool) -> float:
        """Bytes of the KV cache of one position as it is stored."""
        if self.cache_bits == 8:
            return self.cache_bytes / 2 * (1 + 2 / self.geometry.head_size)
        return self.cache_bytes * (1 if gpu else 2)


def stored_decoder(title: str, geometry: Geometry, bits: int, head_bits: int, group: int = 128) -> StoredDecoder:
    """Compute the size of a stored decoder; below 16 bits each group of weights has a 16-bit scale.

    Args:
        title: for people.
        geometry: of the decoder.
        bits: of the linear layers; 3 bits are stored as 4.
        head_bits: of the output head.
        group: weights that share a scale.
    """

    def size(weights: int, bits: int) -> float:
        return weights * (max(bits, 4) / 8 + (2 / group if bits < 16 else 0))

    head = geometry.vocabulary * geometry.hidden_size
    return StoredDecoder(title, size(geometry.layer_weights, bits) + size(head, head_bits))


_VICUNA_7B = Geometry(
    layers=32,
    hidden_size=4096,
    heads=32,
    kv_heads=32,
    head_size=128,
    vocabulary=32000,
    context=2048,
    intermediate_size=11008,
)
LLAVA_7B = Workload(
    "EmoLA on LLaVA-1.5-7B",
    _VICUNA_7B,
    tuple(stored_decoder(f"gptq, 4 bits, group 128, head {h} bits", _VICUNA_7B, 4, h) for h in (8, 4)),
    encoder_weights=303_500_000 + 20_980_000 + 17_650_000,
    image_rows=577,
    embedding_bytes=2 * 32000 * 4096,
)


def workload_of(manifest: Manifest, encoder_weights: int, only: Variant | None = None) -> Workload:
    """The workload of a bundle, from the sizes of its files.

    Args:
        manifest: of the bundle.
        encoder_weights: parameters of the vision tower and of both projectors.
        only: the variant that runs; None: the plan chooses among all.

    Raises:
        ExportError: the manifest lacks the intermediate size.
    """
    if not manifest.geometry.intermediate_size:
        raise ExportError(f"{manifest.name} does not record its intermediate size; export it again")
    prompt = manifest.prompt
    longest = max(len(question.token_ids) for question in prompt.questions.values())
    return Workload(
        manifest.name,
        manifest.geometry,
        tuple(_variant(manifest, variant) for variant in ((only,) if only else manifest.variants)),
        encoder_weights=encoder_weights,
        image_rows=prompt.image_rows,
        embedding_bytes=manifest.files[manifest.embeddings].size,
        half=manifest.vision_half is not None,
        text_rows=len(prompt.prefix_ids) + longest,
        answer_rows=prompt.max_new_tokens + 128,
    )


def encoder_weights(bundle: Path, manifest: Manifest) -> int:
    """The number of weights of the vision encoder.

    Bundles from before manifests recorded it are counted in the graph if `onnx` is installed, and else from the size of
    the file, as if it held float16, which is at most twice too many.
    """
    if manifest.encoder_weights is not None:
        return manifest.encoder_weights
    try:
        import onnx
    except ImportError:
        files = (manifest.vision, f"{manifest.vision}.data")
        return sum(manifest.files[name].size for name in files if name in manifest.files) // 2
    graph = onnx.load(bundle / manifest.vision, load_external_data=False).graph
    return sum(math.prod(tensor.dims) for tensor in graph.initializer)


def _variant(manifest: Manifest, variant: Variant) -> StoredDecoder:
    size = manifest.decoder_bytes(variant)
    if variant.precision == "float16":  # shares the file of the float32 variant and converts it when it is opened
        size //= 2
    return StoredDecoder(f"{variant.name} of this bundle", size, variant.device)


@dataclass(frozen=True)
class Plan:
    """The predicted memory and speed of a model on a target.

    Attributes:
        target: key of the target.
        title: of the target.
        decoder: form in which the decoder is stored.
        variant: of the bundle that runs, or the one to export; None if nothing fits.
        memory_gb: needed, by part.
        left_gb: memory that remains.
        stages_ms: expected time of each stage: "vision", "prefill", "question" and "token".
        first_token_ms: from picture to first token.
        second_question_ms: from a further question about the same face to its first token.
        tokens_per_s: expected rate.
        ceiling_per_s: rate at the full bandwidth of the memory.
        share: of the ceiling that is expected.
        reason: source of `share`.
    """

    target: str
    title: str
    decoder: str
    variant: str | None
    memory_gb: dict[str, float]
    left_gb: float
    stages_ms: dict[str, float]
    first_token_ms: float
    second_question_ms: float
    tokens_per_s: float
    ceiling_per_s: float
    share: float
    reason: str

    @property
    def fits(self) -> bool:
        """Whether the memory suffices."""
        return self.variant is not None

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {**vars(self), "fits": self.fits}


def plan(name: str, target: Target, work: Workload) -> Plan:
    """Plan the best variant that fits a target; if none fits, the last one.

    Args:
        name: key of the target.
        target: the machine.
        work: the model.
    """
    device = "cuda" if target.sm else "cpu"
    own = [decoder for decoder in work.decoders if decoder.device in (None, device)]
    again = (replace(decoder, title=f"{decoder.title}, exported again with --cuda") for decoder in work.decoders)
    plans = [_plan(name, target, work, decoder) for decoder in own or again]
    return next((found for found in plans if found.fits), plans[-1])


def check_fits(name: str, target: Target, work: Workload) -> Plan:
    """`plan` for a model that must fit.

    Raises:
        ExportError: it does not fit; the message says what it needs.
    """
    found = plan(name, target, work)
    if not found.fits:
        parts = ", ".join(f"{part} {size:.3g}" for part, size in found.memory_gb.items())
        raise ExportError(
            f"{work.name} does not fit {target.title}: {sum(found.memory_gb.values()):.1f} GB are needed for "
            f"{found.decoder} ({parts}), {target.memory_gb} GB are available; `emola plan` lists what it fits"
        )
    return found


def _plan(name: str, target: Target, work: Workload, decoder: StoredDecoder) -> Plan:
    gpu, read = target.sm is not None, decoder.size
    memory = {part: size / 1e9 for part, size in _memory(work, read, gpu).items()}
    memory["runtime"] = _RUNTIME_GB[gpu]
    left = target.memory_gb - sum(memory.values())
    rows = work.image_rows + work.text_rows
    bandwidth = 1e9 * target.bandwidth_gbs
    arithmetic, encoding = (
        1e12 * tflops * target.prefill_share for tflops in (target.tflops, target.encoder_tflops or target.tflops)
    )
    cache = work.stored_cache(gpu) * (rows + 60)
    step = max((read + cache) / (bandwidth * target.decode_share), _LAYER_S * work.geometry.layers)
    prefill = 2 * work.layer_weights * rows + 4 * rows**2 * work.geometry.layers * work.geometry.hidden_size
    stages = {
        "vision": 2 * work.encoder_weights * work.image_rows / encoding,
        "prefill": prefill / arithmetic,
        "question": max(step, 2 * work.layer_weights * 16 / arithmetic),
        "token": step,
    }
    variant = decoder.title if decoder.device else f"{decoder.title}; {target.variants[0]}"
    return Plan(
        target=name,
        title=target.title,
        decoder=decoder.title,
        variant=variant if left > 0 else None,
        memory_gb={part: round(size, 3) for part, size in memory.items()},
        left_gb=round(left, 2),
        stages_ms={name: round(1000 * seconds, 3) for name, seconds in stages.items()},
        first_token_ms=round(1000 * (stages["vision"] + stages["prefill"] + step), 1),
        second_question_ms=round(1000 * stages["question"], 1),
        tokens_per_s=round(1 / step, 1),
        ceiling_per_s=round(bandwidth / (read + cache), 1),
        share=target.decode_share,
        reason=target.decode_reason,
    )


def _memory(work: Workload, read: float, gpu: bool) -> dict[str, float]:
    """Bytes by part, with activations and cache in 16 bits on a GPU and in 32 bits on a CPU."""
    width = 2 if gpu else 4
    positions = work.image_rows + work.text_rows + work.answer_rows
    g, rows = work.geometry, work.image_rows + work.text_rows
    return {
        "decoder": read,
        "encoders": (2 if gpu and work.half else 4) * work.encoder_weights,
        "embeddings": work.embedding_bytes,
        "kv cache": work.stored_cache(gpu) * positions,
        "activations": width * rows * (3 * g.intermediate_size + 6 * g.hidden_size) + 4 * g.vocabulary,
    }
