"""Measure a bundle against torch before it is sealed: parity, and REGE on an evaluation set.

REGE is compared sample by sample with a paired bootstrap, because the intervals of single runs are wider than any drop
that matters.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sdk.bundles.evaluation import TorchAnswers
from sdk.bundles.manifest import Manifest
from sdk.bundles.measured import FLOAT32_TOLERANCE, Parity, RegeComparison
from sdk.errors import ExportError
from sdk.progress import Progress
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference, measure_parity
from trainer.checkpoint import Checkpoint
from trainer.evaluation.answerers import TorchAnswerer
from trainer.evaluation.bundle_answerer import Answerer, BundleAnswerer
from trainer.evaluation.evaluate import EvaluationSet, answer
from trainer.evaluation.parity import compare_answers, torch_answers
from trainer.model.processor import Device

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
    device: Device = "auto",
) -> tuple[RegeComparison, TorchAnswers]:
    """REGE of a bundle minus that of the torch model on the same samples, and torch's answers.

    Args:
        checkpoint: complete, with LoRA merged.
        bundle: folder of the bundle, which need not hold its manifest yet.
        manifest: of the bundle.
        evaluation: the samples.
        work: folder that keeps the answers, so that a run that was stopped continues.
        report: called with one line per model, and with the time left.
        device: of the torch model, as in `choose_arithmetic`.
    """
    folder = work / f"answers-{evaluation.digest[:12]}-{manifest.digest_of()[:12]}"
    arithmetic = checkpoint.arithmetic(device)
    answerers: dict[str, Callable[[], Answerer]] = {
        "torch": lambda: TorchAnswerer(checkpoint, arithmetic, 8, _MAX_NEW_TOKENS),
        "bundle": lambda: BundleAnswerer.open(bundle, "cpu", _MAX_NEW_TOKENS, manifest=manifest.without_language()),
    }  # opened one after the other: memory never holds both
    texts, names = {}, {}
    for name, open_answerer in answerers.items():
        how = f" in {arithmetic}" if name == "torch" else ""
        report(f"  {name} answers {len(evaluation.records)} records{how} ...")
        answerer = open_answerer()
        progress = partial(Progress(report).at, what=f"{name} answers")
        texts[name], names[name] = answer(answerer, evaluation, folder / name, progress), answerer.name
        del answerer
    stored = torch_answers(names["torch"], evaluation, texts["torch"], _MAX_NEW_TOKENS)
    found = compare_answers(texts["bundle"], stored, evaluation)
    return found.model_copy(update={"computed": str(arithmetic)}), stored
