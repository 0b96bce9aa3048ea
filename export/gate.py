"""The gate: a bundle that falls short of the thresholds is not sealed."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from export.measure import compare_rege
from export.merge import merged_checkpoint
from export.options import GateOptions
from export.prepare import ExportJob
from export.report import write_report
from export.stages import Stages
from export.targets.plan import Plan
from sdk.bundles.manifest import MANIFEST, Manifest, read_manifest
from sdk.bundles.measured import Gate, RegeComparison
from sdk.errors import ExportError
from sdk.files import write_file
from trainer.checkpoint import Checkpoint

_MIN_SLOW_MS = 10.0  # shorter times are never too slow: nobody notices them, and a busy machine varies by as much


def pass_gate(
    job: ExportJob, merged: Checkpoint, manifest: Manifest, bundle: Path, report: Callable[[str], None]
) -> Manifest:
    """Judge a bundle that is not sealed yet, and write the report.

    Args:
        job: the export.
        merged: the checkpoint that REGE is compared with.
        manifest: of the bundle, with parity and latency.
        bundle: folder of its files.
        report: called with one line per step.

    Returns:
        The manifest with the verdict.

    Raises:
        ExportError: the bundle falls short.
    """
    options = job.options
    gate = judge(job, lambda: merged, manifest, bundle, report)
    manifest = manifest.model_copy(update={"gate": gate})
    write_report(manifest, options.report, allowed=options.gate.allow)
    if gate.shortfalls and not options.gate.allow:
        raise ExportError(
            f"not sealed: {'; '.join(gate.shortfalls)}. See {options.report}; export with other options, or --allow to "
            "overrule"
        )
    return manifest


def judge_again(job: ExportJob, manifest: Manifest, stages: Stages) -> Manifest:
    """Judge a sealed bundle by what is asked now; if that is more than before, manifest and report record the verdict.

    Args:
        job: the export.
        manifest: of the bundle at `job.options.out`.
        stages: of this export; used if REGE is measured.

    Returns:
        The manifest of the bundle.

    Raises:
        ExportError: the bundle does not meet the current thresholds; it stays as it is.
    """
    options, out = job.options, job.options.out
    gate = judge(job, partial(merged_checkpoint, job, stages), manifest, out, stages.report)
    if gate.shortfalls and not options.gate.allow:
        raise ExportError(
            f"{out} holds this export already and stays as it is, but does not meet the current thresholds: "
            f"{'; '.join(gate.shortfalls)}; export with other options, or --allow to overrule"
        )
    before = manifest.gate or Gate(rege=None, thresholds=GateOptions().thresholds, failures=(), overruled=False)
    if gate.rege == before.rege and {*gate.slow} <= {*before.slow} and not options.gate.stricter_than(before):
        stages.report(f"{out} holds this export already")
        return manifest
    manifest = manifest.model_copy(update={"gate": gate})
    write_report(manifest, options.report, allowed=options.gate.allow)
    write_file(out / MANIFEST, manifest.to_json().encode())
    stages.report(f"{out} holds this export already; it was judged again, manifest and report record the verdict")
    return read_manifest(out)


def judge(
    job: ExportJob,
    merged: Callable[[], Checkpoint],
    manifest: Manifest,
    bundle: Path,
    report: Callable[[str], None],
) -> Gate:
    """Compare the figures of a bundle with the thresholds.

    Args:
        job: the export.
        merged: returns the checkpoint that REGE is compared with; called only if the manifest holds no REGE on these
            records.
        manifest: of the bundle, with parity and latency.
        bundle: folder of its files.
        report: called with one line per step.
    """
    asked, evaluation = job.options.gate, job.evaluation
    rege = manifest.gate.rege if manifest.gate else None
    if evaluation and (rege is None or rege.data != evaluation.digest):
        rege = compare_rege(merged(), bundle, manifest, evaluation, job.options.work, report, job.options.device)
    failures = tuple(_failures(manifest, rege, asked))
    return Gate(
        rege=rege,
        thresholds=asked.thresholds,
        failures=failures,
        overruled=bool(failures) and asked.allow,
        slow=tuple(_too_slow(manifest, job.plan, asked.latency_factor)) if job.plan else (),
    )


def _failures(manifest: Manifest, rege: RegeComparison | None, asked: GateOptions) -> Iterator[str]:
    if rege and -rege.difference > asked.rege_drop:
        yield (
            f"REGE drops by {-rege.difference:.2f} points (95 %: {rege.low:+.2f} .. {rege.high:+.2f}), at most "
            f"{asked.rege_drop:.2f} are allowed"
        )
    for parity in manifest.parity:
        if parity.first_tokens is not None and parity.first_tokens < asked.first_tokens:
            yield (
                f"{100 * parity.first_tokens:.1f} % of the first tokens equal torch's, "
                f"{100 * asked.first_tokens:.1f} % are required"
            )


def _too_slow(manifest: Manifest, plan: Plan, factor: float) -> Iterator[str]:
    p50 = {latency.stage: latency.p50_ms for latency in manifest.latency}
    first = sum(p50[stage] for stage in ("vision", "prefill", "question"))
    planned = {"first token": (first, plan.first_token_ms), "token": (p50["token"], 1000 / plan.tokens_per_s)}
    for name, (found, expected) in planned.items():
        if found > max(factor * expected, _MIN_SLOW_MS):
            yield f"{name}: {found:.1f} ms, planned {expected:.1f} ms, at most {factor} times that"
