"""Seconds per layer and peak memory of GPTQ at Vicuna-7B's shape with random weights; memory must not grow with depth.

    python benchmarks/quantiser.py [--layers 1 2] [--sequences 8] [--rows 720] [--device cpu]

Each depth runs in a process of its own, because peak memory is of a process.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import LlamaConfig

from export.gptq import GptqOptions
from export.layerwise import quantise_decoder
from export.rows import Rows


class RandomVicuna(Mapping[str, torch.Tensor]):
    """Weights of Vicuna-7B's shape in float16, made when they are asked for."""

    def __init__(self, text: LlamaConfig) -> None:
        wide, narrow = text.intermediate_size, text.hidden_size
        self._shapes = {"gate_proj": (wide, narrow), "up_proj": (wide, narrow), "down_proj": (narrow, wide)}
        self._narrow, self._vocabulary = narrow, text.vocab_size

    def __getitem__(self, name: str) -> torch.Tensor:
        if "norm" in name:
            return torch.ones(self._narrow, dtype=torch.float16)
        kind = name.split(".")[-2]
        rows = self._vocabulary if kind in ("embed_tokens", "lm_head") else self._narrow
        shape = self._shapes.get(kind, (rows, self._narrow))
        return torch.randn(shape).mul_(0.02).half()

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError("weights are made when asked for")

    def __len__(self) -> int:
        raise NotImplementedError("weights are made when asked for")


def measure(layers: int, sequences: int, rows: int, device: str) -> dict[str, object]:
    """Quantise a decoder of some layers; seconds are the median of them."""
    text = LlamaConfig(num_hidden_layers=layers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tokenizer.model").touch()
        checkpoint = SimpleNamespace(merged=RandomVicuna(text), config=SimpleNamespace(text=text), base=folder)
        calibration = Rows.save(folder, (torch.randn(rows, text.hidden_size) for _ in range(sequences)))
        (folder / "out").mkdir()
        figures = quantise_decoder(checkpoint, calibration, folder / "out", GptqOptions(), device=device)
    seconds = sorted(layer["seconds"] for layer in figures["layers"])
    found = {
        "benchmark": "quantiser",
        "layers": layers,
        "calibration_rows": sequences * rows,
        "seconds_per_layer": seconds[len(seconds) // 2],
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }
    if device == "cuda":
        found["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--rows", type=int, default=720)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if len(args.layers) == 1:
        print(json.dumps(measure(args.layers[0], args.sequences, args.rows, args.device)))
        return
    for layers in args.layers:
        options = ["--sequences", str(args.sequences), "--rows", str(args.rows), "--device", args.device]
        subprocess.run([sys.executable, __file__, "--layers", str(layers), *options], check=True)


if __name__ == "__main__":
    main()
