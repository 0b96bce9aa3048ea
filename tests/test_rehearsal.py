"""benchmarks/rehearsal.py on a narrow checkpoint: the table, a stop, SIGKILL in each stage of the export."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")

ROOT = Path(__file__).parents[1]
STAGES = ["merge", "calibrate", "gptq", "reference", "graphs", "answers", "seal"]
STEPS = ["checkpoint", "export int4", "export gptq", "export gptq, killed", "verify int4", "verify gptq"]
STEPS += ["check", "analyze", "bench"]


def command(folder, layers=2):
    script = str(ROOT / "benchmarks/rehearsal.py")
    return [sys.executable, script, str(folder), "--tiny", "--layers", str(layers), "--kill", *STAGES]


def journal(folder):
    path = folder / "rehearsal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read(path):
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """(folder, report, stdout) of a rehearsal that was killed in its second step and started again."""
    folder = tmp_path_factory.mktemp("rehearsal")
    stopped = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while stopped.poll() is None and not any(row.get("stage") == "merge" for row in journal(folder)):
        time.sleep(0.02)
    stopped.kill()
    assert stopped.wait() == -signal.SIGKILL
    time.sleep(0.5)
    assert not [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if str(folder) in read(entry)], (
        "a child goes on"
    )
    assert [row["step"] for row in journal(folder) if "failures" in row] == ["checkpoint"]
    done = subprocess.run(command(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return folder, json.loads(done.stdout.splitlines()[-1]), done.stdout


@pytest.fixture
def script(monkeypatch):
    """Import a module of the folder benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_the_table_has_every_step_and_stage(rehearsed):
    _, report, output = rehearsed
    rows = [line.split("|")[1].strip() for line in output.splitlines() if line.startswith("|")][2:]
    rounded = [f"- {stage}" for stage in STAGES if stage not in ("calibrate", "gptq")]
    calibrated = [f"- {stage}" for stage in STAGES]
    stages = {"export int4": rounded, "export gptq": calibrated, "export gptq, killed": calibrated}
    assert rows == [line for step in STEPS for line in (f"**{step}**", *stages.get(step, []))]
    for row in report["steps"]:
        assert row["minutes"] > 0, row
        assert 0.02 < row["anonymous_gb"] < row["resident_gb"] + 1 < 4, row
    assert {"processor", "cores", "memory", "torch", "onnxruntime"} <= {*report["environment"]}


def test_its_assertions_hold_and_the_figures_are_the_manifests(rehearsed):
    """GPTQ's error is below rounding's; what the table says of a bundle is what its manifest says."""
    folder, report, output = rehearsed
    assert report["failures"] == []
    assert "every assertion holds" in output
    figures = {row["step"]: row["figures"] for row in report["steps"]}
    for kind in ("int4", "gptq"):
        manifest = json.loads((folder / f"bundles/emola-{kind}/manifest.json").read_text())
        (decoder,) = [parity for parity in manifest["parity"] if parity["stage"] == "decoder"]
        assert figures[f"export {kind}"]["relative_error"] == decoder["relative_error"]
        assert figures[f"export {kind}"]["agreement"] == decoder["agreement"]
    assert figures["export gptq"]["relative_error"] < figures["export int4"]["relative_error"]


