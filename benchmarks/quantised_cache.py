"""What a smaller output head and a smaller KV cache save on a target, and what they cost in parity.

    python benchmarks/quantised_cache.py [--target orin-nano-8]
    python benchmarks/quantised_cache.py --base BASE [--adapter A --vision-tower C] --records train.json [--limit 4]

The first table is the plan for EmoLA on LLaVA-1.5-7B. The second compares the logits of a checkpoint in float32 with
those of the same model whose head is rounded to 8 or 4 bits, or whose keys and values are rounded to 8 or 4 bits with
one scale for each head and position, on the last positions of fused training records. The last line is JSON.
"""

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from export.quantise.calibrate import fused_sequences
from export.quantise.linear import round_to_nearest
from export.targets.machines import TARGETS
from export.targets.plan import LLAVA_7B, plan, stored_decoder
from trainer.checkpoint import Checkpoint
from trainer.corpus.records import read_records

POSITIONS = 32  # at the end of each record, which belong to its answer
CASES = {  # bits of head and cache; None is float32
    "head 8": (8, None),
    "head 4": (4, None),
    "cache 8": (None, 8),
    "cache 4": (None, 4),
    "head 8, cache 8": (8, 8),
    "head 4, cache 8": (4, 8),
}


class RoundedCache(DynamicCache):
    """A KV cache whose entries are rounded when they are written."""

    def __init__(self, bits: int | None) -> None:
        super().__init__()
        self._bits = bits

    def update(self, key_states: Tensor, value_states: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
        rounded = [rounded_heads(states, self._bits) for states in (key_states, value_states)]
        return super().update(*rounded, *rest, **options)


def rounded_heads(states: Tensor, bits: int | None) -> Tensor:
    """(B, heads, T, size) rounded symmetrically, with one 16-bit scale for each head and position."""
    if bits is None:
        return states
    largest = 2 ** (bits - 1) - 1
    scales = (states.abs().amax(-1, keepdim=True) / largest).half().float().clamp(min=1e-7)
    return (states / scales).round().clamp(-largest, largest) * scales


def savings(target: str) -> list[dict[str, Any]]:
    """The plan of 7B for each size of head and cache."""
    rows = []
    for head, cache in product((8, 4), (16, 8)):
        decoder = stored_decoder(f"head {head} bits", LLAVA_7B.geometry, 4, head)
        work = replace(LLAVA_7B, decoders=(decoder,), cache_bits=8 if cache == 8 else None)
        found = plan(target, TARGETS[target], work)
        used = sum(found.memory_gb.values())
        speed = {"tokens_per_s": found.tokens_per_s, "first_token_ms": found.first_token_ms}
        rows.append({"head": head, "cache": cache, "used_gb": round(used, 3), "left_gb": found.left_gb, **speed})
    return rows


@torch.inference_mode()
def costs(checkpoint: Checkpoint, records: Path, limit: int) -> dict[str, dict[str, float]]:
    """Relative error of the logits and share of equal greedy choices of each case, over all records."""
    sequences = list(fused_sequences(checkpoint, read_records(records)[:limit]))
    decoder = checkpoint.load(dtype=torch.float32).language_model
    exact = decoder.lm_head.weight.detach()
    heads = {bits: torch.from_numpy(round_to_nearest(exact.numpy(), bits).dequantize()) for bits in (8, 4)}

    def logits(head: int | None, cache: int | None) -> Tensor:
        states = [
            decoder.model(inputs_embeds=rows[None], past_key_values=RoundedCache(cache)).last_hidden_state[0]
            for rows in sequences
        ]
        return torch.cat([state[-POSITIONS:] for state in states]) @ heads.get(head, exact).T

    reference = logits(None, None)
    found = {}
    for name, bits in CASES.items():
        measured = logits(*bits)
        error = float((measured - reference).norm() / reference.norm())
        equal = float((measured.argmax(-1) == reference.argmax(-1)).float().mean())
        found[name] = {"relative_error": error, "equal": equal}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, default="orin-nano-8")
    parser.add_argument("--base")
    parser.add_argument("--adapter")
    parser.add_argument("--vision-tower")
    parser.add_argument("--records", type=Path)
    parser.add_argument("--limit", type=int, default=4)
    args = parser.parse_args()
    if args.base and not args.records:
        parser.error("--base needs --records, the training records that are read")
    saved = savings(args.target)
    print("| head | cache | memory, GB | left, GB | tokens/s | first token, ms |\n|---|---|---|---|---|---|")
    for row in saved:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    cost = {}
    if args.base:
        cost = costs(Checkpoint(args.adapter, args.base, args.vision_tower), args.records, args.limit)
        print("\n| bits | relative error of logits | greedy choices equal |\n|---|---|---|")
        for name, found in cost.items():
            print(f"| {name} | {100 * found['relative_error']:.2f} % | {100 * found['equal']:.1f} % |")
    print(json.dumps({"target": args.target, "saved": saved, "cost": cost}))


if __name__ == "__main__":
    main()
