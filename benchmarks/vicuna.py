"""A decoder of Vicuna-7B's shape with random int4 weights, written directly: speed does not depend on their values."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.decoder import Llama, write_decoder
from export.int4 import GROUP, QuantizedLinear
from sdk.bundles.manifest import Geometry
from sdk.runtime.backends.ort import OrtDecoder

PREFIX, QUESTION = 612, 14  # system text, 577 rows and the landmark row; "What AUs are conveyed ..." with its frame


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
    """Linear layers quantised in groups of 128 with scales that keep activations near 1; norms of ones."""

    def __init__(self, layers: int, head_bits: int = 8) -> None:
        self._layers, self._head_bits = layers, head_bits
        self._random = np.random.default_rng(0)

    def __getitem__(self, name: str) -> Any:
        if "norm" in name:
            return np.ones(4096, np.float32)
        kind = name.split(".")[-2]
        bits = self._head_bits if kind == "lm_head" else 4
        outputs, inputs = SHAPES[kind]
        values = self._random.integers(0, 2**bits, (outputs, inputs), dtype=np.uint8)
        scales = np.full((outputs, inputs // GROUP), 3.5 / (2**bits * inputs**0.5), np.float32)
        return QuantizedLinear(values, scales, bits, GROUP)

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError("weights are made when asked for")

    def __len__(self) -> int:
        raise NotImplementedError("weights are made when asked for")


def random_vicuna(folder: Path, layers: int = 4) -> OrtDecoder:
    """Write the decoder into a folder, unless it is there, and open it."""
    path, table = folder / "int4.onnx", folder / "embeddings.npy"
    geometry = vicuna_geometry(layers)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(table, np.random.default_rng(1).standard_normal((32000, 4096)).astype(np.float16))
        write_decoder(Llama(RandomWeights(layers), geometry, 10000.0, 1e-5), path, bits=4)
    return OrtDecoder(path, table, geometry)
