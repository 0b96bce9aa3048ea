"""Does a bundle fit a machine, and how fast will it be? From data sheets and the roofline, before anyone buys."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from export.targets.machines import Target
from sdk.bundles.manifest import Geometry, Manifest, Variant
from sdk.errors import ExportError

_RUNTIME_GB = {True: 0.9, False: 0.25}  # with and without CUDA: its context, the libraries, Python
_LAYER_S = 3e-5  # a step takes at least this long in each layer: emola-nano on a CPU, where launches are all there is


@dataclass(frozen=True)
class Decoder:
    """One way to store a decoder: its bytes, all of which a step reads, and the device it is for (None: any)."""

    title: str
    size: float
    device: "Literal['cpu', 'cuda'] | None" = None


@dataclass(frozen=True)
class Workload:
    """What the arithmetic needs to know of a model and of one question.

    Attributes:
        name: for people.
        geometry: of the decoder.
        decoders: ways to store it, best first.
        encoder_weights: parameters of the vision tower and of both projectors.
        image_rows: of one face, including the landmark row.
        embedding_bytes: of the token table.
        half: the encoders are there in float16 for a GPU.
        text_rows: system text and question.
        answer_rows: positions kept for answers and for free questions.
    """

    name: str
    geometry: Geometry
    decoders: tuple[Decoder, ...]
    encoder_weights: int
    image_rows: int
    embedding_bytes: int
    half: bool = True
    text_rows: int = 55
    answer_rows: int = 640

    @property
    def layer_weights(self) -> int:
        """Weights of all linear layers, without the head."""
        return self.geometry.layer_weights

    @property
    def cache_bytes(self) -> int:
        """KV cache of one position in 16 bits."""
        return 4 * self.geometry.layers * self.geometry.kv_heads * self.geometry.head_size


def stored_decoder(title: str, geometry: Geometry, bits: int, head_bits: int, group: int = 128) -> Decoder:
    """A decoder by arithmetic; below 16 bits each group of weights has a 16-bit scale.

    Args:
        bits: of the linear layers, 3 of which are stored as 4; `head_bits` of the output head.
    """

    def size(weights: int, bits: int) -> float:
        return weights * (max(bits, 4) / 8 + (2 / group if bits < 16 else 0))

    head = geometry.vocabulary * geometry.hidden_size
    return Decoder(title, size(geometry.layer_weights, bits) + size(head, head_bits))


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


def workload_of(manifest: Manifest, encoder_weights: int) -> Workload:
    """The same for a bundle, with the bytes that its files have.

    Raises:
        ExportError: the bundle does not say how wide its MLP is.
    """
    if not manifest.geometry.intermediate_size:
        raise ExportError(f"{manifest.name} does not record its intermediate size; export it again")
    prompt = manifest.prompt
    longest = max(len(question.token_ids) for question in prompt.questions.values())
    return Workload(
        manifest.name,
        manifest.geometry,
        tuple(_variant(manifest, variant) for variant in manifest.variants),
        encoder_weights=encoder_weights,
        image_rows=prompt.image_rows,
        embedding_bytes=manifest.files[manifest.embeddings].size,
        half=manifest.vision_half is not None,
        text_rows=len(prompt.prefix_ids) + longest,
        answer_rows=prompt.max_new_tokens + 128,
    )


def _variant(manifest: Manifest, variant: Variant) -> Decoder:
    size = sum(manifest.files[name].size for name in (variant.decoder, *variant.external))
    if variant.precision == "float16":  # it shares the file of the float32 variant and narrows it when it is opened
        size //= 2
    return Decoder(f"{variant.name} of this bundle", size, variant.device)


@dataclass(frozen=True)
class Plan:
    """What to expect on a target.

    Attributes:
        decoder: how it is stored.
        variant: of a bundle the one that runs, otherwise what to export; None if nothing fits.
        memory_gb: by part; `left_gb` is what remains.
        first_token_ms: picture to first token; `second_question_ms`: a further question about the same face.
        tokens_per_s: expected; `ceiling_per_s` if the memory were read at its full bandwidth.
        share, reason: of the ceiling, and why that much.
    """

    target: str
    title: str
    decoder: str
    variant: "str | None"
    memory_gb: dict[str, float]
    left_gb: float
    first_token_ms: float
    second_question_ms: float
    tokens_per_s: float
    ceiling_per_s: float
    share: float
    reason: str

    @property
    def fits(self) -> bool:
        return self.variant is not None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "fits": self.fits}


def plan(name: str, target: Target, work: Workload) -> Plan:
    """The best variant that fits a target, or the smallest one with what is missing.

    Args:
        name: key of the target.
    """
    device = "cuda" if target.sm else "cpu"
    own = [decoder for decoder in work.decoders if decoder.device in (None, device)]
    again = (replace(decoder, title=f"{decoder.title}, exported again with --cuda") for decoder in work.decoders)
    plans = [_plan(name, target, work, decoder) for decoder in own or again]
    return next((found for found in plans if found.fits), plans[-1])


def check_fits(name: str, target: Target, work: Workload) -> Plan:
    """The plan of a target that a model fits.

    Raises:
        ExportError: it does not; says what it takes.
    """
    found = plan(name, target, work)
    if not found.fits:
        parts = ", ".join(f"{part} {size:.3g}" for part, size in found.memory_gb.items())
        raise ExportError(
            f"{work.name} does not fit {target.title}: {sum(found.memory_gb.values()):.1f} GB are needed for "
            f"{found.decoder} ({parts}), a process gets {target.memory_gb} GB; `emola plan` lists what it fits"
        )
    return found


def _plan(name: str, target: Target, work: Workload, decoder: Decoder) -> Plan:
    gpu, read = target.sm is not None, decoder.size
    memory = {part: size / 1e9 for part, size in _memory(work, read, gpu).items()}
    memory["runtime"] = _RUNTIME_GB[gpu]
    left = target.memory_gb - sum(memory.values())
    rows = work.image_rows + work.text_rows
    bandwidth = 1e9 * target.bandwidth_gbs
    arithmetic = 1e12 * target.tflops * target.prefill_share
    cache = work.cache_bytes * (1 if gpu else 2) * (rows + 60)
    step = max((read + cache) / (bandwidth * target.decode_share), _LAYER_S * work.geometry.layers)
    encoder = 2 * work.encoder_weights * work.image_rows
    prefill = 2 * work.layer_weights * rows + 4 * rows**2 * work.geometry.layers * work.geometry.hidden_size
    question = max(step, 2 * work.layer_weights * 16 / arithmetic)
    variant = decoder.title if decoder.device else f"{decoder.title}; {target.variants[0]}"
    return Plan(
        target=name,
        title=target.title,
        decoder=decoder.title,
        variant=variant if left > 0 else None,
        memory_gb={part: round(size, 3) for part, size in memory.items()},
        left_gb=round(left, 2),
        first_token_ms=round(1000 * ((encoder + prefill) / arithmetic + step), 1),
        second_question_ms=round(1000 * question, 1),
        tokens_per_s=round(1 / step, 1),
        ceiling_per_s=round(bandwidth / (read + cache), 1),
        share=target.decode_share,
        reason=target.decode_reason,
    )


def _memory(work: Workload, read: float, gpu: bool) -> dict[str, float]:
    """Bytes by part: 16-bit activations and cache on a GPU, 32-bit ones on a CPU."""
    width = 2 if gpu else 4
    positions = work.image_rows + work.text_rows + work.answer_rows
    g, rows = work.geometry, work.image_rows + work.text_rows
    return {
        "decoder": read,
        "encoders": (2 if gpu and work.half else 4) * work.encoder_weights,
        "embeddings": work.embedding_bytes,
        "kv cache": work.cache_bytes * width / 2 * positions,
        "activations": width * rows * (3 * g.intermediate_size + 6 * g.hidden_size) + 4 * g.vocabulary,
    }
