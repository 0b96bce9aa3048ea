"""Write and open a decoder of Vicuna-7B's shape with random int4 weights; speed does not depend on their values."""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from export.graphs.decoder import Llama, write_decoder
from export.quantise.linear import GROUP, QuantizedLinear
from sdk.bundles.manifest import Geometry
from sdk.onnx_session import load_onnxruntime
from sdk.runtime.backends import ort
from sdk.runtime.backends.ort import OrtDecoder
from sdk.runtime.drafts import Drafter, DraftToken

PREFIX = 612  # rows: system text, 576 image rows and the landmark row
QUESTION = 14  # tokens: "What AUs are conveyed ..." with its frame


def vicuna_geometry(layers: int) -> Geometry:
    return Geometry(
        layers=layers, hidden_size=4096, heads=32, kv_heads=32, head_size=128, vocabulary=32000, context=2048
    )


SHAPES = {
    "q_proj": (4096, 4096),
    "k_proj": (4096, 4096),
    "v_proj": (4096, 4096),
    "o_proj": (4096, 4096),
    "gate_proj": (11008, 4096),
    "up_proj": (11008, 4096),
    "down_proj": (4096, 11008),
    "lm_head": (32000, 4096),
}


class RandomWeights(Mapping[str, Any]):
    """Linear layers quantised in groups of 128 with scales that keep activations near 1, and norms of ones.

    A weight depends only on its name. Scales are float16, and every 32 inputs contain the lowest value. Formats with
    smaller blocks, and tools that quantise again, therefore get the same weights.
    """

    def __init__(self, layers: int, head_bits: int = 8) -> None:
        self._layers, self._head_bits = layers, head_bits

    def __getitem__(self, name: str) -> Any:
        random = np.random.default_rng(zlib.crc32(name.encode()))
        if "norm" in name:
            return np.ones(4096, np.float32)
        kind = name.split(".")[-2]
        if kind == "embed_tokens":
            return random.standard_normal((32000, 4096), np.float32).astype(np.float16)
        bits = self._head_bits if kind == "lm_head" else 4
        outputs, inputs = SHAPES[kind]
        values = random.integers(0, 2**bits, (outputs, inputs), dtype=np.uint8)
        values[:, ::32] = 0
        scales = random.uniform(0.75, 1.25, (outputs, inputs // GROUP)) * 3.5 / (2**bits * inputs**0.5)
        return QuantizedLinear(values, scales.astype(np.float16).astype(np.float32), bits, GROUP)

    def __iter__(self) -> Iterator[str]:
        yield from ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
        for layer in range(self._layers):
            prefix = f"model.layers.{layer}."
            yield from (f"{prefix}self_attn.{part}_proj.weight" for part in "qkvo")
            yield from (f"{prefix}mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
            yield from (f"{prefix}{norm}_layernorm.weight" for norm in ("input", "post_attention"))

    def __len__(self) -> int:
        return 3 + 9 * self._layers


def random_vicuna(folder: Path, layers: int = 4, head_bits: int = 8) -> OrtDecoder:
    """Write the decoder into a folder if it is not there yet, and open it."""
    write_vicuna(folder, layers, head_bits)
    return open_vicuna(folder, layers)


def write_vicuna(folder: Path, layers: int, head_bits: int = 8) -> None:
    path = folder / "int4.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        weights = RandomWeights(layers, head_bits)
        np.save(folder / "embeddings.npy", weights["model.embed_tokens.weight"])
        write_decoder(Llama(weights, vicuna_geometry(layers), 10000.0, 1e-5), path, bits=4, head_bits=head_bits)


def open_vicuna(folder: Path, layers: int, options: Any = None, graph: str = "int4.onnx") -> OrtDecoder:
    """Open what `write_vicuna` wrote; `options` are onnxruntime.SessionOptions that replace those of the runtime."""
    own = ort.open_session if options is None else lambda path, *_: load_onnxruntime().InferenceSession(path, options)
    with patch.object(ort, "open_session", own):
        return OrtDecoder(folder / graph, folder / "embeddings.npy", vicuna_geometry(layers))


class NoDrafts(Drafter):
    """Random weights fall into loops, which a draft would foresee."""

    def propose(self, tokens: Any, limit: int) -> list[DraftToken]:
        return []
