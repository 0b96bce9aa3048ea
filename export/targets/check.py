"""Check a bundle on the machine that will run it: files, parity, first tokens, REGE and latency. Needs no torch."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from export.targets.here import plan_here
from export.targets.latency import StageTime, stage_times
from export.targets.plan import Plan
from sdk.bench.machine import environment
from sdk.bundles.evaluation import TorchAnswers
from sdk.bundles.manifest import Manifest, check_hashes, read_manifest
from sdk.bundles.measured import Latency, Parity
from sdk.errors import ExportError, IntegrityError
from sdk.progress import Progress
from sdk.ranges import FINITE
from sdk.runtime.backends.select import open_backend
from sdk.runtime.latency import measure_latency
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference, measure_parity
from trainer.evaluation.bundle_answerer import BundleAnswerer
from trainer.evaluation.evaluate import answer
from trainer.evaluation.parity import compare_answers, open_evaluation

_HOPELESS = 10  # times the limit; what is as slow as this is not measured again
Verdict = Literal["passed", "failed", "not judged"]


@dataclass(frozen=True)
class CheckOptions:
    """What to check, and what it must reach.

    Attributes:
        device: as in `sdk.runtime.backends.select.open_backend`.
        target: key of the target that this machine is; None finds out.
        evaluation: file of the evaluation set of the export, on which REGE is compared; None leaves REGE unjudged.
        root: folder of the set's relative paths; None searches for it above the file.
        limit: number of records from the start of the set; None takes all.
        answers: folder that keeps the answers, so that a check that was stopped continues; None keeps none.
        rege_drop: points of REGE that the bundle may lose against torch.
        latency_factor: how many times the planned latency is allowed.
    """

    device: str = "auto"
    target: str | None = None
    evaluation: Path | None = None
    root: Path | None = None
    limit: int | None = None
    answers: Path | None = None
    rege_drop: float = 1.0
    latency_factor: float = 1.5

    def __post_init__(self) -> None:
        FINITE.check("rege_drop", self.rege_drop, ExportError)
        FINITE.check("latency_factor", self.latency_factor, ExportError)


@dataclass(frozen=True)
class Finding:
    """The verdict on one thing.

    Attributes:
        part: "files", "parity", "first tokens", "REGE" or "latency".
        text: one line with what was found and what was expected.
        figures: the same as JSON.
    """

    part: str
    verdict: Verdict
    text: str
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Checked:
    """The result of a check.

    Attributes:
        name: of the bundle.
        backend: that ran; "" if none was opened.
        digest: of the manifest; "" if it could not be read.
        environment: of this machine.
    """

    name: str
    backend: str
    digest: str
    findings: tuple[Finding, ...]
    environment: dict[str, str]

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(found for found in self.findings if found.verdict == "failed")

    @property
    def disturbed(self) -> str | None:
        """What other work on the machine may have to do with a stage that is too slow."""
        late = any(found.part == "latency" for found in self.failed)
        load = self.environment.get("load average", "").split(" ")[0]
        if not (late and load) or float(load) <= int(self.environment["cores"]):
            return None
        cores = self.environment["cores"]
        return f"the load average is {load} on {cores} cores: check again when the machine has nothing else to do"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {"passed": not self.failed, **dataclasses.asdict(self)}


def check_bundle(
    bundle: Path, options: CheckOptions | None = None, report: Callable[[str], None] = lambda line: None
) -> Checked:
    """Check a bundle on this machine.

    Args:
        bundle: its folder.
        options: what to check.
        report: called with one line per step.

    Raises:
        BundleNotFoundError, FormatError: this is not a bundle.
        BackendError, DependencyError: no variant runs on this device.
        DataError, ExportError: REGE was asked for, and the data or the bundle do not allow it.
    """
    options = options or CheckOptions()
    report("files ...")
    try:
        manifest = read_manifest(bundle)
        check_hashes(bundle, manifest)
    except IntegrityError as error:
        damaged = Finding("files", "failed", str(error))
        rest = (Finding(part, "not judged", "the files are not those that were sealed") for part in _PARTS)
        return Checked(bundle.resolve().name, "", "", (damaged, *rest), environment())
    stored = _stored(bundle, manifest, options)
    report("parity ...")
    pipeline = Pipeline(bundle, manifest.without_language(), open_backend(bundle, manifest, options.device))
    reference = Reference.load(bundle / manifest.reference)
    parity = measure_parity(pipeline, reference)
    findings = [
        Finding("files", "passed", f"{len(manifest.files)} files, all sizes and SHA-256 hashes match"),
        *map(_parity, parity),
        _first_tokens(manifest, pipeline.backend.variant.name, parity[-1], reference),
    ]
    report("latency ...")
    findings += _latency(bundle, pipeline, reference, options)
    findings.append(_rege(pipeline, stored, options, report))
    return Checked(manifest.name, pipeline.backend.name, manifest.digest, tuple(findings), environment())


_PARTS = ("parity", "first tokens", "latency", "REGE")


def _stored(bundle: Path, manifest: Manifest, options: CheckOptions) -> TorchAnswers | None:
    """Torch's answers; checked before anything large is opened."""
    if manifest.evaluation:
        return TorchAnswers.load(bundle / manifest.evaluation)
    if options.evaluation:
        raise ExportError(
            f"{bundle} holds no answers of the torch model to compare with; export it with --evaluation, or leave the "
            "option out here"
        )
    return None


