"""The steps of benchmarks/rehearsal.py: the command of each, and what is asserted about its result."""

import json
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from full_size_checkpoint import GOLDEN, RECORDS, VOCABULARY, Shape
from watch import Kill, Run, Usage, as_row, watch

from sdk.bundles.files import file_sha256
from sdk.bundles.manifest import MANIFEST, read_manifest
from sdk.bundles.measured import Parity
from sdk.commands.demo import PICTURES
from sdk.errors import ExportError
from sdk.files import append_journal, read_journal

HERE = Path(__file__).parent
STAGES = ("merge", "calibrate", "gptq", "reference", "graphs", "answers", "seal")
TRAIN = GOLDEN / "data" / RECORDS
SMALL_FILES = 30e6  # bytes at most of tokenizer, reference vectors, rotary tables and the graphs themselves
_EMOLA = (sys.executable, "-m", "sdk")
_TRIES = 3  # to kill in a short stage
_AT_ONCE_S = 1.0  # a stage that takes less is killed when it begins


@dataclass(frozen=True)
class Verdict:
    """What a step showed: a text for the table, the figures in it, and the assertions that failed."""

    result: str
    figures: dict[str, Any] = field(default_factory=dict)
    failures: tuple[str, ...] = ()


Step = tuple[Callable[[str], Run], Callable[[Run], Verdict]]


