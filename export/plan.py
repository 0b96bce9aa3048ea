"""Does a bundle fit a machine, and how fast will it be? From data sheets and the roofline, before anyone buys."""

from dataclasses import dataclass
from typing import Any

from sdk.bundles.manifest import Geometry, Manifest
from sdk.errors import ExportError

from .targets import Target

_RUNTIME_GB = {True: 0.9, False: 0.25}  # with and without CUDA: its context, the libraries, Python
_GROUP = 128


@dataclass(frozen=True)
class Workload:
    """What the arithmetic needs to know of a model and of one question.

    Attributes:
        name: for people.
        geometry: of the decoder.
        encoder_weights: parameters of the vision tower and of both projectors.
        image_rows: of one face, including the landmark row.
        text_rows: system text and question.
        answer_rows: positions kept for answers and for free questions.
    """

    name: str
    geometry: Geometry
    encoder_weights: int
    image_rows: int
    text_rows: int = 55
    answer_rows: int = 640

    @property
    def layer_weights(self) -> int:
        """Weights of all linear layers, without the head."""
        g = self.geometry
        attention = 2 * g.hidden_size * (g.heads + g.kv_heads) * g.head_size
        return g.layers * (attention + 3 * g.hidden_size * g.intermediate_size)

    @property
    def head_weights(self) -> int:
        return self.geometry.vocabulary * self.geometry.hidden_size

    @property
    def cache_bytes(self) -> int:
        """KV cache of one position in 16 bits."""
        return 4 * self.geometry.layers * self.geometry.kv_heads * self.geometry.head_size


LLAVA_7B = Workload(
    "EmoLA on LLaVA-1.5-7B",
    Geometry(
        layers=32,
        hidden_size=4096,
        heads=32,
        kv_heads=32,
        head_size=128,
        vocabulary=32000,
        context=2048,
        intermediate_size=11008,
    ),
    encoder_weights=303_500_000 + 20_980_000 + 17_650_000,
    image_rows=577,
)


def workload_of(manifest: Manifest) -> Workload:
    """The same for a bundle.

    Raises:
        ExportError: the bundle does not say how wide its MLP is.
    """
    if not manifest.geometry.intermediate_size:
        raise ExportError(f"{manifest.name} does not record its intermediate size; export it again")
    prompt = manifest.prompt
    longest = max(len(question.token_ids) for question in prompt.questions.values())
    files = [record.size for name, record in manifest.files.items() if name.startswith(manifest.vision)]
    return Workload(
        manifest.name,
        manifest.geometry,
        encoder_weights=sum(files) // 4,
        image_rows=prompt.image_rows,
        text_rows=len(prompt.prefix_ids) + longest,
        answer_rows=prompt.max_new_tokens + 128,
    )


@dataclass(frozen=True)
class Plan:
    """What to expect on a target.

    Attributes:
        variant: what to export, or None if nothing fits.
        memory_gb: by part; `left_gb` is what remains.
        first_token_ms: picture to first token; `second_question_ms`: a further question about the same face.
        tokens_per_s: expected; `ceiling_per_s` if the memory were read at its full bandwidth.
        share, reason: of the ceiling, and why that much.
    """

    target: str
    title: str
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
    plans = [_plan(name, target, work, head_bits) for head_bits in (8, 4)]
    return next((found for found in plans if found.fits), plans[-1])


def check_fits(name: str, target: Target, work: Workload) -> Plan:
    """The plan of a target that a model fits.

    Raises:
        ExportError: it does not; says what it takes.
    """
    found = plan(name, target, work)
    if not found.fits:
        parts = ", ".join(f"{part} {size:.2f}" for part, size in found.memory_gb.items())
        raise ExportError(
            f"{work.name} does not fit {target.title}: {sum(found.memory_gb.values()):.1f} GB are needed in 4 bits "
            f"({parts}), a process gets {target.memory_gb} GB; `emola plan` lists the targets that it fits"
        )
    return found


def _plan(name: str, target: Target, work: Workload, head_bits: int) -> Plan:
    gpu = target.sm is not None
    read = _bytes(work.layer_weights, 4) + _bytes(work.head_weights, head_bits)
    memory = {part: size / 1e9 for part, size in _memory(work, read, gpu).items()}
    memory["runtime"] = _RUNTIME_GB[gpu]
    left = target.memory_gb - sum(memory.values())
    rows = work.image_rows + work.text_rows
    bandwidth = 1e9 * target.bandwidth_gbs
    arithmetic = 1e12 * target.tflops * target.prefill_share
    cache = work.cache_bytes * (1 if gpu else 2) * (rows + 60)
    step = (read + cache) / (bandwidth * target.decode_share)
    encoder = 2 * work.encoder_weights * work.image_rows
    prefill = 2 * work.layer_weights * rows + 4 * rows**2 * work.geometry.layers * work.geometry.hidden_size
    question = max(step, 2 * work.layer_weights * 16 / arithmetic)
    return Plan(
        target=name,
        title=target.title,
        variant=f"gptq, 4 bits, group 128, head {head_bits} bits; {target.variants[0]}" if left > 0 else None,
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
        "encoders": width * work.encoder_weights,
        "embeddings": 2 * work.head_weights,
        "kv cache": work.cache_bytes * width / 2 * positions,
        "activations": width * rows * (3 * g.intermediate_size + 6 * g.hidden_size) + 4 * g.vocabulary,
    }


def _bytes(weights: int, bits: int) -> float:
    """Of weights in groups of 128, each with a 16-bit scale."""
    return weights * (bits / 8 + 2 / _GROUP)
