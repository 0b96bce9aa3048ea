"""The same checkpoint quantised by us and by GPTQModel or optimum: error on unseen fused sequences, time, memory.

    pip install 'emola-edge[peers]'
    python benchmarks/peers_gptq.py CHECKPOINT --calibration records.json -n 96 --unseen 32 [--peer gptqmodel|optimum]

CHECKPOINT is complete (LoRA merged). The peers calibrate on text, because they take no embeddings: on the same
questions and answers. Errors are relative errors of each linear layer's outputs, by the same code on the same rows.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from export.autogptq import GptqWeights, write_configs, write_index, write_shard
from export.calibrate import CalibrationSet, fused_sequences
from export.gptq import GptqOptions, relative_error
from export.layerwise import LayerWalk, quantise_decoder
from export.rows import Rows
from trainer.checkpoint import Checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("-n", type=int, default=96)
    parser.add_argument("--unseen", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--peer", choices=("none", "gptqmodel", "optimum"), default="gptqmodel")
    parser.add_argument("--quantise-to", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quantise_to:
        quantise(args)
        return
    records = CalibrationSet(args.calibration, args.n + args.unseen).records()
    for name in dict.fromkeys(("ours", args.peer)):
        if name == "none":
            continue
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, *sys.argv[1:], "--quantise-to", f"{folder}/{name}"]
            begin = time.perf_counter()
            result = subprocess.run(command, capture_output=True, text=True)
            seconds = time.perf_counter() - begin
            if result.returncode:
                print(json.dumps({"peer": name, "failed": result.stderr.strip().splitlines()[-1]}))
                continue
            memory = json.loads(result.stdout.splitlines()[-1])["peak_memory_gb"]
            errors = unseen_errors(args.checkpoint, records[args.n :], Path(folder) / name)
        figures = {"seconds": round(seconds, 1), "peak_memory_gb": memory, **errors}
        print(json.dumps({"peer": name, "mean_error": round(statistics.mean(errors.values()), 5), **figures}))


def quantise(args: argparse.Namespace) -> None:
    """In a process of its own: peak memory is of a process."""
    records = CalibrationSet(args.calibration, args.n + args.unseen).records()[: args.n]
    checkpoint, out = Checkpoint(None, args.checkpoint), args.quantise_to
    out.mkdir()
    if out.name == "ours":
        with tempfile.TemporaryDirectory() as folder:
            rows = Rows.save(Path(folder), fused_sequences(checkpoint, records))
            quantise_decoder(checkpoint, rows, out, GptqOptions(group=args.group_size))
    else:
        source = out.with_name("llama")
        write_llama(checkpoint, source)
        texts = [f"{record.question} {record.answer}" for record in records]
        {"gptqmodel": with_gptqmodel, "optimum": with_optimum}[out.name](source, out, texts, args.group_size)
    print(json.dumps({"peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}))


def write_llama(checkpoint: Checkpoint, folder: Path) -> None:
    """The decoder alone as Hugging Face's Llama, which the peers read."""
    folder.mkdir()
    prefix = "language_model."
    weights = {name.removeprefix(prefix): w for name, w in checkpoint.merged.items() if name.startswith(prefix)}
    write_shard(folder / "model.safetensors", weights)
    write_index(folder, {"model.safetensors": sorted(weights)})
    dtype = weights["model.norm.weight"].dtype
    write_configs(folder, checkpoint.config.text, GptqOptions(), dtype)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "quantize_config.json").unlink()
    (folder / "tokenizer.model").write_bytes((checkpoint.base / "tokenizer.model").read_bytes())


def with_gptqmodel(source: Path, out: Path, texts: list[str], group: int) -> None:
    from gptqmodel import GPTQModel, QuantizeConfig

    model = GPTQModel.load(str(source), QuantizeConfig(bits=4, group_size=group, sym=True, desc_act=False))
    model.quantize(texts, batch_size=1)
    model.save(str(out))


def with_optimum(source: Path, out: Path, texts: list[str], group: int) -> None:
    from optimum.gptq import GPTQQuantizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source)
    quantizer = GPTQQuantizer(bits=4, dataset=texts, group_size=group, sym=True, desc_act=False)
    quantizer.save(quantizer.quantize_model(model, tokenizer), str(out))


def unseen_errors(folder: Path, records: list, quantised: Path) -> dict[str, float]:
    """Mean relative output error by kind of linear layer, over the depth, on rows of the unquantised model."""
    checkpoint, weights = Checkpoint(None, folder), GptqWeights(quantised)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        rows = Rows.save(Path(scratch), fused_sequences(checkpoint, records))
        walk = LayerWalk(checkpoint, Path(scratch))
        for index in range(checkpoint.config.text.num_hidden_layers):

            def compare(names, originals, hessian, index=index):
                together = hessian.finish()
                for name, original in zip(names, originals, strict=True):
                    linear = weights[f"model.layers.{index}.{name}.weight"]
                    found.setdefault(name, []).append(relative_error(original, linear, together))
                return originals

            rows = walk.run(index, rows, compare)
    return {name: round(statistics.mean(errors), 5) for name, errors in found.items()}


if __name__ == "__main__":
    main()
