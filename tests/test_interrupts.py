"""Ctrl-C with several processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training import ONE_THREAD, arguments

from sdk.errors import OutputError
from sdk.locks import writing_into

CHILDREN = """
import multiprocessing, time
from trainer.interrupts import ignore_interrupts, starting_processes
if __name__ == "__main__":
    with starting_processes():
        pool = multiprocessing.get_context("spawn").Pool(2, initializer=ignore_interrupts)
    with pool:
        try:
            print("starting", flush=True)
            pool.map(time.sleep, [600] * 2)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C reaches a process group")
@pytest.mark.parametrize("delay", [0, 1], ids=["while they start", "while they work"])
def test_no_child_prints_a_traceback(tmp_path, delay):
    """As in `emola data synthesize`: the parent alone is interrupted, and ends the others."""
    (tmp_path / "run.py").write_text(CHILDREN)
    process = subprocess.Popen(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "starting\n"
    if delay:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate() == ("interrupted\n", "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="Ctrl-C reaches a process group")
@pytest.mark.parametrize("start", [0, 0.5], ids=["fast start", "slow start"])
def test_ctrl_c_with_workers_is_one_line(tmp_path, start):
    """A terminal sends Ctrl-C to the workers, too: none of them prints a traceback. Until then the folder is locked."""
    pytest.importorskip("torch")
    output = tmp_path / "run"
    slow = f"import os, time\nos.register_at_fork(after_in_child=lambda: time.sleep({start}))\n"
    (tmp_path / "sitecustomize.py").write_text(slow)  # Ctrl-C meets workers that start
    environment = {**ONE_THREAD, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])}
    command = [
        sys.executable,
        "-m",
        "sdk",
        *arguments(output, "--batch-size", "2", "--epochs", "400", "--workers", "2"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    while not (output / "log.jsonl").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    with pytest.raises(OutputError, match="another process is writing"), writing_into(output):
        pass
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err.splitlines()[-1]) == (130, "emola: error: interrupted")
    assert "Traceback" not in err
    assert not (output / ".emola-lock").exists()
