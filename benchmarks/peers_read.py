"""Read our GPTQ folder with transformers and GPTQModel; compare their logits with the same weights in float32.

    pip install '.[peers-gptq]'
    python benchmarks/peers_read.py FOLDER   # from `emola export --keep-gptq`: BUNDLE/decoder/gptq

The script prints one JSON line per peer; for a peer that cannot run here, the line gives the reason. The exit code is 1
if the logits of a peer differ by more than its arithmetic explains. ONNX Runtime GenAI reads the folder in
tests/test_layerwise.py.
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
    """Return Hugging Face's Llama with the dequantised weights of the folder."""
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
        os.chdir(scratch)  # GPTQModel writes its logs into the working folder
        for name, load in {"transformers": by_transformers, "gptqmodel": by_gptqmodel}.items():
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    found = logits(load, folder)
            except Exception as error:  # report any error of a peer
                print(json.dumps({"reader": name, "cannot run here": str(error).split("\n")[0]}))
                continue
            difference = float((found - expected).norm() / expected.norm())
            wrong |= not difference <= TOLERANCE
            print(json.dumps({"reader": name, "relative_difference": difference, "allowed": TOLERANCE}))
    sys.exit(wrong)


if __name__ == "__main__":
    main()
