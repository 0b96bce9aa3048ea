"""Check and time the GPU decoder at Vicuna-7B's shape; print ceilings and stages as one table and one JSON line.

    python benchmarks/gpu.py                         # random GPTQ weights, made on the device; takes some minutes
    python benchmarks/gpu.py --sweep                 # the fastest launch configuration of every linear layer
    python benchmarks/gpu.py --tiny --device cpu     # the same code in Triton's interpreter

Every kernel is checked against its reference in torch before anything is timed. The script needs torch, triton and
numpy. The vision tower consists of torch's own encoder layers at CLIP-L/14-336's shape.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
GOALS = {"tokens_per_s_1": 600, "first_token_ms": 20, "second_question_ms": 8, "sdk_overhead": 0.02}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="use a toy shape, whose times mean nothing")
    parser.add_argument("--layers", type=int, help="default 32")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sweep", action="store_true", help="time launch configurations instead of stages")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --tiny --device cpu runs the same code on a CPU")
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a kernel is defined, hence the imports below
    from gpu_model import check, open_model
    from gpu_stages import Stages
    from gpu_sweep import sweep

    with torch.inference_mode():
        model = open_model(args.device, args.tiny, args.layers)
        if args.sweep:
            sweep(model)
            return
        check(model)
        figures = Stages(model, args.rounds).measure()
    print_table(figures)
    print(json.dumps({"environment": environment(args.device, model.llama), "figures": figures, "goals": GOALS}))


def environment(device: str, llama: Any) -> dict[str, Any]:
    import triton

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "cpu"
    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    return {"device": name, "layers": llama.geometry.layers, "cuda": torch.version.cuda, **versions}


def print_table(figures: dict[str, dict[str, float]]) -> None:
    step = figures["decode step, batch 1"]["tokens_per_s"]
    goals = {
        "decode step, batch 1": f"{GOALS['tokens_per_s_1']} tok/s: {step / GOALS['tokens_per_s_1']:.2f} of it",
        "time to first token": f"{GOALS['first_token_ms']} ms",
        "second question": f"{GOALS['second_question_ms']} ms",
        "decode loop of the SDK, per token": f"overhead {GOALS['sdk_overhead']:.0%}",
    }
    print(f"{'stage':36}{'median ms':>12}{'spread':>10}{'ceiling':>9}  goal on H200, and more")
    for name, row in figures.items():
        share = row.get("share_of_ceiling")
        more = {k: v for k, v in row.items() if k not in ("ms", "spread_ms", "share_of_ceiling")}
        notes = [goals[name]] if name in goals else []
        notes += [f"{key} {value}" for key, value in more.items()]
        shown = f"{share:9.1%}" if share else f"{'':9}"
        print(f"{name:36}{row['ms']:12.3f}{row['spread_ms']:10.3f}{shown}  {', '.join(notes)}")


if __name__ == "__main__":
    main()
