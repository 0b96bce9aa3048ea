"""Measure how many faces a minute several seats decode, at Vicuna-7B's shape, beside the slots of llama.cpp.

A step of one face reads all weights for that face. A step of a batch reads them once for all faces.

    python benchmarks/batch_throughput.py [--layers 4] [--rounds 5] [--tokens 340] [--llama-cpp] [--folder build/peers]

Prefill, questions and steps are timed; faces per minute are calculated from them for `--tokens` tokens in both answers
together (the mean of FABA-Instruct). `--llama-cpp` takes the extra `peers` and alternates with it on the same weights.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Protocol

import numpy as np
from peer_decoders import CONTEXT, LlamaCpp, Ours
from peer_weights import prepare
from vicuna import PREFIX, QUESTION

from sdk.bench.machine import processor

SIZES = (1, 4, 16)
STEPS = 4
IDS = np.random.default_rng(0).integers(3, 32000, PREFIX + max(SIZES)).tolist()
Times = dict[str, list[float]]  # seconds


class Decoder(Protocol):
    """`description` names the library."""

    description: str

    def extend(self, start: int, ids: list[int]) -> np.ndarray:
        """As in `peer_decoders`; for the first seat."""
        ...

    def copy(self, slots: int) -> None:
        """Copy the first seat to the others."""
        ...

    def step(self, start: int, ids: list[int]) -> np.ndarray:
        """Keep `start` positions of the first seats, append a token to each; returns (seats, vocabulary) logits."""
        ...


class OurSeats(Ours):
    def __init__(self, folder: Path, layers: int, threads: int, slots: int) -> None:
        super().__init__(folder, layers, threads)
        self._pool = self._decoder.new_pool(CONTEXT, slots)
        self._cache = self._pool.caches[0]

    def copy(self, slots: int) -> None:
        for slot in range(1, slots):
            self._pool.copy(self._cache, slot)

    def step(self, start: int, ids: list[int]) -> np.ndarray:
        self._pool.lengths[: len(ids)] = [start] * len(ids)
        return self._decoder.step(self._pool, self._decoder.embed(ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=340)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-cpp", action="store_true")
    parser.add_argument("--folder", type=Path, help="of the weights, kept for the next run")
    args = parser.parse_args()
    kinds = {"ours": OurSeats, **({"llama.cpp": LlamaCpp} if args.llama_cpp else {})}
    with tempfile.TemporaryDirectory() as folder:
        decoders: dict[str, Decoder] = {}
        for name, kind in kinds.items():
            weights = prepare(args.folder or Path(folder), name, args.layers, 8)
            decoders[name] = kind(weights, args.layers, args.threads, max(SIZES))
        times = measure(decoders, args.rounds)
    figures = {
        name: {"library": decoders[name].description, **report(name, times[name], args.tokens)} for name in times
    }
    result = {"benchmark": "batch_throughput", "layers": args.layers, "tokens": args.tokens, "machine": processor()}
    print(json.dumps({**result, **figures}))


def measure(decoders: dict[str, Decoder], rounds: int) -> dict[str, Times]:
    """Time every stage of every decoder in turn.

    Raises:
        AssertionError: a seat gets other logits than a face alone, beyond 2 % of their spread. Kernels round int4
            products of one row and of several rows differently (0.4 % measured).
    """
    for decoder in decoders.values():
        alone = decoder.extend(0, IDS[: PREFIX + 1]).copy()
        decoder.copy(max(SIZES))
        error = np.abs(decoder.step(PREFIX, [IDS[PREFIX]] * max(SIZES)) - alone).max() / alone.std()
        assert error < 0.02, f"{decoder.description}: a batch changes logits by {error:.1e} of their spread"
    times: dict[str, Times] = {name: {} for name in decoders}
    for _ in range(rounds):
        for name, decoder in decoders.items():
            stages = {
                "prefill": lambda decoder=decoder: decoder.extend(0, IDS[:PREFIX]),
                "question": lambda decoder=decoder: decoder.extend(PREFIX, IDS[:QUESTION]),
                **{
                    f"step of {size}": lambda decoder=decoder, size=size: [
                        decoder.step(PREFIX + index, IDS[index : index + size]) for index in range(STEPS)
                    ]
                    for size in SIZES
                },
            }
            for stage, run in stages.items():
                begin = time.perf_counter()
                run()
                times[name].setdefault(stage, []).append(time.perf_counter() - begin)
    return times


def report(name: str, times: Times, tokens: int) -> dict[str, float]:
    """Print and return milliseconds by stage, and faces per minute by number of seats."""
    seconds = {stage: statistics.median(each) for stage, each in times.items()}
    step = {size: seconds[f"step of {size}"] / STEPS for size in SIZES}
    face = seconds["prefill"] + 2 * seconds["question"]
    rates = {size: 60 / (face + tokens * step[size] / size) for size in SIZES}
    print(f"{name:10} prefill {1000 * seconds['prefill']:.0f} ms, question {1000 * seconds['question']:.0f} ms")
    for size in SIZES:
        print(f"  {size:3} seats {1000 * step[size]:8.1f} ms per step {rates[size]:8.2f} faces per minute")
    return {
        "prefill_ms": round(1000 * seconds["prefill"]),
        "question_ms": round(1000 * seconds["question"]),
        **{f"step_ms_{size}": round(1000 * step[size], 1) for size in SIZES},
        **{f"faces_per_minute_{size}": round(rates[size], 2) for size in SIZES},
    }


if __name__ == "__main__":
    main()
