"""Measure how many times more tokens per second a batch decodes than one face, at Vicuna-7B's shape.

A step of one face reads all weights for that face. A step of a batch reads them once for all faces.

    python benchmarks/batch_throughput.py [--layers 4] [--rounds 9]
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from vicuna import PREFIX, random_vicuna

from sdk.runtime.backends.interface import KVPool
from sdk.runtime.backends.ort import OrtDecoder

SIZES = (1, 2, 4, 8)
STEPS = 8
CAPACITY = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(random_vicuna(Path(folder), args.layers), args.layers, args.rounds)))


def measure(decoder: OrtDecoder, layers: int, rounds: int) -> dict[str, object]:
    """Time each batch size in turn and return the figures.

    In a batch every face must get the logits that it gets alone, within 2 % of their spread. ONNX Runtime rounds int4
    products of one row and of several rows in different kernels (0.4 % measured).
    """
    pool = decoder.new_pool(CAPACITY, max(SIZES))
    random = np.random.default_rng(0)
    prefix = random.standard_normal((PREFIX, 4096)).astype(np.float32)
    for index, cache in enumerate(pool.caches):
        decoder.extend(cache, prefix[index:])  # sequences of different content and length
    rows = decoder.embed(random.integers(3, 32000, max(SIZES)))
    together = _step(decoder, pool, rows).copy()
    for index, cache in enumerate(pool.caches):
        cache.length = PREFIX - index
        alone = decoder.extend(cache, rows[index : index + 1])[-1]
        error = float(np.abs(alone - together[index]).max() / alone.std())
        assert error < 0.02, f"face {index}: a batch changes its logits by {error:.1e} of their spread"
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size in SIZES:
            times[size].append(_time(decoder, pool, rows[:size]))
    speed = {size: size / statistics.median(times[size]) for size in SIZES}
    gain = statistics.median(8 * one / eight for one, eight in zip(times[1], times[8], strict=True))
    print(f"{layers} layers and head, int4, context {PREFIX}; median of {rounds} x {STEPS} steps")
    for size in SIZES:
        print(f"  {size} at once  {1000 * size / speed[size]:7.1f} ms per step  {speed[size]:7.1f} tokens/s")
    print(f"  eight at once give {gain:.2f} times the tokens of one at a time")
    return {
        "benchmark": "batch_throughput",
        "layers": layers,
        "tokens_per_second": {str(size): round(value, 1) for size, value in speed.items()},
        "gain_8": round(gain, 2),
        "machine": platform.processor() or platform.machine(),
    }


def _step(decoder: OrtDecoder, pool: KVPool, rows: np.ndarray) -> np.ndarray:
    for index, cache in enumerate(pool.caches):
        cache.length = PREFIX - index
    return decoder.step(pool, rows)


def _time(decoder: OrtDecoder, pool: KVPool, rows: np.ndarray) -> float:
    """Return the seconds per step."""
    _step(decoder, pool, rows)
    begin = time.perf_counter()
    for _ in range(STEPS):
        decoder.step(pool, rows)
    return (time.perf_counter() - begin) / STEPS


if __name__ == "__main__":
    main()
