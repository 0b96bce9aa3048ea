"""Our GPTQ folder read by transformers and by GPTQModel: their logits against the same weights in float32.

    pip install '.[peers-gptq]'
    python benchmarks/peers_read.py FOLDER   # of `emola export --keep-gptq`: BUNDLE/decoder/gptq

One JSON line each. A peer that cannot run here says why; one whose logits differ by more than what its own arithmetic
loses ends the script with 1. ONNX Runtime GenAI reads the folder in tests/test_layerwise.py.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from export.quantise.autogptq import GptqWeights
from export.quantise.linear import QuantizedLinear

IDS = torch.arange(3, 67)[None]
TOLERANCE = 1e-2  # relative, of logits; kernels on a CPU multiply in 16 bits


def dequantised(folder: Path) -> torch.nn.Module:
    """Hugging Face's Llama with the weights that the folder stands for."""
    weights = dict(GptqWeights(folder))
    state = {n: w.dequantize() if isinstance(w, QuantizedLinear) else w for n, w in weights.items()}
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).float()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return model


def by_transformers(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float32)


def by_gptqmodel(folder: Path) -> torch.nn.Module:
    from gptqmodel import BACKEND, GPTQModel

    return GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model


@torch.inference_mode()
def logits(load: Callable[[Path], torch.nn.Module], folder: Path) -> torch.Tensor:
    return load(folder).eval()(IDS).logits[0].float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    expected, wrong = logits(dequantised, folder), False
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # GPTQModel writes its logs where it runs
        for name, load in {"transformers": by_transformers, "gptqmodel": by_gptqmodel}.items():
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    found = logits(load, folder)
            except Exception as error:  # whatever a peer raises is what is reported
                print(json.dumps({"reader": name, "cannot run here": str(error).split("\n")[0]}))
                continue
            difference = float((found - expected).norm() / expected.norm())
            wrong |= not difference <= TOLERANCE
            print(json.dumps({"reader": name, "relative_difference": difference, "allowed": TOLERANCE}))
    sys.exit(wrong)


if __name__ == "__main__":
    main()
