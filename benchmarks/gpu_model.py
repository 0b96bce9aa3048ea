"""Make a random GPTQ decoder at Vicuna-7B's or a toy shape, and check every kernel against its reference."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdk.bundles.manifest import Geometry
from sdk.runtime.backends.gptq_cuda import kernels, reference
from sdk.runtime.backends.gptq_cuda.buffers import StepBuffers
from sdk.runtime.backends.gptq_cuda.decoder import GptqDecoder
from sdk.runtime.backends.gptq_cuda.weights import Layer, Linear4, LlamaWeights, interleave, pack, rotary_tables

GROUP, QUESTION = 128, 14


@dataclass(frozen=True)
class Model:
    """The decoder that is checked and timed; a question follows `prefix` rows, a step follows `context` positions."""

    llama: LlamaWeights
    decoder: GptqDecoder
    device: str
    tiny: bool
    prefix: int
    context: int

    def rows(self, count: int) -> np.ndarray:
        """Return (count, D) random embeddings."""
        width = self.llama.geometry.hidden_size
        return np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)


def open_model(device: str, tiny: bool, layers: int | None) -> Model:
    torch.manual_seed(0)
    llama, on_gpu = random_llama(geometry(tiny, layers), device), device == "cuda"
    room = on_gpu and torch.cuda.mem_get_info()[0] > 3 * llama.dense_bytes(torch.float16)
    table = llama.table.float().cpu().numpy()
    decoder = GptqDecoder(llama, kernels, table, dtype=torch.float16, keep_dense=room, graphs=on_gpu)
    return Model(llama, decoder, device, tiny, *((40, 48) if tiny else (650, 700)))


def geometry(tiny: bool, layers: int | None) -> Geometry:
    shape = {"hidden_size": 4096, "heads": 32, "kv_heads": 32, "head_size": 128, "vocabulary": 32000}
    if tiny:
        shape = {"hidden_size": 128, "heads": 2, "kv_heads": 2, "head_size": 64, "vocabulary": 96}
    inner = 256 if tiny else 11008
    return Geometry(**shape, layers=layers or (1 if tiny else 32), context=2048, intermediate_size=inner)


def random_llama(g: Geometry, device: str) -> LlamaWeights:
    """Return random weights in groups of 128 whose activations stay near 1."""
    width, inner = g.hidden_size, g.intermediate_size

    def linear(inputs: int, outputs: int) -> Linear4:
        values = torch.randint(-(2**31), 2**31 - 1, (inputs // 8, outputs), dtype=torch.int32, device=device)
        spread = 0.5 + torch.rand(inputs // GROUP, outputs, device=device)
        return pack(values, (spread * 0.2 / inputs**0.5).half())

    def layer() -> Layer:
        both = interleave(linear(width, inner), linear(width, inner))
        attention = g.heads * g.head_size
        qkv = linear(width, attention + 2 * g.kv_heads * g.head_size)
        return Layer(norm(), qkv, linear(attention, width), norm(), both, linear(inner, width))

    def norm() -> torch.Tensor:
        return 1 + 0.1 * torch.randn(width, device=device)

    table, head = (torch.randn(g.vocabulary, width, device=device).half() for _ in range(2))
    angles = rotary_tables(10000.0, g, device)
    return LlamaWeights(g, 1e-5, table, tuple(layer() for _ in range(g.layers)), norm(), head / width**0.5, *angles)


def check(model: Model) -> None:
    """Run every kernel and its reference on the same buffers, with one row and with several; then check the decoder."""
    for count, (name, call) in itertools.product((1, 5), kernel_calls(model.llama).items()):
        states = []
        for module in (reference, kernels):
            rows, cache = random_buffers(model, count)
            call(module, rows, cache)
            states.append({**vars(rows), "cache": cache})
            assert not rows.counters.any(), f"{name} does not reset its counters"
        for buffer in ("hidden", "weighted", "query", "attended", "product", "logits", "cache"):
            expected, found = (state[buffer].float() for state in states)
            error = float((found - expected).norm() / expected.norm().clamp(min=1e-20))
            assert error <= 3e-3, f"{name}, {count} rows: {buffer} differs by {error:.1e} (relative), at most 3e-3"
    _check_paths(model)
    print("every kernel computes what its reference computes", file=sys.stderr)


def kernel_calls(llama: LlamaWeights) -> dict[str, Callable[[Any, StepBuffers, torch.Tensor], None]]:
    layer = llama.layers[0]
    return {
        "start": lambda k, rows, cache: k.start(rows, llama, llama.norm, None),
        "read": lambda k, rows, cache: k.read(rows, llama, layer, cache),
        "attend": lambda k, rows, cache: k.attend(rows, llama, cache),
        "add": lambda k, rows, cache: k.add(rows, rows.product, layer.down, llama.norm),
        "gate_up": lambda k, rows, cache: k.gate_up(rows, llama, layer.gate_up),
        "head": lambda k, rows, cache: k.head(rows, llama, None),
    }


def random_buffers(model: Model, count: int) -> tuple[StepBuffers, torch.Tensor]:
    """Return rows of three sequences of different lengths, and a cache."""
    g, random = model.llama.geometry, torch.Generator(model.device).manual_seed(count)
    rows = StepBuffers.allocate(model.llama).first(count)
    for name in ("hidden", "weighted", "query", "attended", "product"):
        getattr(rows, name).normal_(generator=random)
    rows.squares.fill_(float(rows.hidden[0].square().sum()) / rows.squares.shape[1])
    rows.sequences.copy_(torch.arange(count) % 3)
    rows.positions.copy_(model.context - 2 * torch.arange(count))
    shape = (3, 2, g.kv_heads, model.context + 1, g.head_size)
    return rows, torch.randn(shape, device=model.device, generator=random).half()


def _check_paths(model: Model) -> None:
    """Check that the dense path and the steps give the same logits, and graphs the same as single launches."""
    decoder, prefix, rows = model.decoder, model.prefix, model.rows(model.prefix)
    dense, steps = decoder.new_cache(prefix + 8), decoder.new_cache(prefix + 8)
    whole = decoder.extend(dense, rows)
    decoder.extend(steps, rows[:-QUESTION])
    for _ in range(3):  # launched, recorded, replayed
        dense.length = prefix - QUESTION
        parts = decoder.extend(dense, rows[-QUESTION:])
        for row in rows[-QUESTION:]:
            alone = decoder.extend(steps, row[None])
        for found, what in ((parts, "a question differs"), (alone, "steps differ")):
            error = np.linalg.norm(found - whole) / np.linalg.norm(whole)
            assert error < 0.03, f"{what} from the dense path by {error:.1e} (relative), at most 3e-2 is allowed"
        steps.length = prefix - QUESTION
    drawn = []
    for _ in range(3):
        dense.length = prefix
        drawn.append(list(itertools.islice(decoder.greedy(dense, [5]), 6)))
    assert drawn[0] == drawn[1] == drawn[2], f"greedy tokens change from run to run: {drawn}"
