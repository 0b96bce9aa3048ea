"""What a bundle reads of a face: REGE when its image rows, or its landmark row, are those of the face before.

    python benchmarks/row_importance.py BUNDLE --data eval_au_anno.json --task au [--limit 325] [--visual-tokens N]

What Table 8 of the paper asks of models that are trained without one kind of row, asked here of one finished model:
rows that it does not use can be another face's without a loss. Where crops are aligned by landmarks, as those of
the model in the package are, the tower keeps that use of the face's own. With `--visual-tokens` only so many image
rows are read at all, and swapped. Differences by paired bootstrap.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from sdk.runtime.pipeline import EncodedFace, Pipeline
from trainer.evaluation.answerers import BundleAnswerer
from trainer.evaluation.bootstrap import SampleScores, compare, sample_scores
from trainer.evaluation.evaluate import EvaluationSet

PARTS = {"image rows": slice(0, -1), "landmark row": slice(-1, None)}  # in the order in which the decoder reads them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=("emotion", "au"), required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--visual-tokens", type=int, help="image rows that are kept; default all")
    args = parser.parse_args()
    evaluation = EvaluationSet.read(args.data, args.task, limit=args.limit)
    print(json.dumps({"benchmark": "row_importance", **measure(args.bundle, evaluation, args.visual_tokens)}))


def measure(bundle: Path, evaluation: EvaluationSet, visual_tokens: int | None = None) -> dict[str, Any]:
    """`own`, figures with the rows of each face; `difference` of those with another's, by part."""
    own = scores(bundle, evaluation, slice(0, 0), visual_tokens)
    figures = {name: round(value, 2) for name, value in own.totals().items()}
    print(
        f"{evaluation.task}, {len(own)} faces, {visual_tokens or 'all'} image rows: "
        + ", ".join(f"{key} {value:.2f}" for key, value in figures.items())
    )
    differences = {}
    for name, part in PARTS.items():
        found = compare(scores(bundle, evaluation, part, visual_tokens), own)
        differences[name] = {key: {k: round(v, 2) for k, v in vars(each).items()} for key, each in found.items()}
        spread = ", ".join(
            f"{key} {each.difference:+.2f} ({each.low:+.2f} .. {each.high:+.2f})" for key, each in found.items()
        )
        print(f"  {name} of another face: {spread}", flush=True)
    return {
        "task": evaluation.task,
        "visual_tokens": visual_tokens,
        "samples": len(own),
        "own": figures,
        "difference": differences,
    }


def scores(bundle: Path, evaluation: EvaluationSet, part: slice, visual_tokens: int | None) -> SampleScores:
    """With this part of every face's rows taken from the face that was asked about before it."""
    plain = Pipeline.encode_rows
    before: npt.NDArray[np.float32] | None = None

    def encode_rows(pipeline: Pipeline, rows: npt.NDArray[np.float32], *rest: Any) -> EncodedFace:
        nonlocal before
        mixed = rows.copy()
        if before is not None:  # the first face keeps its own
            mixed[part] = before[part]
        before = rows
        return plain(pipeline, mixed, *rest)

    with patch.object(Pipeline, "encode_rows", encode_rows):
        answers = BundleAnswerer(bundle, visual_tokens=visual_tokens).answer(evaluation.records)
    return sample_scores(answers, evaluation.annotations, task=evaluation.task)


if __name__ == "__main__":
    main()
