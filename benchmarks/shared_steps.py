"""Measure what several answers at once gain from common decode steps, as `emola serve` runs them with several seats.

    python benchmarks/shared_steps.py [--layers 4] [--rounds 5]

At Vicuna-7B's shape, each answer in a thread of its own with a face and a question read: first every thread decodes
for itself, then through `SharedSteps`; in turns. Weights are random, so nothing is drafted, and tokens that are almost
equally probable, which are common in random logits, are not read again.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
from vicuna import PREFIX, QUESTION, NoDrafts, random_vicuna

from sdk.bench.machine import environment
from sdk.runtime import speculate
from sdk.runtime.backends.interface import Decoder, KVCache
from sdk.runtime.shared_steps import SharedSteps
from sdk.runtime.speculate import DraftedGeneration

SIZES = (1, 2, 4, 8)
TOKENS = 16
CAPACITY = 1024
Draw = Callable[[DraftedGeneration], Iterator[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, patch.object(speculate, "NEAR_TIE", 0.0):
        print(json.dumps(measure(random_vicuna(Path(folder), args.layers), args.rounds)))


def measure(decoder: Decoder, rounds: int) -> dict[str, object]:
    """Time both ways for each number of answers and return the figures."""
    random = np.random.default_rng(0)
    caches = [decoder.new_cache(CAPACITY) for _ in range(max(SIZES))]
    for cache in caches:
        decoder.prefill(cache, random.standard_normal((PREFIX, 4096)).astype(np.float32))
    steps = SharedSteps(decoder, CAPACITY, max(SIZES))
    found = {}
    for size in SIZES:
        times = [[run(decoder, caches[:size], draw) for draw in (iter, steps.tokens)] for _ in range(rounds)]
        alone, shared = (size * TOKENS / statistics.median(way) for way in zip(*times, strict=True))
        gain = statistics.median(one / other for one, other in times)
        print(f"  {size} at once: {alone:6.1f} tokens/s alone, {shared:6.1f} shared, {gain:.2f} times")
        found[size] = {"alone": round(alone, 1), "shared": round(shared, 1), "gain": round(gain, 2)}
    return {"benchmark": "shared_steps", "answers": found, "environment": environment()}


def run(decoder: Decoder, caches: list[KVCache], draw: Draw) -> float:
    """Seconds for one answer after each cache, its question read before."""
    started = []
    for index, cache in enumerate(caches):
        cache.length = PREFIX
        question = range(100 + index, 100 + index + QUESTION)
        limits = {"stop_ids": (), "max_new_tokens": TOKENS + 1, "drafter": NoDrafts(None)}
        tokens = draw(DraftedGeneration(decoder, cache, question, **limits))
        next(tokens)
        started.append(tokens)
    with ThreadPoolExecutor(len(caches)) as threads:
        begin = time.perf_counter()
        counts = list(threads.map(lambda tokens: sum(1 for _ in tokens), started))
        seconds = time.perf_counter() - begin
    assert counts == [TOKENS] * len(caches)
    return seconds


if __name__ == "__main__":
    main()
