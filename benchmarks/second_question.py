"""Compare the time to first token of the first and of the second question about a face, at Vicuna-7B's shape.

The first question includes the prefill of the prefix (system text, image and landmark rows); the second rewinds the KV
cache.

    python benchmarks/second_question.py [--layers 4] [--rounds 7]

It first writes four layers, which takes a minute or two; `--layers 1` is faster.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from vicuna import PREFIX, QUESTION, random_vicuna


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), args.layers, args.rounds)))


def measure(folder: Path, layers: int, rounds: int) -> dict[str, object]:
    """Alternate first and second question; the first logits of an answer must not depend on the previous question."""
    decoder = random_vicuna(folder, layers)
    cache = decoder.new_cache(1024)
    random = np.random.default_rng(0)
    prefix = random.standard_normal((PREFIX, 4096)).astype(np.float32)
    questions = [random.integers(3, 32000, QUESTION) for _ in range(2)]

    def ask(question: int, start: int) -> tuple[float, np.ndarray]:
        begin = time.perf_counter()
        cache.length = start
        if start == 0:
            decoder.extend(cache, prefix)
        logits = decoder.extend(cache, decoder.embed(questions[question]))
        return 1000 * (time.perf_counter() - begin), logits.copy()

    _, fresh = ask(1, 0)  # also warms up
    first, second = [], []
    for _ in range(rounds):
        first.append(ask(0, 0)[0])
        elapsed, logits = ask(1, PREFIX)
        second.append(elapsed)
        assert np.array_equal(logits, fresh), "the second question differs from a fresh run"
    ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
    print(f"{layers} layers, {PREFIX} rows of prefix, {QUESTION} tokens of question, int4; median of {rounds}")
    print(f"  first question   {statistics.median(first):8.1f} ms")
    print(f"  second question  {statistics.median(second):8.1f} ms   {100 * ratio:.1f} % of the first")
    return {
        "benchmark": "second_question",
        "layers": layers,
        "first_ms": round(statistics.median(first), 2),
        "second_ms": round(statistics.median(second), 2),
        "ratio": round(ratio, 4),
        "machine": platform.processor() or platform.machine(),
    }


if __name__ == "__main__":
    main()
