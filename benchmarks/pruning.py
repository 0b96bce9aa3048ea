"""Measure what fewer visual rows save and cost: prefill at Vicuna-7B's shape, REGE of a bundle on evaluation sets.

    python benchmarks/pruning.py prefill [--layers 4] [--rounds 5]
    python benchmarks/pruning.py rege BUNDLE --data eval_emotion_anno.json --task emotion [--limit 403]

`prefill` alternates 576, 288 and 144 rows in one run. `rege` keeps all, a half and a quarter of the rows. It chooses
them in the order of the bundle and, as controls, in an even grid and at random. Differences from all rows are by paired
bootstrap.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from vicuna import PREFIX, QUESTION, random_vicuna

import sdk.runtime.pipeline
from sdk.bundles.manifest import read_manifest
from sdk.faces.patches import patch_order
from sdk.runtime.pruning import visual_rows
from trainer.evaluation.bootstrap import SampleScores, compare, sample_scores
from trainer.evaluation.bundle_answerer import BundleAnswerer
from trainer.evaluation.evaluate import EvaluationSet

ROWS = (576, 288, 144)
OTHER_ROWS = PREFIX - ROWS[0]  # system text and landmark row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    speed = parts.add_parser("prefill")
    speed.add_argument("--layers", type=int, default=4)
    speed.add_argument("--rounds", type=int, default=5)
    speed.add_argument("--folder", type=Path, help="keep the decoder there for another run")
    speed.set_defaults(run=lambda args: prefill(args.layers, args.rounds, args.folder))
    rege = parts.add_parser("rege")
    rege.add_argument("bundle", type=Path)
    rege.add_argument("--data", type=Path, required=True)
    rege.add_argument("--task", choices=("emotion", "au"), required=True)
    rege.add_argument("--limit", type=int)
    rege.set_defaults(run=lambda args: cost(args.bundle, args.data, args.task, args.limit))
    args = parser.parse_args()
    print(json.dumps({"benchmark": "pruning", **args.run(args)}))


def prefill(layers: int, rounds: int, folder: Path | None) -> dict[str, Any]:
    """Return the milliseconds up to the first token of a first question, and the speed relative to all rows."""
    with tempfile.TemporaryDirectory() as temporary:
        decoder = random_vicuna(folder or Path(temporary), layers)
        cache = decoder.new_cache(1024)
        embeddings = np.random.default_rng(0).standard_normal((PREFIX + QUESTION, 4096)).astype(np.float32)
        times: dict[int, list[float]] = {rows: [] for rows in ROWS}
        for _ in range(rounds + 1):  # the first round warms up
            for rows in ROWS:
                cache.length, begin = 0, time.perf_counter()
                decoder.extend(cache, embeddings[: OTHER_ROWS + rows + QUESTION])
                times[rows].append(1000 * (time.perf_counter() - begin))
                assert cache.length == OTHER_ROWS + rows + QUESTION
    found = {}
    for rows, spent in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[ROWS[0]][1:], spent[1:], strict=True))
        found[str(rows)] = {"ms": round(statistics.median(spent[1:]), 1), "faster": round(ratio, 2)}
        print(f"{rows} visual rows: {found[str(rows)]['ms']:8.1f} ms, {ratio:.2f} times as fast as {ROWS[0]}")
    return {"layers": layers, "rounds": rounds, "prefill": found}


def cost(bundle: Path, data: Path, task: str, limit: int | None) -> dict[str, Any]:
    """Return REGE with fewer rows minus REGE with all rows, in points."""
    evaluation = EvaluationSet.read(data, task, limit=limit)
    total = visual_rows(read_manifest(bundle).prompt.image_rows)
    whole = scores(bundle, evaluation, None, patch_order)
    rows: dict[str, Any] = {}
    for count in ((total + 1) // 2, (total + 3) // 4):
        for name, order in (("landmarks", patch_order), ("grid", even_grid(count)), ("random", random_order())):
            found = compare(scores(bundle, evaluation, count, order), whole)["s_rege"]
            rows[f"{count} {name}"] = {k: round(v, 2) for k, v in vars(found).items()}
            line = f"{task}, {count} of {total} rows, {name:9} {found.difference:+.2f}"
            print(f"{line} ({found.low:+.2f} .. {found.high:+.2f})", flush=True)
    all_rows = {name: round(value, 2) for name, value in whole.totals().items()}
    return {"task": task, "samples": len(whole), "all_rows": all_rows, "difference": rows}


def scores(bundle: Path, evaluation: EvaluationSet, count: int | None, order: Callable[..., Any]) -> SampleScores:
    with patch.object(sdk.runtime.pipeline, "patch_order", order):
        answers = BundleAnswerer.open(bundle, visual_tokens=count).answer(evaluation.records)
    return sample_scores(answers, evaluation.annotations, task=evaluation.task)


def even_grid(count: int) -> Callable[..., Any]:
    return lambda crop, features, settings, side: np.linspace(0, side * side - 1, count).round().astype(int)


def random_order() -> Callable[..., Any]:
    random = np.random.default_rng(0)
    return lambda crop, features, settings, side: random.permutation(side * side)


if __name__ == "__main__":
    main()
