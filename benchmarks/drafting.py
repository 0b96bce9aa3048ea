"""Measure tokens per second and forward passes per token with and without drafts, on held-out faces.

    python benchmarks/drafting.py --data eval_au_anno.json eval_emotion_anno.json [--bundle B] [--table answers.ngrams]
        [--limit 150] [--layers 4]

Each face is answered both ways, alternating, and both answers must be equal. `--layers` also times forward passes of 1
to 16 rows at Vicuna-7B's shape and replays the answers with these times: the same drafter decides, and each pass takes
the measured time. The acceptance is that of the small model, whose tokenizer has pieces of several words. Vicuna needs
more tokens for a sentence, and more of them are certain.
"""

import argparse
import itertools
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from vicuna import PREFIX, QUESTION, random_vicuna

from sdk.bundles.hub import resolve_bundle
from sdk.bundles.manifest import read_manifest
from sdk.faba.prompts import Task
from sdk.faces.crop import aligned_face
from sdk.faces.images import load_image
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.drafts import Drafter
from sdk.runtime.encoded_face import EncodedFace
from sdk.runtime.ngrams import ContextTree, Ngrams
from sdk.runtime.pipeline import Pipeline
from trainer.corpus.records import Record, read_records

ROWS = (1, 2, 3, 4, 6, 8, 12, 16)


class CountingDrafter(Drafter):
    """A drafter that also counts forward passes and rows."""

    forwards = rows = 0

    def learn(self, draft, right, seconds) -> None:
        self.forwards += 1
        self.rows += 1 + len(draft)
        super().learn(draft, right, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs=2, required=True, metavar=("AU", "EMOTION"))
    parser.add_argument("--bundle")
    parser.add_argument("--table", type=Path, help="n-gram table (answers.ngrams), for a bundle without one")
    parser.add_argument("--limit", type=int, default=150)
    parser.add_argument(
        "--layers", type=int, help="number of layers at Vicuna-7B's shape; also measures and replays there"
    )
    args = parser.parse_args()
    folder = resolve_bundle(args.bundle)
    manifest = read_manifest(folder)
    if not (args.table or manifest.ngrams):
        parser.error(f"{manifest.name} holds no answers to draft from; pass a table of another bundle (--table)")
    pipeline = Pipeline(folder, manifest, open_backend(folder, manifest))
    table = Ngrams.load(args.table or folder / manifest.ngrams, manifest.geometry.vocabulary)
    tree = ContextTree(table)
    result = {"benchmark": "drafting", "contexts": len(table.parent), "machine": platform.machine()}
    costs = vicuna_costs(args.layers) if args.layers else None
    for task, path in zip(("action_units", "emotion"), args.data, strict=True):
        records = read_records(path, task=task)[: args.limit]
        measured, answers = compare(pipeline, tree, task, records)
        if costs:
            measured["at_vicuna_prices"] = replay(tree, pipeline.question_ids(task), answers, costs)
        result[task] = measured
    print(json.dumps({**result, "vicuna_ms": costs}))


def compare(pipeline: Pipeline, tree: ContextTree, task: Task, records: list[Record]) -> tuple[dict, list]:
    """Decode every face both ways, alternating; return the figures and the answers."""
    drafter = pipeline.drafter = CountingDrafter(tree)
    times: dict[bool, list[float]] = {False: [], True: []}
    answers = []
    for index, record in enumerate(records):
        crop = aligned_face(load_image(record.image_path), pipeline.manifest.preprocessing.face_scale)
        with pipeline.encode(crop, Clock()) as face:
            found = {}
            for drafts in (bool(index % 2), not index % 2):
                found[drafts], seconds = decode(pipeline, face, task, drafts)
                times[drafts].append(seconds)
        assert found[True] == found[False], f"{record.id}: drafts changed the answer"
        answers.append(found[False])
    tokens = sum(map(len, answers)) - len(answers)  # the first token comes with the question
    plain, drafted = (tokens / sum(times[drafts]) for drafts in (False, True))
    ratio = statistics.median(a / b for a, b in zip(times[False], times[True], strict=True))
    per_forward, rows = tokens / drafter.forwards, drafter.rows / drafter.forwards
    print(f"{task}: {len(answers)} equal answers; {plain:.0f} -> {drafted:.0f} tokens/s: {drafted / plain:.2f}x")
    print(f"  median of pairs {ratio:.2f}x; {per_forward:.2f} tokens and {rows:.2f} rows per forward")
    return {
        "answers": len(answers),
        "plain_tokens_s": round(plain),
        "drafted_tokens_s": round(drafted),
        "gain": round(drafted / plain, 3),
        "median_gain": round(ratio, 3),
        "tokens_per_forward": round(per_forward, 3),
        "rows_per_forward": round(rows, 3),
    }, answers


def decode(pipeline: Pipeline, face: EncodedFace, task: Task, drafts: bool) -> tuple[list[int], float]:
    """Return the token ids, and the seconds that all tokens after the first took."""
    generation = pipeline.generate(face, task, drafts=drafts)
    first = next(generation)
    begin = time.perf_counter()
    tokens = [first, *generation]
    return tokens, time.perf_counter() - begin


def vicuna_costs(layers: int, rounds: int = 6) -> dict[int, float]:
    """Return the median milliseconds of a forward pass by its number of rows, linearly interpolated."""
    with tempfile.TemporaryDirectory() as folder:
        decoder = random_vicuna(Path(folder), layers)
        random = np.random.default_rng(0)
        cache = decoder.new_cache(1024)
        decoder.extend(cache, random.standard_normal((PREFIX + QUESTION, 4096)).astype(np.float32))
        start, rows = cache.length, decoder.embed(random.integers(3, 32000, max(ROWS)))
        times: dict[int, list[float]] = {count: [] for count in ROWS}
        for _, count in itertools.product(range(rounds + 1), ROWS):
            cache.length = start
            begin = time.perf_counter()
            decoder.extend(cache, rows[:count], last=count)
            times[count].append(1000 * (time.perf_counter() - begin))
    medians = [statistics.median(times[count][1:]) for count in ROWS]
    costs = {count: round(float(np.interp(count, ROWS, medians)), 2) for count in range(1, max(ROWS) + 1)}
    print(f"{layers} layers of Vicuna-7B: " + ", ".join(f"{count} rows {costs[count]:.1f} ms" for count in ROWS))
    return costs


def replay(tree: ContextTree, question: tuple[int, ...], answers: list[list[int]], costs: dict[int, float]) -> dict:
    """Replay known answers with these costs per forward pass; return gain and tokens per forward pass."""
    drafter, spent, forwards, tokens = Drafter(tree), 0.0, 0, 0
    for answer in answers:
        text, left = [*question, answer[0]], answer[1:]
        while left:
            draft = drafter.propose(text, len(left) + 1)
            same = [guess.token == token for guess, token in zip(draft, left, strict=False)]
            right = [*same, False].index(False)
            cost = costs[1 + len(draft)]
            drafter.learn(draft, right, cost / 1000)
            text += left[: right + 1]
            left = left[right + 1 :]
            spent, forwards = spent + cost, forwards + 1
        tokens += len(answer) - 1
    gain = tokens * costs[1] / spent
    print(f"  with Vicuna's times {gain:.2f}x, {tokens / forwards:.2f} tokens per forward")
    return {"gain": round(gain, 3), "tokens_per_forward": round(tokens / forwards, 3)}


if __name__ == "__main__":
    main()
