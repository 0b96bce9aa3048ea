"""Measure a bundle against torch before it is sealed: parity, latency and REGE on an evaluation set.

REGE is compared sample by sample with a paired bootstrap, because the intervals of single runs are wider than any drop
that matters.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from export.progress import Progress
from sdk.bundles.manifest import Manifest
from sdk.bundles.measured import FLOAT32_TOLERANCE, Latency, Parity, RegeComparison
from sdk.errors import ExportError
from sdk.faba.rege import score
from sdk.runtime.generate import Generation
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference, measure_parity
from trainer.checkpoint import Checkpoint
from trainer.evaluation.answerers import Answerer, BundleAnswerer, TorchAnswerer
from trainer.evaluation.bootstrap import compare, sample_scores
from trainer.evaluation.evaluate import EvaluationSet, answer
from trainer.model.processor import Device

_ROUNDS = 7
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
) -> RegeComparison:
    """REGE of a bundle minus that of the torch model on the same samples.

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
        "bundle": lambda: BundleAnswerer(bundle, "cpu", _MAX_NEW_TOKENS, manifest=manifest),
    }  # opened one after the other: memory never holds both
    texts = {}
    for name, opened in answerers.items():
        how = f" in {arithmetic}" if name == "torch" else ""
        report(f"  {name} answers {len(evaluation.records)} records{how} ...")
        texts[name] = answer(opened(), evaluation, folder / name, partial(Progress(report).at, what=f"{name} answers"))
    options = {"task": evaluation.task, "dataset": evaluation.dataset}
    scores = {name: sample_scores(found, evaluation.annotations, **options) for name, found in texts.items()}
    found = compare(scores["bundle"], scores["torch"])["s_rege"]
    return RegeComparison(
        task=evaluation.task,
        dataset=evaluation.dataset,
        samples=len(evaluation.records),
        reference=score(texts["torch"], evaluation.annotations, **options).s_rege,
        measured=score(texts["bundle"], evaluation.annotations, **options).s_rege,
        difference=found.difference,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        data=evaluation.digest,
        computed=str(arithmetic),
    )


def measure_latency(pipeline: Pipeline, reference: Reference) -> tuple[Latency, ...]:
    """Median and 95th percentile of every stage on the reference samples, after one run that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ("landmark", "vision", "prefill", "question", "token")}
    backend, ids = pipeline.backend, pipeline.question_ids(reference.tasks[0])

    def timed(name: str, action: Callable[[], object], parts: int = 1) -> None:
        begin = time.perf_counter()
        action()
        times[name].append(1000 * (time.perf_counter() - begin) / parts)

    for index in range(_ROUNDS + 1):
        sample = index % len(reference.rows)
        features = reference.landmark_features[sample]
        if backend.landmark is not None and len(reference.landmark_pixels):
            pixels, landmark = reference.landmark_pixels[sample][None], backend.landmark
            timed("landmark", partial(landmark, pixels))
        inputs = (reference.pixel_values[sample][None], features[None])
        timed("vision", partial(backend.vision, *inputs))
        begin = time.perf_counter()
        with pipeline.encode_rows(reference.rows[sample], features) as face:
            times["prefill"].append(1000 * (time.perf_counter() - begin))
            tokens = Generation(backend.decoder, face.rewind(), ids, stop_ids=(), max_new_tokens=8)
            timed("question", partial(next, tokens))
            timed("token", partial(list, tokens), 8)
    warm = {name: found[1:] for name, found in times.items() if found}
    return tuple(
        Latency(
            variant=backend.name,
            stage=name,
            p50_ms=round(float(np.median(found)), 3),
            p95_ms=round(float(np.percentile(found, 95)), 3),
        )
        for name, found in warm.items()
    )
