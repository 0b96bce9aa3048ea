"""Quantise one checkpoint with ours, GPTQModel and optimum; compare error on unseen fused sequences, time and memory.

    pip install '.[peers-gptq]'
    GPTQMODEL_CPU_WORKERS=4 python benchmarks/peers_gptq.py CHECKPOINT --calibration records.json -n 96 --unseen 32

CHECKPOINT is a complete checkpoint with LoRA merged. The peers accept no embeddings, so they calibrate on the text of
the same questions and answers. `text` is our GPTQ on the same text, and `nearest` rounds with searched scales and no
data; they separate the effect of the fused calibration from that of the algorithm. Errors are relative errors of the
outputs of each linear layer, computed by the same code on the same rows. Seconds and memory are those of a process that
reads, quantises and saves; the seconds exclude imports and our encoder. For a peer that cannot run here, one line gives
the reason.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from export.quantise.activations import ActivationFile
from export.quantise.autogptq import GptqWeights, write_configs, write_index, write_shard
from export.quantise.calibrate import CalibrationSet, fused_sequences, text_sequences
from export.quantise.gptq import GptqOptions, quantise, relative_error
from export.quantise.layerwise import LayerWalk, quantise_decoder
from export.quantise.linear import QuantizedLinear
from trainer.checkpoint import Checkpoint

METHODS = ("ours", "text", "gptqmodel", "optimum")
Action = Callable[[], Any]
Linears = Callable[[str, torch.Tensor], QuantizedLinear]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("-n", type=int, default=96)
    parser.add_argument("--unseen", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--quantise-to", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    records = CalibrationSet(args.calibration, args.n + args.unseen).records()
    if args.quantise_to:
        run(args.quantise_to, Checkpoint(None, args.checkpoint), records[: args.n], args.group_size)
        return
    options = GptqOptions(group=args.group_size)
    figures: dict[str, dict[str, Any]] = {"nearest": {}}
    linears: dict[str, Linears] = {
        "nearest": lambda name, weight: quantise(weight, torch.eye(weight.shape[1]), options)
    }
    with tempfile.TemporaryDirectory() as folder:
        for method in args.methods:
            out = Path(folder) / method / "quantised"
            command = [sys.executable, __file__, *sys.argv[1:], "--quantise-to", str(out)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                reason = (result.stderr.strip().splitlines() or [f"it ended with {result.returncode}"])[-1]
                print(json.dumps({"method": method, "cannot run here": reason}))
                continue
            figures[method] = json.loads(result.stdout.splitlines()[-1])
            weights = GptqWeights(out)
            linears[method] = lambda name, weight, weights=weights: weights[name]
        for method, errors in unseen_errors(args.checkpoint, records[args.n :], linears).items():
            mean = round(statistics.mean(errors.values()), 5)
            print(json.dumps({"method": method, "mean_error": mean, **figures[method], **errors}))


def run(out: Path, checkpoint: Checkpoint, records: list, group: int) -> None:
    """Run one method in its own process, because peak memory is measured per process."""
    out.mkdir(parents=True)
    method = {"gptqmodel": with_gptqmodel, "optimum": with_optimum}.get(out.parent.name)
    if method:
        source = out.with_name("llama")
        write_llama(checkpoint, source)
        action = method(source, out, [f"{record.question} {record.answer}" for record in records], group)
    else:
        sequences = text_sequences if out.parent.name == "text" else fused_sequences
        action = with_ours(sequences(checkpoint, records), checkpoint, out, group)
    begin = time.perf_counter()
    action()
    seconds = round(time.perf_counter() - begin, 1)
    memory = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    print(json.dumps({"seconds": seconds, "peak_memory_gb": memory}))


def write_llama(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the decoder as Hugging Face's Llama, which the peers read; one file per layer saves memory."""
    folder.mkdir()
    prefix, shards = "language_model.", {}
    for name in filter(lambda name: name.startswith(prefix), checkpoint.merged):
        layer = re.search(r"layers\.(\d+)", name)
        shards.setdefault(f"model-{layer[1] if layer else 'rest'}.safetensors", []).append(name.removeprefix(prefix))
    for shard, names in shards.items():
        write_shard(folder / shard, {name: checkpoint.merged[prefix + name] for name in names})
    write_index(folder, shards)
    dtype = checkpoint.merged[f"{prefix}model.norm.weight"].dtype
    write_configs(folder, checkpoint.config.text, GptqOptions(), dtype)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "quantize_config.json").unlink()
    (folder / "tokenizer.model").write_bytes((checkpoint.base / "tokenizer.model").read_bytes())


def with_ours(
    sequences: Iterator[torch.Tensor], checkpoint: Checkpoint, out: Path, group: int, device: str = "cpu"
) -> Action:
    rows = ActivationFile.save(out.parent, sequences)
    return lambda: quantise_decoder(checkpoint, rows, out, GptqOptions(group=group), device=device)


def with_gptqmodel(source: Path, out: Path, texts: list[Any], group: int) -> Action:
    os.chdir(out.parent)  # it writes its logs into the working folder
    from gptqmodel import GPTQModel, QuantizeConfig

    def action() -> None:
        model = GPTQModel.load(str(source), QuantizeConfig(bits=4, group_size=group, sym=True, desc_act=False))
        model.quantize(texts, batch_size=1)
        model.save(str(out))

    return action


def with_optimum(source: Path, out: Path, texts: list[Any], group: int) -> Action:
    from optimum.gptq import GPTQQuantizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def action() -> None:
        tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source)
        quantizer = GPTQQuantizer(bits=4, dataset=texts, group_size=group, sym=True, desc_act=False)
        quantizer.save(quantizer.quantize_model(model, tokenizer), str(out))

    return action


def unseen_errors(folder: Path, records: list, linears: dict[str, Linears]) -> dict[str, dict[str, float]]:
    """Return the mean relative output error by method and kind of linear layer, on rows of the unquantised model."""
    checkpoint = Checkpoint(None, folder)
    found: dict[str, dict[str, list[float]]] = {method: {} for method in linears}
    with tempfile.TemporaryDirectory() as scratch:
        rows = ActivationFile.save(Path(scratch), fused_sequences(checkpoint, records))
        walk = LayerWalk(checkpoint, Path(scratch))
        for index in range(checkpoint.config.text.num_hidden_layers):

            def compare(names, originals, hessian, index=index):
                together = hessian.finish()
                for name, original in zip(names, originals, strict=True):
                    for method, linear in linears.items():
                        quantised = linear(f"model.layers.{index}.{name}.weight", original)
                        error = relative_error(original, quantised, together)
                        found[method].setdefault(name, []).append(error)
                return originals

            rows = walk.run(index, rows, compare)
    return {
        method: {name: round(statistics.mean(errors), 5) for name, errors in by_name.items()}
        for method, by_name in found.items()
    }


if __name__ == "__main__":
    main()