@dataclass(frozen=True)
class Steps:
    """The steps of one rehearsal.

    Attributes:
        folder: of the rehearsal.
        shape: of the model.
        layers: of its decoder.
        quantize: the exports.
        records: that GPTQ calibrates on.
        kill: stages in which one more export is killed.
        journal: file of finished steps and stages.
        cuda: whether the bundles have a variant for an NVIDIA GPU, which is then checked and used.
    """

    folder: Path
    shape: Shape
    layers: int
    quantize: list[str]
    records: int
    kill: list[str]
    journal: Path
    cuda: bool = False

    def all(self) -> dict[str, Step]:
        """Measurement and judgement of each step by its name, in order."""
        steps: dict[str, Step] = {"checkpoint": (self._write_checkpoint, self._judge_checkpoint)}
        for kind in self.quantize:
            steps[f"export {kind}"] = (
                lambda name, kind=kind: self._export(name, kind, self.bundle(kind)),
                lambda run, kind=kind: self._judge_export(run, kind),
            )
        best = self.quantize[-1]
        if self.kill:
            steps[f"export {best}, killed"] = (self._export_killed, self._judge_killed)
        for kind in self.quantize:
            steps[f"verify {kind}"] = (self._emola("verify", str(self.bundle(kind)), "--json"), _judge_verify)
        bundle, photo = str(self.bundle(best)), str(PICTURES / "astronaut.jpg")
        device = ("--device", "cuda") if self.cuda else ()
        steps["check"] = (self._emola("check", bundle, "--json", *device), _judge_check)
        analyze = ("analyze", photo, "--bundle", bundle, "--max-tokens", "32", "--json", *device)
        steps["analyze"] = (self._emola(*analyze), _judge_analyze)
        steps["bench"] = (self._emola("bench", "--bundle", bundle, "--rounds", "3", "--json", *device), _judge_bench)
        return steps

    def bundle(self, kind: str) -> Path:
        """The folder of the bundle of one export."""
        return self.folder / "bundles" / f"emola-{kind}"

    def _emola(self, *words: str) -> Callable[[str], Run]:
        return lambda name: watch([*_EMOLA, *words], self.folder)

    def _write_checkpoint(self, name: str) -> Run:
        self._check_found()
        self._check_disk()
        script, network = HERE / "full_size_checkpoint.py", HERE.parent / "tests/landmark_network.py"
        tiny = ["--tiny"] if self.shape.text["hidden_size"] < 4096 else []
        run = watch([sys.executable, str(script), str(self.folder), "--layers", str(self.layers), *tiny], self.folder)
        if run.code == 0:
            run.code = watch([sys.executable, str(network), str(self._landmark)], self.folder).code
        return run

    @property
    def _landmark(self) -> Path:
        return self.folder / "landmark.onnx"

    def _check_found(self) -> None:
        """A base that is there already must have this shape."""
        config = self.folder / "base/config.json"
        if not config.is_file():
            return
        found, expected = json.loads(config.read_text()), self.shape.decoder_config(self.layers)
        for name in ("num_hidden_layers", "hidden_size"):
            if found.get(name) != expected[name]:
                raise ExportError(
                    f"{config}: {name} is {found.get(name)}, expected {expected[name]}; choose another folder"
                )

    def _check_disk(self) -> None:
        weights = self.layers * self.shape.layer_weights() + 2 * VOCABULARY * self.shape.text["hidden_size"]
        needed, free = 2 * weights, shutil.disk_usage(self.folder).free
        if free < needed and not (self.folder / "base").is_dir():
            needed_gb, free_gb = needed / 1e9, free / 1e9
            raise ExportError(f"{self.folder}: the base takes {needed_gb:.1f} GB, {free_gb:.1f} GB are free")

    def _judge_checkpoint(self, run: Run) -> Verdict:
        return _ended(run) or Verdict(f"{self.layers} layers")

    def _export(self, name: str, kind: str, out: Path, kill: Kill | None = None) -> Run:
        command = [*_EMOLA, "export", str(self.folder / "adapter"), str(out), "--base", str(self.folder / "base")]
        command += ["--vision-tower", str(self.folder / "clip"), "--landmark-model", str(self._landmark), "--allow"]
        command += ["--quantize", kind, "--answers", str(TRAIN)]
        command += ["--cuda"] if self.cuda else []
        if kind == "gptq":
            command += ["--calibration", str(self.folder / "data" / RECORDS), "-n", str(self.records)]

        def finished(stage: str, usage: Usage) -> None:
            append_journal(self.journal, {"step": name, "stage": stage, **as_row(usage)})

        return watch(command, self.folder, STAGES, kill=kill, finished=finished)

    def _judge_export(self, run: Run, kind: str) -> Verdict:
        if failed := _ended(run):
            return failed
        manifest, decoder = read_manifest(self.bundle(kind)), self._decoder(kind)
        size, allowed = sum(record.size for record in manifest.files.values()), self.largest_bundle()
        failures = []
        if size > allowed:
            failures.append(f"the bundle has {size / 1e9:.3f} GB, at most {allowed / 1e9:.3f} GB are expected")
        if kind == "gptq" and "int4" in self.quantize:
            rounded = self._decoder("int4").relative_error
            if decoder.relative_error >= rounded:
                failures.append(f"GPTQ's error {decoder.relative_error:.3f} is not below rounding's {rounded:.3f}")
        figures = {"size_gb": size / 1e9, "relative_error": decoder.relative_error, "agreement": decoder.agreement}
        error, shares = (
            decoder.relative_error,
            [100 * (share or 0) for share in (decoder.first_tokens, decoder.agreement)],
        )
        result = (
            f"{size / 1e9:.2f} GB; logits {100 * error:.1f} % off; equal to torch: {shares[0]:.0f} % of "
            f"first, {shares[1]:.0f} % of greedy tokens"
        )
        return Verdict(result, {**figures, "first_tokens": decoder.first_tokens}, tuple(failures))

    def _decoder(self, kind: str) -> Parity:
        parities = read_manifest(self.bundle(kind)).parity
        return next(parity for parity in reversed(parities) if parity.stage == "decoder")

    def largest_bundle(self) -> float:
        """Bytes: linear layers in 4 bits, the head in 8, a 32-bit scale for 128 weights, all else in 16 bits."""
        table = VOCABULARY * self.shape.text["hidden_size"]
        layers = self.layers * self.shape.layer_weights()
        scales = 4 / 128 * (layers + table)
        return layers / 2 + table + scales + 2 * table + 2 * self.shape.encoder_weights() + SMALL_FILES

    def _export_killed(self, name: str) -> Run:
        """Export once more, killed in each of the stages, then to the end."""
        out, kind = self._killed_bundle, self.quantize[-1]
        killed = {row["killed"] for row in read_journal(self.journal) if "killed" in row}
        total = Run()
        for stage in (stage for stage in self.kill if stage not in killed):
            if not self._kill_in(stage, name, total):
                return Run(
                    1, total.usage, total.stages, lines=[f"the export was not killed in {stage}, {_TRIES} times"]
                )
            append_journal(self.journal, {"step": name, "killed": stage})
            print(f"killed in {stage}", file=sys.stderr, flush=True)
        run = self._export(name, kind, out)
        _add(total, run)
        total.code, total.lines = run.code, run.lines
        return total

    def _kill_in(self, stage: str, name: str, total: Run) -> bool:
        """Kill the export in a stage; if that stage was over already, begin again without what was done."""
        for _ in range(_TRIES):
            run = self._export(name, self.quantize[-1], self._killed_bundle, self._moment(stage))
            _add(total, run)
            if run.code == -signal.SIGKILL and run.last_stage == stage:
                return True
            shutil.rmtree(self._killed_bundle.parent, ignore_errors=True)
        return False

    @property
    def _killed_bundle(self) -> Path:
        """A bundle of the same name, because its name is in its manifest."""
        return self.folder / "killed" / self.bundle(self.quantize[-1]).name

    def _moment(self, stage: str) -> Kill:
        """In a stage: after half of the layers, or a quarter of the time that it took before, or when it begins."""
        if stage == "gptq":
            return Kill(stage, line=rf"layer {max(1, self.layers // 2)} of")
        name = f"export {self.quantize[-1]}"
        rows = [row for row in read_journal(self.journal) if row["step"] == name and row.get("stage") == stage]
        seconds = 60 * rows[-1]["minutes"] if rows else 0
        return Kill(stage, seconds / 4 if seconds > _AT_ONCE_S else 0)

    def _judge_killed(self, run: Run) -> Verdict:
        if failed := _ended(run):
            return failed
        straight, out = self.bundle(self.quantize[-1]), self._killed_bundle
        killed = [row["killed"] for row in read_journal(self.journal) if "killed" in row]
        failures = [f"{name} differs from the export that was not killed" for name in differences(straight, out)]
        expected = {out.name, f"{out.name}.report.html"}
        failures += [f"{path.name} is left over" for path in out.parent.iterdir() if path.name not in expected]
        same = "other bytes" if failures else "the same bytes"
        if not failures:
            shutil.rmtree(out.parent)
        return Verdict(f"killed in {', '.join(killed)}; {same}", {"killed": killed}, tuple(failures))


