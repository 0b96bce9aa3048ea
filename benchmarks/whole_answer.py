"""Measure what a user waits for one face and both questions at full size, from the crop to the last token.

    python benchmarks/whole_answer.py BUNDLE --data eval_au_anno.json eval_emotion_anno.json
        [--tokens 273 67] [--visual-tokens 144] [--rounds 3] [--threads N] [--openvino] [--openvino-prefill]

BUNDLE has any weights, for example random ones of `benchmarks/rehearsal.py`. Everything is computed at its size, but
each answer is written in advance: the logits of a step are replaced by those of its next token. The texts are answers
of held-out faces in the tokens of the embedded model, one after the other up to `--tokens`, and drafts come from its
table of training answers, so they are accepted as often as with that model. Its tokenizer has pieces of several words;
a Vicuna needs more tokens for a sentence, and more of them are certain. The default lengths are the means of
FABA-Instruct: 207 and 50 words. Variants alternate.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdk.arrays import Floats
from sdk.bench.machine import processor
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.faba.prompts import Task
from sdk.faces.crop import RELEASED_FACE_SCALE, aligned_face
from sdk.runtime.backends.interface import Backend, Decoder, KVCache, KVPool
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.drafts import Drafter
from sdk.runtime.ngrams import ContextTree, Ngrams
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.tokenizer import read_tokenizer
from trainer.corpus.records import read_records

TASKS: tuple[Task, Task] = ("action_units", "emotion")


class WrittenAnswers:
    """Computes as a decoder does, and puts each next token of a text written in advance on top.

    Attributes:
        texts: by the index of a sequence in its pool: the position whose row predicts the first token, and all tokens.
    """

    def __init__(self, decoder: Decoder, *, reader: bool) -> None:
        self._decoder, self.texts = decoder, dict[int, tuple[int, Sequence[int]]]()
        self._extend, self._step = decoder.extend, decoder.step
        vars(decoder).update(extend=self.extend, step=self.step)
        if not reader:
            vars(decoder).update(prefill=self.extend)

    def extend(self, cache: KVCache, rows: Floats, last: int = 1) -> Floats:
        logits = self._extend(cache, rows, last)
        for index, row in enumerate(logits):
            self._write(cache.row, cache.length - last + index, row)
        return logits

    def step(self, pool: KVPool, rows: Floats) -> Floats:
        logits = self._step(pool, rows)
        for index, row in enumerate(logits):
            self._write(index, pool.lengths[index] - 1, row)
        return logits

    def _write(self, sequence: int, position: int, logits: Floats) -> None:
        begin, tokens = self.texts.get(sequence, (0, ()))
        if 0 <= position - begin < len(tokens):
            logits[tokens[position - begin]] = logits.max() + 10

    def close(self) -> None:
        for name in ("extend", "step", "prefill"):
            vars(self._decoder).pop(name, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, nargs=2, required=True, metavar=("AU", "EMOTION"))
    parser.add_argument("--tokens", type=int, nargs=2, default=(273, 67), metavar=("AU", "EMOTION"))
    parser.add_argument("--visual-tokens", type=int, default=144)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--openvino", action="store_true", help="also with a decoder on OpenVINO")
    parser.add_argument("--openvino-prefill", action="store_true", help="also with faces read by OpenVINO")
    args = parser.parse_args()
    name, variants = open_variants(args)
    found = compare(variants, args.rounds)
    print(json.dumps({"benchmark": "whole_answer", "machine": processor(), "backend": name, **found}))


def open_variants(args: argparse.Namespace) -> tuple[str, dict[str, Callable[[], dict[str, float]]]]:
    """The name of the backend of most of them, and what runs each once, by its name."""
    manifest = read_manifest(args.bundle)
    answers = {task: answer(path, task, count) for task, path, count in zip(TASKS, args.data, args.tokens, strict=True)}
    bare = manifest.without_language().model_copy(update={"ngrams": None})

    def backend_on(device: str) -> Backend:
        return open_backend(args.bundle, manifest, device, threads=args.threads)

    default = backend_on("openvino-prefill" if args.openvino_prefill else "cpu")

    def opened(
        rows: int | None = None,
        *,
        pairs: bool = False,
        drafts: bool = False,
        reader: bool = False,
        backend: Backend = default,
    ) -> Callable[[], dict[str, float]]:
        pipeline = Pipeline(args.bundle, bare, backend, rows, pairs=pairs)
        if drafts:
            pipeline.drafter = Drafter(ContextTree(Ngrams.load(EMBEDDED / "answers.ngrams", 32000)))
        return lambda: ask(pipeline, answers, pairs=pairs, reader=reader)

    variants = {
        "one after the other": opened(),
        "both together": opened(pairs=True),
        "drafts": opened(drafts=True),
        f"drafts, {args.visual_tokens} rows": opened(args.visual_tokens, drafts=True),
    }
    if args.openvino_prefill:
        variants["drafts, OpenVINO's prefill"] = opened(drafts=True, reader=True)
    if args.openvino:
        variants["drafts, OpenVINO"] = opened(drafts=True, backend=backend_on("openvino"))
    return default.name, variants


def answer(data: Path, task: Task, count: int) -> list[int]:
    """Tokens of the answers of held-out faces, one after the other."""
    manifest = read_manifest(EMBEDDED)
    tokenizer = read_tokenizer(EMBEDDED / manifest.tokenizer, manifest.geometry.vocabulary)
    tokens: list[int] = []
    for record in read_records(data, task=task):
        if len(tokens) >= count:
            break
        tokens += tokenizer.encode(record.answer, add_special_tokens=False).ids
    return tokens[:count]


def ask(pipeline: Pipeline, answers: Mapping[Task, list[int]], *, pairs: bool, reader: bool) -> dict[str, float]:
    """Answer both questions about one face; seconds by stage.

    Args:
        pairs: ask both questions at once.
        reader: let a PrefillDecoder prefill, not ONNX Runtime.
    """
    decoder = pipeline.backend.decoder
    written, clock, begin = WrittenAnswers(decoder, reader=reader), Clock(), time.perf_counter()
    crop = aligned_face(np.random.default_rng(0).integers(0, 256, (336, 336, 3), np.uint8), RELEASED_FACE_SCALE)
    stop, found = pipeline.manifest.prompt.stop_ids[0], {}
    try:
        with pipeline.encode(crop, clock) as face:
            texts = {
                task: (face.prefix + len(pipeline.question_ids(task)) - 1, [*tokens, stop])
                for task, tokens in answers.items()
            }
            together = [tuple(texts)] if pairs else [(task,) for task in texts]
            for tasks in together:
                written.texts = dict(enumerate(texts[task] for task in tasks))
                found |= pipeline.ask_all(face, tasks, clock, None, None)
    finally:
        written.close()
    assert {task: list(answer.token_ids) for task, answer in found.items()} == answers
    return {**{stage: ms / 1000 for stage, ms in clock.elapsed_ms.items()}, "whole": time.perf_counter() - begin}


def compare(variants: Mapping[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, Any]:
    """Median seconds of each variant by stage, and its share of the time of the first, by round."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            found[name].append(run())
            print(f"  {name:24}", {stage: round(each, 2) for stage, each in found[name][-1].items()}, flush=True)
    first = next(iter(found.values()))
    result: dict[str, Any] = {}
    for name, runs in found.items():
        share = statistics.median(each["whole"] / base["whole"] for each, base in zip(runs, first, strict=True))
        medians = {stage: round(statistics.median(run[stage] for run in runs), 2) for stage in runs[0]}
        result[name] = {**medians, "share": round(share, 3)}
        print(f"{name:24} {medians['whole']:7.2f} s, {100 * share:.0f} % of the first")
    return result


if __name__ == "__main__":
    main()
