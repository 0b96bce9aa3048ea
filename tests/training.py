"""Runs of `emola train` on the golden model, in this process and in others."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from conftest import GOLDEN

from sdk.cli import main
from trainer.training.plot import read_log

RECORDS = GOLDEN / "data/FABAInstruct/train/train_anno.json"
SHAPE = ("--rank", "8", "--alpha", "16", "--learning-rate", "1e-3", "--projector-learning-rate", "2e-4")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # several wait for each other in a loop, minutes on a busy machine
PLAIN = ("--precision", "float32", "--workers", "0")


def arguments(output: Path, *options: str, base=GOLDEN / "llava-base", data=RECORDS) -> list[str]:
    """The command line of a run on `data`; later options take precedence."""
    files = ("--base", str(base), "--vision-tower", str(GOLDEN / "clip"), "--data", str(data), "--output", str(output))
    return ["train", *files, *SHAPE, *PLAIN, *options]


def emola_train(output: Path, *options: str, **files) -> int:
    """The exit code of `emola train`, in this process."""
    return main(arguments(output, *options, **files))


def launch(launcher: list[str], output: Path, *options: str) -> None:
    """`emola train` in processes of its own, below torchrun or the like."""
    command = [sys.executable, *launcher, *arguments(output, *options)]
    subprocess.run(command, check=True, capture_output=True, env=ONE_THREAD)


def kill_after(step: int, output: Path, *options: str) -> None:
    """Run `emola train` in a process of its own and end it with SIGKILL as soon as its log shows the step."""
    command, log = [sys.executable, "-m", "sdk", *arguments(output, *options)], output / "log.jsonl"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ONE_THREAD)
    while process.poll() is None:
        if log.exists() and any(row["step"] >= step for row in read_log(log)):
            process.kill()
        time.sleep(0.02)
    assert process.wait() == -9, f"the run ended with {process.returncode} before step {step}"


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in read_log(output / "log.jsonl")]


def write_records(path: Path, count: int = 12) -> list[dict]:
    """The first golden records, for a test to damage; pictures and landmark files are those of the goldens."""
    rows = json.loads(RECORDS.read_text(encoding="utf-8"))[:count]
    for row in rows:
        for key in ("image", "landmark"):
            row[key] = str(GOLDEN / "data" / row[key])
    path.write_text(json.dumps(rows), encoding="utf-8")
    return rows
