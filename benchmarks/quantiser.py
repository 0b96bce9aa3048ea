"""Measure seconds per layer and peak memory of GPTQ at Vicuna-7B's shape; memory must not grow with depth.

    python benchmarks/quantiser.py [--layers 1 2] [--sequences 8] [--rows 720] [--hidden 4096] [--device cpu]
    GPTQMODEL_CPU_WORKERS=4 python benchmarks/quantiser.py --peer gptqmodel   # the same with a peer; extra `peers-gptq`

The weights are random. Each depth runs in its own process, because peak memory is measured per process. Seconds per
layer are the total time, including reading and saving, divided by the number of layers.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from peers_gptq import with_gptqmodel, with_optimum, with_ours, write_llama
from transformers import LlamaConfig, LlamaForCausalLM

from export.quantise.linear import fitting_group
from sdk.bench.footprint import resident
from trainer.model.weights import WeightFiles, weight_files

TOKENIZER = Path(__file__).parents[1] / "tests/data/golden/llava-base/tokenizer.model"  # the peers ask for a tokenizer
PEERS = {"gptqmodel": with_gptqmodel, "optimum": with_optimum}


class RandomVicuna(Mapping[str, torch.Tensor]):
    """Weights of Vicuna-7B's shape in float16, cut from one array, because drawing random numbers takes long."""

    def __init__(self, text: LlamaConfig) -> None:
        with torch.device("meta"):
            self._names = [f"language_model.{name}" for name in LlamaForCausalLM(text).state_dict()]
        wide, narrow = text.intermediate_size, text.hidden_size
        self._random = torch.randn(wide * narrow).mul_(0.02).half()
        self._shapes = {"gate_proj": (wide, narrow), "up_proj": (wide, narrow), "down_proj": (narrow, wide)}
        self._narrow, self._vocabulary = narrow, text.vocab_size

    def __getitem__(self, name: str) -> torch.Tensor:
        if "norm" in name:
            return torch.ones(self._narrow, dtype=torch.float16)
        kind = name.split(".")[-2]
        rows = self._vocabulary if kind in ("embed_tokens", "lm_head") else self._narrow
        shape = self._shapes.get(kind, (rows, self._narrow))
        count = math.prod(shape)
        return self._random.repeat(1 + count // len(self._random))[:count].view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def measure(layers: int, hidden: int, sequences: int, rows: int, device: str, peer: str | None) -> dict[str, object]:
    """Quantise a decoder in Vicuna's proportions and return the figures."""
    text = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=hidden * 43 // 16,
        num_attention_heads=hidden // 128,
    )
    group = fitting_group(text.intermediate_size)
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "llama", Path(name) / "out"
        config = SimpleNamespace(text=text, max_length=text.max_position_embeddings)
        checkpoint = SimpleNamespace(merged=RandomVicuna(text), config=config, base=TOKENIZER.parent)
        out.mkdir()
        write_llama(checkpoint, source)
        if peer:
            ids = torch.randint(3, text.vocab_size, (sequences, rows)).tolist()
            texts = [{"input_ids": row, "attention_mask": [1] * rows} for row in ids]
            action = PEERS[peer](source, out, texts, group)
        else:
            checkpoint.merged = WeightFiles(weight_files(source))
            inputs = (torch.randn(rows, text.hidden_size) for _ in range(sequences))
            action = with_ours(inputs, checkpoint, out, group, device)
        begin = time.perf_counter()
        action()
        seconds = time.perf_counter() - begin
    found = {
        "benchmark": "quantiser",
        "by": peer or "ours",
        "layers": layers,
        "hidden_size": hidden,
        "calibration_rows": sequences * rows,
        "seconds_per_layer": round(seconds / layers, 1),
        "peak_memory_gb": round(resident()["peak"] / 1e3, 3),
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
    parser.add_argument("--hidden", type=int, default=4096, help="hidden size, a multiple of 128 (default 4096)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peer", choices=tuple(PEERS), help="measure this peer instead of ours, on the CPU")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "--device cuda: this machine or this build of torch has no CUDA; run it on a machine with an NVIDIA GPU"
        )
    if len(args.layers) == 1:
        found = measure(args.layers[0], args.hidden, args.sequences, args.rows, args.device, args.peer)
        print(json.dumps(found))
        return
    for layers in args.layers:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--layers", str(layers)], check=True)


if __name__ == "__main__":
    main()
