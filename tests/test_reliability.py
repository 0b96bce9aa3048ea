"""benchmarks/reliability in small: damaged inputs, kills, long runs, missing packages; what the counts are worth."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("av")
pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="time and memory come from /proc")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks/reliability"


def run(script, *arguments, **options):
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_damaged_inputs_are_refused(tmp_path):
    """A thousandth of `make fuzz`: every execution returns or raises the documented error, within 5 s and 1 GB."""
    done = run("fuzz.py", tmp_path, "--share", "0.001")
    findings = tmp_path / "findings.jsonl"
    assert done.returncode == 0, done.stdout + done.stderr[-1000:] + (findings.read_text() if findings.exists() else "")
    assert json.loads(done.stdout.splitlines()[-1])["executions"] > 1000


def test_a_stopped_run_goes_on_and_an_input_can_be_repeated(tmp_path):
    """The second run executes nothing that the journal holds; an input follows from its number."""
    options = ("--target", "answers", "--share", "0.0005")
    first, second = run("fuzz.py", tmp_path, *options), run("fuzz.py", tmp_path, *options)
    assert first.stdout == second.stdout
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 1
    once, again = (run("fuzz.py", tmp_path, "--target", "answers", "--index", 7) for _ in range(2))
    assert (once.returncode, once.stderr) == (again.returncode, again.stderr) == (0, once.stderr)
    assert once.stderr.startswith("answers 7: ")


ATTACKS = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import worker
worker.HANGS_AFTER_S, worker.MAX_SECONDS, worker.MAX_BYTES = 5.0, 1.0, 2 * 10**8

def call(data):
    kind = data.decode()
    if kind == "refused":
        raise KeyError(kind)
    if kind == "escape":
        raise ValueError(kind)
    if kind == "death":
        os._exit(3)
    if kind == "hang":
        time.sleep(1000)
    if kind == "slow":
        time.sleep(1.2)
    if kind == "large":
        bytes(bytearray(3 * 10**8))

kinds = ["fine", "refused", "escape", "death", "hang", "slow", "large", "fine"]
target = worker.Target("t", "t", lambda scratch: call, lambda i: kinds[i].encode(), (KeyError,), len(kinds))
folder = Path(sys.argv[2])
counts = worker.run_block(target, 0, len(kinds), folder, worker.Findings(folder))
print(json.dumps(vars(counts)))
"""


def test_every_kind_of_failure_is_counted(tmp_path):
    """An unexpected error, a death, a hang, a slow and a large execution; the others go on after each."""
    command = [sys.executable, "-c", ATTACKS, str(FOLDER), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    found = [counts[name] for name in ("executions", "refused", "escapes", "slow", "large")]
    assert found == [8, 1, 3, 2, 1], counts
    rows = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["escape", "death", "hang", "slow", "large"]
    assert [Path(row["input"]).read_text() for row in rows] == ["escape", "death", "hang", "slow", "large"]


@pytest.mark.parametrize("job", ["batch", "download", "evaluate"])
def test_killed_runs_leave_nothing(tmp_path, job):
    """Two SIGKILLs at random moments: the same bytes as a straight run, no other file, no process that goes on."""
    done = run("kills.py", tmp_path, "--kills", 2, "--job", job)
    journal = tmp_path / "kills.jsonl"
    assert done.returncode == 0, done.stdout + done.stderr[-1000:] + (journal.read_text() if journal.exists() else "")
    assert json.loads(done.stdout.splitlines()[-1])["kills"] == 2


def test_a_long_run_keeps_nothing(tmp_path):
    """Calls of every kind, batches without the garbage collector, a video: no more descriptors and threads."""
    done = run("soak.py", "--analyses", 16, "--batches", 16, "--frames", 16)
    rows = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [row["part"] for row in rows] == ["analyses", "batches", "video"], done.stderr[-2000:]
    assert [row["failures"] for row in rows] == [[], [], []], done.stdout


def test_each_missing_package_names_its_extra(tmp_path):
    done = run("dependencies.py", tmp_path, "--missing")
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert "WRONG" not in done.stdout