def _parity(parity: Parity) -> Finding:
    agreement = "" if parity.agreement is None else f", {100 * parity.agreement:.1f} % of greedy tokens equal"
    text = f"{parity.stage}: relative error {parity.relative_error:.1e} (at most {parity.tolerance:.0e}){agreement}"
    return Finding("parity", _verdict(parity.passed), text, parity.model_dump())


def _first_tokens(manifest: Manifest, variant: str, decoder: Parity, reference: Reference) -> Finding:
    """The first token of each answer; one fewer than at export is allowed, since a nearly tied choice may flip."""
    sealed = {p.variant: p.first_tokens for p in manifest.parity if p.first_tokens is not None}
    if not sealed or decoder.first_tokens is None:
        return Finding("first tokens", "not judged", "the export did not record them; export the bundle again")
    expected = sealed.get(variant, min(sealed.values()))
    answers = reference.token_ids.shape[0] * reference.token_ids.shape[1]
    least = expected - 1 / answers
    text = (
        f"{decoder.first_tokens * answers:.0f} of {answers} equal torch's, {expected * answers:.0f} at export; one "
        "fewer is allowed"
    )
    figures = {"first_tokens": decoder.first_tokens, "at_export": expected, "least": least}
    return Finding("first tokens", _verdict(decoder.first_tokens >= least - 1e-9), text, figures)


def _latency(bundle: Path, pipeline: Pipeline, reference: Reference, options: CheckOptions) -> Iterator[Finding]:
    backend, manifest = pipeline.backend, pipeline.manifest
    here = plan_here(bundle, manifest, backend, options.target)
    if here.plan is None:
        latency = measure_latency(pipeline, reference)
        measured = ", ".join(f"{stage.stage} {stage.p50_ms:.1f} ms" for stage in latency)
        figures = {"measured": [stage.model_dump() for stage in latency]}
        yield Finding("latency", "not judged", f"{here.source}; measured: {measured}", figures)
        return
    for found in _least_disturbed(pipeline, reference, here.plan, options.latency_factor):
        yield _stage(found, here.source)


def _least_disturbed(pipeline: Pipeline, reference: Reference, plan: Plan, factor: float) -> tuple[StageTime, ...]:
    """Measure again, at most five times in all, while a stage is a little too slow: other work may be the reason."""
    best: dict[str, Latency] = {}
    for _ in range(5):
        for found in measure_latency(pipeline, reference):
            best[found.stage] = min(found, best.get(found.stage, found), key=lambda latency: latency.p50_ms)
        times = stage_times(best.values(), plan, factor)
        if max(time.ratio or 0 for time in times) > _HOPELESS * factor or all(time.passed for time in times):
            break
    return times


def _stage(found: StageTime, source: str) -> Finding:
    figures = {**dataclasses.asdict(found), "ratio": found.ratio, "plan": source}
    verdict = "not judged" if found.planned_ms is None else _verdict(found.passed)
    return Finding("latency", verdict, f"{found} (p95 {found.p95_ms:.1f} ms)", figures)


def _rege(
    pipeline: Pipeline, stored: TorchAnswers | None, options: CheckOptions, report: Callable[[str], None]
) -> Finding:
    if stored is None:
        return Finding("REGE", "not judged", "the bundle holds no answers of torch; export it with --evaluation")
    if options.evaluation is None:
        text = f"no --evaluation was given; the bundle holds torch's answers to {len(stored.answers)} records"
        return Finding("REGE", "not judged", text)
    evaluation = open_evaluation(options.evaluation, stored, options.root, options.limit)
    answerer = BundleAnswerer(pipeline, stored.max_new_tokens)
    kept = nullcontext(options.answers) if options.answers else tempfile.TemporaryDirectory()
    with kept as folder:
        progress = partial(Progress(report).at, what="answers for REGE")
        texts = answer(answerer, evaluation, Path(folder), progress)
    r = compare_answers(texts, stored, evaluation)
    text = (
        f"{r.task}, {r.dataset}, {r.samples} samples: torch {r.reference:.2f}, bundle {r.measured:.2f}, difference "
        f"{r.difference:+.2f} (95 %: {r.low:+.2f} .. {r.high:+.2f}, p = {r.p_value:.3f}), a drop of "
        f"{options.rege_drop:.2f} is allowed"
    )
    figures = {**r.model_dump(), "torch": stored.model, "allowed_drop": options.rege_drop}
    return Finding("REGE", _verdict(-r.difference <= options.rege_drop), text, figures)


def _verdict(passed: bool) -> Verdict:
    return "passed" if passed else "failed"
