"""Measure one training step of EmoLA-7B: tokens per second, peak memory, model FLOP utilisation (goal: 45 %).

The weights are random bfloat16, LoRA is as in the paper, with gradient checkpointing and records of 740 rows. Model
FLOPs count per parameter and token 2 for the forward pass, 2 for the gradient of the activations and 2 for the gradient
of trained weights, and also attention. The forward pass that checkpointing repeats does not count as useful.

    python benchmarks/gpu_train.py [--batch-size 16] [--steps 5] [--peak TFLOPS]
    python benchmarks/gpu_train.py --tiny        # the same code at a toy shape, on a CPU
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig

from trainer.model import EmoLA
from trainer.model.config import EmolaConfig
from trainer.tokenization import IGNORED, IMAGE_TOKEN
from trainer.training.compiled import compile_layers
from trainer.training.loop import parameter_groups, training_arguments
from trainer.training.recipe import Recipe, llava_7b, prepare_model
from trainer.training.train import checkpoint_layers

PROMPT, ANSWER = 44, 120  # tokens of a record around its 577 rows
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "4090": 165, "A6000": 155, "L40S": 362}  # dense bfloat16 TFLOP/s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--no-checkpointing", action="store_true", help="keep the activations of every layer")
    parser.add_argument("--compile", action="store_true", help="compile every decoder layer with torch.compile")
    parser.add_argument(
        "--peak", type=float, help="dense bfloat16 TFLOP/s of the device, if this script does not know it"
    )
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.tiny:
        parser.error("no GPU here: a step at 7B needs one with 40 GB; --tiny runs the same code on a CPU")
    print(json.dumps(measure(tiny() if args.tiny else llava_7b(), args, device)))


def tiny() -> EmolaConfig:
    text = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    return EmolaConfig(text=text, vision=vision)


def measure(config: EmolaConfig, args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Return the median over `args.steps` after a warm-up of two; one batch is repeated, so the loss must fall."""
    recipe = Recipe(batch_size=args.batch_size)
    model = random_model(config, recipe, device, checkpointing=not args.no_checkpointing)
    if args.compile:
        compile_layers(model)
    settings = training_arguments(recipe, "unused")
    optimizer = torch.optim.AdamW(parameter_groups(model, settings))
    batch = random_batch(config, args.batch_size, device)
    seconds, losses = [], []
    for _ in range(2 + args.steps):
        _synchronise(device)
        begin = time.perf_counter()
        losses.append(step(model, optimizer, batch, device))
        _synchronise(device)
        seconds.append(time.perf_counter() - begin)
    if not losses[-1] < losses[0]:
        raise SystemExit(f"the loss rose from {losses[0]:.3f} to {losses[-1]:.3f}: this is not a training step")
    median = statistics.median(seconds[2:])
    tokens = args.batch_size * (config.image_rows - 1 + PROMPT + ANSWER)
    flops = model_flops(model, args.batch_size, tokens)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    peak = args.peak or next((value for part, value in PEAKS.items() if part in name), None)
    return {
        "device": name,
        "batch_size": args.batch_size,
        "checkpointing": not args.no_checkpointing,
        "compiled": args.compile,
        "seconds_per_step": round(median, 4),
        "spread": round(max(seconds[2:]) - min(seconds[2:]), 4),
        "tokens_per_second": round(tokens / median, 1),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if device == "cuda" else None,
        "model_tflops_per_step": round(flops / 1e12, 6),
        "mfu": round(flops / median / (peak * 1e12), 4) if peak else None,
        "losses": [round(loss, 4) for loss in losses],
    }


def random_model(config: EmolaConfig, recipe: Recipe, device: str, *, checkpointing: bool) -> EmoLA:
    """Return a model with frozen weights in bfloat16 and trained weights in float32, as in `trainer.training.train`."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = EmoLA(config)
    finally:
        torch.set_default_dtype(default)
    prepare_model(model, recipe)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if checkpointing:
        checkpoint_layers(model)
    return model.to(device).train()


def random_batch(config: EmolaConfig, size: int, device: str) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(3, config.text.vocab_size, (size, PROMPT + ANSWER), generator=random)
    ids[:, PROMPT // 2] = IMAGE_TOKEN
    labels = ids.clone()
    labels[:, :PROMPT] = IGNORED
    side = config.vision.image_size
    batch = {
        "input_ids": ids,
        "labels": labels,
        "pixel_values": torch.randn(size, 3, side, side, generator=random),
        "landmarks": torch.randn(size, config.landmark_size, generator=random),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def step(model: EmoLA, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], device: str) -> float:
    """Run forward, backward, clipping and update like transformers' Trainer; return the loss."""
    with torch.autocast(device, torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def model_flops(model: EmoLA, size: int, tokens: int) -> float:
    """Return the FLOPs of one step: the decoder forward and backward, the vision tower forward."""
    text, vision = model.config.text, model.config.vision
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    tower = sum(parameter.numel() for parameter in model.vision_tower.parameters())
    head = text.vocab_size * text.hidden_size
    layers = sum(p.numel() for name, p in model.language_model.named_parameters()) - 2 * head
    trained = sum(p.numel() for p in model.language_model.parameters() if p.requires_grad)
    attention = (
        3 * 2 * tokens * (tokens // size) * text.hidden_size * text.num_hidden_layers
    )  # causal, forward and backward
    decoder = (4 * layers + 2 * trained) * tokens + 4 * head * size * (ANSWER + 1) + attention
    return float(decoder + 2 * tower * patches * size)


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