def differences(one: Path, other: Path) -> list[str]:
    """Files that differ between two bundles; of the manifest the digest counts, which excludes measured times."""
    names = {path.relative_to(root).as_posix() for root in (one, other) for path in root.rglob("*") if path.is_file()}
    found = [name for name in sorted(names - {MANIFEST}) if _hash(one / name) != _hash(other / name)]
    return found + [MANIFEST] * (read_manifest(one).digest != read_manifest(other).digest)


def _hash(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None


def _add(total: Run, part: Run) -> None:
    total.usage.add(part.usage)
    for stage, usage in part.stages.items():
        total.stages.setdefault(stage, Usage()).add(usage)


def _ended(run: Run) -> Verdict | None:
    """The verdict of a process that failed; None if it did not."""
    if run.code == 0:
        return None
    last = next((line for line in reversed(run.lines) if line.strip()), "no message")
    return Verdict("failed", {}, (f"exit status {run.code}: {last.strip()}",))


def _judge_verify(run: Run) -> Verdict:
    if failed := _ended(run):
        return failed
    found = json.loads(run.output)
    errors = {parity["stage"]: parity["relative_error"] for parity in found["parity"]}
    text = ", ".join(f"{stage} {error:.1e}" for stage, error in errors.items())
    failures = tuple(f"{parity['stage']} is above its tolerance" for parity in found["parity"] if not parity["passed"])
    return Verdict(f"{found['files']} files; relative error {text}", errors, failures)


def _judge_check(run: Run) -> Verdict:
    """Files and parity must pass; what depends on the load of the machine or on trained weights is reported only."""
    try:
        findings = json.loads(run.output)["findings"]
    except (ValueError, KeyError):
        return _ended(run) or Verdict("failed", {}, ("emola check --json printed no findings",))
    run.code = 0 if run.code == 1 else run.code  # 1 is a verdict
    parts: dict[str, list[str]] = {}
    for finding in findings:
        named = parts.setdefault(finding["verdict"], [])
        named += [finding["part"]] * (finding["part"] not in named)
    failed = [f for f in findings if f["verdict"] == "failed" and f["part"] in ("files", "parity")]
    text = "; ".join(f"{verdict}: {', '.join(named)}" for verdict, named in parts.items())
    return Verdict(text, {"findings": findings}, tuple(f"{f['part']}: {f['text']}" for f in failed))


def _judge_analyze(run: Run) -> Verdict:
    if failed := _ended(run):
        return failed
    found = json.loads(run.output)
    texts = [(face.get("emotion") or {}).get("description") or "" for face in found["faces"]]
    failures = () if any(text.strip() for text in texts) else ("no face with a text",)
    seconds = sum(found["timing_ms"].values()) / 1000
    return Verdict(f"{len(texts)} face, {max(map(len, texts), default=0)} characters", {"seconds": seconds}, failures)


def _judge_bench(run: Run) -> Verdict:
    if failed := _ended(run):
        return failed
    report = json.loads(run.output)
    medians = {stage["name"]: stage["median_ms"] for stage in report["stages"]}
    footprint = report["footprints"][-1]
    shown = ", ".join(f"{name} {medians[name]:,.0f} ms" for name in ("vision", "prefill", "question", "step"))
    memory = f"{footprint['opened_mb'] / 1000:.2f} GB opened, {footprint['peak_mb'] / 1000:.2f} GB at the peak"
    return Verdict(f"{shown}; {memory}", {"median_ms": medians, "footprint": footprint})