def test_a_rehearsal_that_was_killed_goes_on(rehearsed):
    """The merge that was finished before ran once and counts; the checkpoint was written once."""
    folder, report, _ = rehearsed
    rows = journal(folder)
    assert len([row for row in rows if row["step"] == "checkpoint" and "failures" in row]) == 1
    (merged,) = [row for row in rows if row["step"] == "export int4" and row.get("stage") == "merge"]
    row = report["steps"][1]
    assert row["stages"]["merge"]["minutes"] == merged["minutes"]
    assert row["result"].endswith("went on after a stop")
    again = subprocess.run(command(folder), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stderr.splitlines() == [f"== {step}: done before, skipped" for step in STEPS]
    assert json.loads(again.stdout.splitlines()[-1])["steps"] == report["steps"]


def test_killed_in_each_stage(rehearsed):
    """SIGKILL in each stage of the export: the same bytes as without, nothing left over."""
    folder, report, _ = rehearsed
    killed = report["steps"][3]
    assert killed["figures"]["killed"] == STAGES
    assert killed["result"] == f"killed in {', '.join(STAGES)}; the same bytes"
    assert not (folder / "killed").exists()
    left = {path.name for path in (folder / "bundles").iterdir()}
    assert left == {f"emola-{kind}{end}" for kind in ("int4", "gptq") for end in ("", ".report.html")}
    assert not [path for path in folder.rglob("*") if ".partial" in path.name]


def test_another_rehearsal_is_refused(rehearsed):
    done = subprocess.run(command(rehearsed[0], layers=3), capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds another rehearsal: layers (found 2, expected 3) differ" in done.stderr


def test_other_bytes_are_found(rehearsed, script, tmp_path):
    """One changed byte in one file, a file too many and a changed manifest are named; measured times do not count."""
    one, other = rehearsed[0] / "bundles/emola-gptq", tmp_path / "emola-gptq"
    shutil.copytree(one, other)
    differences = script("rehearsal_steps").differences
    assert differences(one, other) == []
    with (other / "decoder/gptq-int4.onnx.data").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    (other / "more.bin").write_bytes(b"")
    shutil.copyfile(rehearsed[0] / "bundles/emola-int4/reference.npz", other / "reference.npz")
    assert differences(one, other) == ["decoder/gptq-int4.onnx.data", "more.bin"]


def test_failed_assertions_are_failures(rehearsed, script, monkeypatch):
    """A bundle that is too large, GPTQ that is no better than rounding, and an export that failed."""
    module, watch = script("rehearsal_steps"), script("watch")
    shape = script("full_size_checkpoint").TINY
    steps = module.Steps(rehearsed[0], shape, 2, ["int4", "gptq"], 8, [], rehearsed[0] / "none.jsonl")
    _, judge = steps.all()["export gptq"]
    assert judge(watch.Run()).failures == ()
    monkeypatch.setattr(module, "SMALL_FILES", 0)
    monkeypatch.setattr(module.Steps, "bundle", lambda self, kind: self.folder / "bundles/emola-int4")
    size, error = judge(watch.Run()).failures
    assert "at most 0.02" in size
    assert "is not below rounding's" in error
    assert judge(watch.Run(1, lines=["emola: error: no space", ""])).failures == (
        "exit status 1: emola: error: no space",
    )


def test_the_verdict_of_the_check(script):
    """Latency is reported, parity is asserted, and a check that prints no verdict failed."""
    module, run = script("rehearsal_steps"), script("watch").Run

    def judge(latency, parity):
        findings = [{"part": "latency", "verdict": latency, "text": "slow"}]
        findings += [{"part": "parity", "verdict": parity, "text": stage} for stage in ("vision", "decoder")]
        code = int("failed" in (latency, parity))
        return module._judge_check(run(code, output=json.dumps({"findings": findings})))

    assert judge("passed", "passed") == module.Verdict("passed: latency, parity", judge("passed", "passed").figures)
    slow = judge("failed", "passed")
    assert (slow.result, slow.failures) == ("failed: latency; passed: parity", ())
    assert judge("passed", "failed").failures == ("parity: vision", "parity: decoder")
    assert module._judge_check(run(1, lines=["killed"])).failures == ("exit status 1: killed",)


@pytest.mark.parametrize("cuda", [False, True])
def test_a_gpu_gets_its_variant_and_uses_it(script, tmp_path, monkeypatch, cuda):
    module, commands = script("rehearsal_steps"), {}
    monkeypatch.setattr(module, "watch", lambda command, *_, **__: commands.update({command[3]: command}))
    shape = script("full_size_checkpoint").TINY
    steps = module.Steps(tmp_path, shape, 2, ["gptq"], 8, [], tmp_path / "rehearsal.jsonl", cuda)
    for name, (measure, _) in steps.all().items():
        if name != "checkpoint":
            measure(name)
    assert ("--cuda" in commands["export"]) is cuda
    for name in ("check", "analyze", "bench"):
        assert (commands[name][-2:] == ["--device", "cuda"]) is cuda
    assert "--device" not in commands["verify"]


STAGE_NAMES = ("one", "two", "three")
CHILD = """
import subprocess, sys, time
print("one ...", file=sys.stderr, flush=True)
time.sleep(0.3)
open(sys.argv[1] + "/file", "wb").write(bytes(30_000_000))
grandchild = "import time; x = bytearray(b'1') * 200_000_000; time.sleep(1)"
subprocess.run([sys.executable, "-c", grandchild])
print("two: done before, skipped", file=sys.stderr, flush=True)
print("three ...", file=sys.stderr, flush=True)
print("result")
time.sleep(float(sys.argv[2]))
"""


def test_a_process_is_measured_with_its_children(script, tmp_path):
    """200 MB of a grandchild and 30 MB of a file are found, in the stage to which they belong."""
    finished = []
    arguments = [sys.executable, "-c", CHILD, str(tmp_path), "0.5"]
    watch = script("watch").watch
    run = watch(arguments, tmp_path, STAGE_NAMES, finished=lambda stage, usage: finished.append(stage))
    assert (run.code, run.output, run.skipped, finished) == (0, "result\n", ["two"], ["one", "three"])
    assert 200e6 < run.usage.anonymous < 300e6
    assert 200e6 < run.stages["one"].anonymous < 300e6
    assert run.stages["three"].anonymous < 100e6
    assert run.usage.disk == run.stages["one"].disk == 30_000_000
    assert run.stages["three"].disk == 0
    assert run.usage.seconds >= run.stages["one"].seconds + run.stages["three"].seconds > 1.5


def test_a_process_is_killed_in_the_stage_asked_for(script, tmp_path):
    module, finished = script("watch"), []
    kill = module.Kill("three", 0.1)
    arguments = [sys.executable, "-c", CHILD, str(tmp_path), "600"]
    run = module.watch(arguments, tmp_path, STAGE_NAMES, kill=kill, finished=lambda stage, _: finished.append(stage))
    assert (run.code, run.last_stage, finished) == (-signal.SIGKILL, "three", ["one"])
