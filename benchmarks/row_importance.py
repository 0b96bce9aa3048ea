"""Measure REGE of a bundle when the image rows, or the landmark row, of a face come from the previous face.

    python benchmarks/row_importance.py BUNDLE --data eval_au_anno.json --task au [--limit 325] [--visual-tokens N]

Table 8 of the paper compares models that are trained without one kind of row. This script asks the same of one finished
model: rows that it does not use can come from another face without a loss. If landmarks align the crop, as in the model
in the package, the tower still uses the landmarks of the right face. `--visual-tokens` limits the number of image rows
that are read and swapped. Differences are by paired bootstrap.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from sdk.runtime.encoded_face import EncodedFace
from sdk.runtime.pipeline import Pipeline
from trainer.evaluation.bootstrap import SampleScores, compare, sample_scores
from trainer.evaluation.bundle_answerer import BundleAnswerer
from trainer.evaluation.evaluate import EvaluationSet

PARTS = {"image rows": slice(0, -1), "landmark row": slice(-1, None)}  # in the order in which the decoder reads them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=("emotion", "au"), required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--visual-tokens", type=int, help="number of image rows that are kept (default all)")
    args = parser.parse_args()
    evaluation = EvaluationSet.read(args.data, args.task, limit=args.limit)
    print(json.dumps({"benchmark": "row_importance", **measure(args.bundle, evaluation, args.visual_tokens)}))


def measure(bundle: Path, evaluation: EvaluationSet, visual_tokens: int | None = None) -> dict[str, Any]:
    """Return `own`, the figures with each face's rows, and `difference`, the change with another face's, by part."""
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
    """Return scores where this part of the rows of every face comes from the previous face."""
    original = Pipeline.encode_rows
    previous: npt.NDArray[np.float32] | None = None

    def encode_rows(pipeline: Pipeline, rows: npt.NDArray[np.float32], *rest: Any) -> EncodedFace:
        nonlocal previous
        mixed = rows.copy()
        if previous is not None:  # the first face keeps its own rows
            mixed[part] = previous[part]
        previous = rows
        return original(pipeline, mixed, *rest)

    with patch.object(Pipeline, "encode_rows", encode_rows):
        answers = BundleAnswerer.open(bundle, visual_tokens=visual_tokens).answer(evaluation.records)
    return sample_scores(answers, evaluation.annotations, task=evaluation.task)


if __name__ == "__main__":
    main()
