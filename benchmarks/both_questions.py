"""Compare two answers about one face, decoded one after the other and together, in alternation.

    python benchmarks/both_questions.py [--layers 4] [--tokens 40] [--rounds 5] [--folder build/peers/ours]

The decoder has N layers of Vicuna-7B's shape and the head, with random weights in int4, and answers two questions about
a prefix of 612 rows. Its logits are stretched, so that near ties are as rare as in a trained model. Then the embedded
model answers about the faces of its reference, without its answer language, which orders the two questions; its table
of training answers is the third variant. All variants must give the same tokens. On a machine that others use,
--threads 1 --cpu-time counts the seconds that the processor worked, not those that passed.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from vicuna import PREFIX, QUESTION, NoDrafts, vicuna_geometry, write_vicuna

from sdk.arrays import Floats
from sdk.bench.machine import processor
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.runtime.backends.interface import KVCache, KVPool
from sdk.runtime.backends.ort import OrtDecoder
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.pair import draw_together
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.speculate import DraftedGeneration
from sdk.runtime.verify import Reference

STRETCH = 16.0  # of the logits of random weights
Variants = Mapping[str, Callable[[], Any]]


class StretchedDecoder(OrtDecoder):
    """A decoder whose tokens differ more in probability."""

    def extend(self, cache: KVCache, rows: Floats, last: int = 1) -> Floats:
        return np.float32(STRETCH) * super().extend(cache, rows, last)

    def _compute_step(self, pool: KVPool, rows: Floats) -> Floats:
        return np.float32(STRETCH) * super()._compute_step(pool, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="0 measures the embedded model only")
    parser.add_argument("--tokens", type=int, default=40, help="length of each answer of the random decoder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of the process; takes --threads 1")
    parser.add_argument("--folder", type=Path, help="of the random decoder, kept for the next run")
    args = parser.parse_args()
    if args.cpu_time and args.threads != 1:
        parser.error("--cpu-time takes --threads 1: threads that wait for each other spin")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.layers:
            found[f"{args.layers} layers"] = compare(random_decoder(args.folder or Path(folder), args), args)
    found["emola-nano"] = compare(embedded(args.threads), args)
    print(json.dumps({"benchmark": "both_questions", "machine": processor(), "cpu_time": args.cpu_time, **found}))


def compare(variants: Variants, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of each variant, and how many times as fast as the first the others are."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    expected, times = {name: run() for name, run in variants.items()}, {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, run in variants.items():
            begin = clock()
            tokens = run()
            times[name].append(1000 * (clock() - begin))
            assert tokens == expected["one after the other"], f"{name}: other tokens"
    first, *others = times.values()
    found = {f"{name}, ms": round(statistics.median(each), 1) for name, each in times.items()}
    for name, each in zip(list(times)[1:], others, strict=True):
        ratio = statistics.median(a / b for a, b in zip(first, each, strict=True))
        found[f"{name}, times as fast"] = round(ratio, 2)
    for name, value in found.items():
        print(f"  {name:34} {value:9.2f}")
    return found


def random_decoder(folder: Path, args: argparse.Namespace) -> Variants:
    """Both answers after the prefill, with the copy of the prefix."""
    write_vicuna(folder, args.layers)
    geometry = vicuna_geometry(args.layers)
    decoder = StretchedDecoder(folder / "int4.onnx", folder / "embeddings.npy", geometry, args.threads)
    pool, random, drafter = decoder.new_pool(1024, 2), np.random.default_rng(0), NoDrafts(None)
    decoder.prefill(pool.caches[0], random.standard_normal((PREFIX, geometry.hidden_size)).astype(np.float32))
    questions = [random.integers(3, 32000, QUESTION).tolist() for _ in range(2)]
    limits: dict[str, Any] = {"stop_ids": (), "max_new_tokens": args.tokens, "drafter": drafter}

    def start(row: int, question: list[int]) -> DraftedGeneration:
        cache = pool.caches[row]
        cache.length = PREFIX
        return DraftedGeneration(decoder, cache, question, **limits)

    def together() -> list[list[int]]:
        pool.lengths[0] = PREFIX
        pool.copy(pool.caches[0], 1)
        return draw_together(decoder, drafter, (start(0, questions[0]), start(1, questions[1])), Clock())

    return {
        "one after the other": lambda: [list(start(0, question)) for question in questions],
        "together": together,
    }


def embedded(threads: int | None) -> Variants:
    """Both answers about each face of the reference."""
    manifest, reference = read_manifest(EMBEDDED), Reference.load(EMBEDDED / "reference.npz")
    backend = open_backend(EMBEDDED, manifest, "cpu", threads=threads)
    free = manifest.without_language()
    bare = free.model_copy(update={"ngrams": None})
    pipelines = {
        "one after the other": Pipeline(EMBEDDED, bare, backend, pairs=False),
        "together": Pipeline(EMBEDDED, bare, backend),
        "with drafts": Pipeline(EMBEDDED, free, backend),
    }

    def answers(pipeline: Pipeline) -> list[tuple[int, ...]]:
        found = []
        for rows, features in zip(reference.rows, reference.landmark_features, strict=True):
            with pipeline.encode_rows(rows, features) as face:
                asked = pipeline.ask_all(face, reference.tasks, Clock(), None, None)
            found += [answer.token_ids for answer in asked.values()]
        return found

    return {name: lambda pipeline=pipeline: answers(pipeline) for name, pipeline in pipelines.items()}


if __name__ == "__main__":
    main()
