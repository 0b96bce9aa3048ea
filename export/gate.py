"""The gate: a bundle that falls short of the thresholds is not sealed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from export.measure import compare_rege
from export.merge import merged_checkpoint
from export.options import GateOptions
from export.prepare import ExportJob
from export.report import write_report
from export.stages import Stages
from export.targets.latency import stage_times
from export.targets.plan import Plan
from sdk.bundles.evaluation import TorchAnswers
from sdk.bundles.files import FileRecord, file_sha256
from sdk.bundles.manifest import MANIFEST, Manifest, read_manifest
from sdk.bundles.measured import Gate, Parity, RegeComparison
from sdk.errors import ExportError
from sdk.files import write_file
from trainer.checkpoint import Checkpoint

# A decoder counts as broken if it agrees with torch neither on half of the first tokens, which depend on no choice of
# its own, nor on the first two of the 24 tokens of an answer. A quantised one follows torch's answer until a choice is
# nearly tied, and may then go on in other words, so a sound one can differ in most tokens. The golden checkpoint, 64
# wide and rounded to 4 bits, keeps half of its first tokens or more; random weights keep a quarter, and none at 7B.
_LEAST_FIRST_TOKENS, _LEAST_TOKENS = 1 / 2, 2 / 24


@dataclass(frozen=True)
class Judgement:
    """The verdict on a bundle, and torch's answers if REGE was compared just now."""

    gate: Gate
    answers: TorchAnswers | None


def pass_gate(
    job: ExportJob, merged: Checkpoint, manifest: Manifest, bundle: Path, report: Callable[[str], None]
) -> Manifest:
    """Judge a bundle that is not sealed yet, store torch's answers in it, and write the report.

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
    found = judge(job, lambda: merged, manifest, bundle, report)
    gate, manifest = found.gate, _store(found, manifest, bundle)
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
    found = judge(job, partial(merged_checkpoint, job, stages), manifest, out, stages.report)
    gate, asked = found.gate, options.gate
    if gate.shortfalls and not asked.allow:
        raise ExportError(
            f"{out} holds this export already and stays as it is, but does not meet the current thresholds: "
            f"{'; '.join(gate.shortfalls)}; export with other options, or --allow to overrule"
        )
    before = manifest.gate or Gate(rege=None, thresholds=GateOptions().thresholds, failures=(), overruled=False)
    elsewhere = {*_unjudged_latency(job)} if options.target else set()
    known = found.answers is None and {*gate.slow} <= {*before.slow} and elsewhere <= {*before.unjudged}
    if known and gate.rege == before.rege and not asked.stricter_than(before):
        stages.report(f"{out} holds this export already")
        return manifest
    replaced, manifest = manifest.evaluation, _store(found, manifest, out)
    write_report(manifest, options.report, allowed=asked.allow)
    write_file(out / MANIFEST, manifest.to_json().encode())
    if replaced and replaced != manifest.evaluation:
        (out / replaced).unlink()
    stages.report(f"{out} holds this export already; it was judged again, manifest and report record the verdict")
    return read_manifest(out)


def judge(
    job: ExportJob,
    merged: Callable[[], Checkpoint],
    manifest: Manifest,
    bundle: Path,
    report: Callable[[str], None],
) -> Judgement:
    """Compare the figures of a bundle with the thresholds.

    Args:
        job: the export.
        merged: returns the checkpoint that REGE is compared with; called only if the bundle holds no answers of torch
            to these records.
        manifest: of the bundle, with parity and latency.
        bundle: folder of its files.
        report: called with one line per step.
    """
    asked, evaluation = job.options.gate, job.evaluation
    rege, answers = manifest.gate.rege if manifest.gate else None, None
    if evaluation and (rege is None or rege.data != evaluation.digest or manifest.evaluation is None):
        work, device = job.options.work, job.options.device
        rege, answers = compare_rege(merged(), bundle, manifest, evaluation, work, report, device)
    failures = tuple(_failures(manifest, rege, asked))
    gate = Gate(
        rege=rege,
        thresholds=asked.thresholds,
        failures=failures,
        overruled=bool(failures) and asked.allow,
        slow=tuple(_too_slow(manifest, job.plan, asked.latency_factor)) if job.plan else (),
        unjudged=tuple(_unjudged(job, manifest, rege)),
    )
    return Judgement(gate, answers)


def _store(found: Judgement, manifest: Manifest, bundle: Path) -> Manifest:
    """Write torch's answers into the folder of a bundle; returns the manifest with the verdict and this file."""
    update: dict[str, object] = {"gate": found.gate}
    if found.answers:
        name = f"evaluation-{found.answers.data[:12]}.json"  # never overwrites the file that a sealed manifest names
        write_file(bundle / name, (found.answers.model_dump_json(indent=1) + "\n").encode())
        record = FileRecord(size=(bundle / name).stat().st_size, sha256=file_sha256(bundle / name))
        kept = {path: file for path, file in manifest.files.items() if path != manifest.evaluation}
        update |= {"evaluation": name, "files": {**kept, name: record}}
    return manifest.model_copy(update=update)


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
        if _is_broken(parity):
            yield (
                f"{100 * (parity.agreement or 0):.1f} % of the tokens of {parity.variant} equal torch's, and "
                f"{100 * (parity.first_tokens or 0):.0f} % of the first ones (relative error "
                f"{parity.relative_error:.2f}): it does not compute what torch computes"
            )


def _is_broken(parity: Parity) -> bool:
    if parity.agreement is None or parity.first_tokens is None:
        return False
    return parity.agreement < _LEAST_TOKENS and parity.first_tokens < _LEAST_FIRST_TOKENS


def _too_slow(manifest: Manifest, plan: Plan, factor: float) -> Iterator[str]:
    times = {found.stage: found for found in stage_times(manifest.latency, plan, factor)}
    return (str(times[stage]) for stage in ("first token", "token") if not times[stage].passed)


def _unjudged(job: ExportJob, manifest: Manifest, rege: RegeComparison | None) -> Iterator[str]:
    """What this export cannot say about the bundle, and the command that can."""
    if rege is None:
        yield "REGE: no evaluation set was given; export with --evaluation, then emola check judges it on any machine"
    yield from _unjudged_latency(job)
    for variant in manifest.variants:
        if manifest.environment.get(variant.name) != f"measured on {variant.device}":
            yield (
                f"parity of {variant.name}: not judged on {variant.device} here; run emola check --device "
                f"{variant.device} there"
            )


def _unjudged_latency(job: ExportJob) -> Iterator[str]:
    target = job.options.target
    if target is None:
        yield "latency: no --target was given; run emola check on the machine that will run it"
    elif job.plan is None:
        yield f"latency on {target}: not judged here; run emola check --target {target} there"
