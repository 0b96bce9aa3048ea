"""Measure a bundle against torch before it is sealed: parity, and REGE on an evaluation set.

REGE is compared sample by sample with a paired bootstrap, because the intervals of single runs are wider than any drop
that matters.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from sdk.bundles.evaluation import TorchAnswers
from sdk.bundles.manifest import Manifest
from sdk.bundles.measured import FLOAT32_TOLERANCE, Parity, RegeComparison
from sdk.errors import ExportError
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference, measure_parity
from trainer.checkpoint import Checkpoint
from trainer.evaluation.answerers import TorchAnswerer
from trainer.evaluation.bundle_answerer import Answerer, BundleAnswerer
from trainer.evaluation.evaluate import EvaluationSet, answer
from trainer.evaluation.parity import compare_answers, torch_answers

_MAX_NEW_TOKENS = 512


def check_parity(pipeline: Pipeline, reference: Reference) -> list[Parity]:
    """Measure the parity of every stage; all but a quantised decoder must agree with torch.

    Raises:
        ExportError: a graph does not compute what torch computes.
    """
    checked = []
    for parity in measure_parity(pipeline, reference):
        if parity.stage == "decoder" and pipeline.backend.variant.precision != "float32":
            parity = parity.model_copy(update={"tolerance": max(2 * parity.relative_error, FLOAT32_TOLERANCE)})
        if not parity.passed:
            raise ExportError(
                f"the {parity.stage} graph differs from torch by {parity.relative_error:.1e} (relative), at most "
                f"{parity.tolerance:.0e} is allowed; nothing was sealed"
            )
        checked.append(parity)
    return checked


def compare_rege(
    checkpoint: Checkpoint,
    bundle: Path,
    manifest: Manifest,
    evaluation: EvaluationSet,
    work: Path,
    report: Callable[[str], None],
) -> tuple[RegeComparison, TorchAnswers]:
    """REGE of a bundle minus that of the torch model on the same samples, and torch's answers.

    Args:
        checkpoint: complete, with LoRA merged.
        bundle: folder of the bundle, which need not hold its manifest yet.
        manifest: of the bundle.
        evaluation: the samples.
        work: folder that keeps the answers, so that a run that was stopped continues.
        report: called with one line per model.
    """
    folder = work / f"answers-{evaluation.digest[:12]}-{manifest.digest_of()[:12]}"
    answerers: tuple[tuple[str, Answerer], ...] = (
        ("torch", TorchAnswerer(checkpoint, "cpu", torch.float32, 8, _MAX_NEW_TOKENS)),
        ("bundle", BundleAnswerer.open(bundle, "cpu", _MAX_NEW_TOKENS, manifest=manifest)),
    )
    texts = {}
    for name, answerer in answerers:
        report(f"  {name} answers {len(evaluation.records)} records ...")
        texts[name] = answer(answerer, evaluation, folder / name, lambda done, count: None)
    stored = torch_answers(answerers[0][1].name, evaluation, texts["torch"], _MAX_NEW_TOKENS)
    return compare_answers(texts["bundle"], stored, evaluation), stored
