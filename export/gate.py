"""The gate: a bundle is measured against torch before it is sealed, and what falls short is not sealed.

On an evaluation set the bundle and the torch model answer the same questions; REGE is compared sample by sample with a
paired bootstrap, because the intervals of single runs are wider than any drop that matters.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from export.targets.plan import Plan
from sdk.bundles.manifest import Manifest
from sdk.bundles.measured import Gate, Latency, RegeComparison
from sdk.faba.rege import score
from sdk.runtime.generate import Generation
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference
from trainer.checkpoint import Checkpoint
from trainer.evaluation.answerers import Answerer, BundleAnswerer, TorchAnswerer
from trainer.evaluation.bootstrap import compare, sample_scores
from trainer.evaluation.evaluate import EvaluationSet, answer

_ROUNDS = 7
_UNNOTICED_MS = 10.0  # nobody notices less, and a busy machine's scheduler takes as much
_STRICTER = {"rege_drop": -1, "latency_factor": -1, "first_tokens": 1}  # the way in which a threshold asks more


@dataclass(frozen=True)
class GateOptions:
    """What is asked of a bundle.

    Attributes:
        evaluation: file in the FABA-Instruct layout, or None: then REGE is not measured.
        task: "au" or "emotion"; dataset: decides which action units count.
        root: folder of the relative paths; None looks for it above the file.
        limit: only the first records.
        rege_drop: points of REGE that the bundle may lose against torch.
        latency_factor: times the target's planned latency that it may take; judged where this machine is the target.
        first_tokens: share of first answer tokens that must equal torch's.
        allow: seal although it falls short; recorded.
    """

    evaluation: Path | None = None
    task: str = "emotion"
    dataset: str = "FABA"
    root: Path | None = None
    limit: int | None = None
    rege_drop: float = 1.0
    latency_factor: float = 1.5
    first_tokens: float = 0.0
    allow: bool = False

    @property
    def thresholds(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in _STRICTER}

    def ask_more(self, before: Gate) -> bool:
        """Whether a bundle that met `before` can fall short of these thresholds."""
        return any(way * (self.thresholds[name] - before.thresholds[name]) > 0 for name, way in _STRICTER.items())

    def open(self) -> "EvaluationSet | None":
        """The evaluation set, read and checked."""
        if self.evaluation is None:
            return None
        return EvaluationSet.read(self.evaluation, self.task, self.dataset, root=self.root, limit=self.limit)


def compare_rege(
    checkpoint: Checkpoint,
    bundle: Path,
    manifest: Manifest,
    evaluation: EvaluationSet,
    folder: Path,
    report: Callable[[str], None],
) -> RegeComparison:
    """REGE of a bundle minus that of the torch model on the same samples.

    Args:
        manifest: of the bundle, whose folder need not hold it yet: what was not judged shall not open.
        folder: keeps the answers; what a stopped run answered is not asked again.
    """
    limit = 512
    torch_model = TorchAnswerer(checkpoint, "cpu", torch.float32, 8, limit)
    answerers: tuple[tuple[str, Answerer], ...] = (
        ("torch", torch_model),
        ("bundle", BundleAnswerer(bundle, "cpu", limit, manifest=manifest)),
    )
    texts = {}
    for name, answerer in answerers:
        report(f"  {name} answers {len(evaluation.records)} records ...")
        texts[name] = answer(answerer, evaluation, folder / name, lambda done, count: None)
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
    )


def measure_latency(pipeline: Pipeline, reference: Reference) -> tuple[Latency, ...]:
    """Median and 95th percentile of every stage on the reference samples, after a run to warm up."""
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
            timed("landmark", lambda pixels=pixels, landmark=landmark: landmark(pixels))
        inputs = (reference.pixel_values[sample][None], features[None])
        timed("vision", lambda inputs=inputs: backend.vision(*inputs))
        begin = time.perf_counter()
        with pipeline.encode_rows(reference.rows[sample], features) as face:
            times["prefill"].append(1000 * (time.perf_counter() - begin))
            tokens = Generation(backend.decoder, face.rewind(), ids, stop_ids=(), max_new_tokens=8)
            timed("question", lambda tokens=tokens: next(tokens))
            timed("token", lambda tokens=tokens: list(tokens), 8)
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


def judge(manifest: Manifest, rege: "RegeComparison | None", plan: "Plan | None", options: GateOptions) -> Gate:
    """What falls short of the thresholds, and by how much.

    Args:
        manifest: with parity and latency.
        plan: of the target, if this machine is one.
    """
    failures = []
    if rege and -rege.difference > options.rege_drop:
        failures.append(
            f"REGE drops by {-rege.difference:.2f} points (95 %: {rege.low:+.2f} .. {rege.high:+.2f}), at most "
            f"{options.rege_drop:.2f} are allowed"
        )
    for parity in manifest.parity:
        if parity.first_tokens is not None and parity.first_tokens < options.first_tokens:
            failures.append(
                f"{100 * parity.first_tokens:.1f} % of the first tokens equal torch's, "
                f"{100 * options.first_tokens:.1f} % are asked for"
            )
    return Gate(
        rege=rege,
        thresholds=options.thresholds,
        failures=tuple(failures),
        overruled=bool(failures) and options.allow,
        slow=tuple(_too_slow(manifest, plan, options.latency_factor)) if plan else (),
    )


def _too_slow(manifest: Manifest, plan: Plan, factor: float) -> Iterator[str]:
    p50 = {latency.stage: latency.p50_ms for latency in manifest.latency}
    first = sum(p50[stage] for stage in ("vision", "prefill", "question"))
    planned = {"first token": (first, plan.first_token_ms), "token": (p50["token"], 1000 / plan.tokens_per_s)}
    for name, (found, expected) in planned.items():
        if found > max(factor * expected, _UNNOTICED_MS):
            yield f"{name}: {found:.1f} ms, planned {expected:.1f} ms, at most {factor} times that"
