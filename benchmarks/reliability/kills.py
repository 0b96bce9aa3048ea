"""End every kind of run by SIGKILL at random moments and run it to its end: the same bytes, and nothing left.

    python benchmarks/reliability/kills.py build/kills [--kills 100] [--job NAME ...]

Each episode kills one to three runs in the same folder, at a moment drawn from the time that a straight run takes, and
then lets one run end. Its files must equal those of the straight run, except measured times, and there must be no other
file and no process that goes on. Journal: `kills.jsonl`; a stopped benchmark goes on. Linux only.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from kill_jobs import JOBS, Job, prepare_inputs

from sdk.files import append_journal, read_journal

HEADER = "| run | kills | runs to the end | other bytes | left over | time |\n|---|---:|---:|---:|---:|---:|"
_TIMES = frozenset(  # keys whose values are measured
    ("timing_ms", "age_ms", "latency", "layers", "gate", "digest", "seconds", "time", "tokens_per_second", "elapsed_s")
)
_LINGER_S = 30.0  # for a worker to end its piece of work after the death of its parent, on a busy machine
_TRIES = 20  # runs that end before they are killed, in a row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100, help="of all jobs together")
    parser.add_argument("--job", action="append", choices=list(JOBS), help="repeatable (default: all)")
    args = parser.parse_args()
    chosen = [JOBS[name] for name in args.job or JOBS]
    prepare_inputs(args.folder / "inputs")
    print(HEADER, flush=True)
    rows = []
    for index, job in enumerate(chosen):
        wanted = args.kills * (index + 1) // len(chosen) - args.kills * index // len(chosen)
        rows += kill(job, args.folder, wanted)
    total = _summary(rows)
    print(_row("all", total))
    print(json.dumps({"benchmark": "kills", **total}))
    return 1 if total["other bytes"] or total["left over"] else 0


def kill(job: Job, folder: Path, wanted: int) -> list[dict[str, Any]]:
    """Run episodes until `wanted` kills are in the journal; print the row of the job and return its episodes."""
    journal = folder / "kills.jsonl"
    rows = [row for row in read_journal(journal) if row["job"] == job.name]
    with job.server(folder / "inputs") as environment:
        episodes = None
        while sum(row["kills"] for row in rows) < wanted:
            episodes = episodes or _Episodes(job, folder, {**os.environ, "OMP_NUM_THREADS": "1", **environment})
            left = wanted - sum(row["kills"] for row in rows)
            rows.append(episodes.run(min(left, 1 + len(rows) % 3), Random(f"{job.name} {len(rows)}")))
            append_journal(journal, rows[-1])
    print(_row(job.name, _summary(rows)), flush=True)
    return rows


class _Episodes:
    """Episodes of a job, after one straight run. All runs write to the same folder, because some files hold its path.

    Raises:
        SystemExit: the straight run fails.
    """

    def __init__(self, job: Job, folder: Path, environment: dict[str, str]) -> None:
        self._job, self._inputs, self._straight = job, folder / "inputs", folder / "straight" / job.name
        self._out, self._temporary = folder / "run" / job.name, folder / "run" / "tmp"
        self._environment = {**environment, "TMPDIR": str(self._temporary), "EMOLA_CACHE": str(self._out / "cache")}
        self._fresh()
        begin = time.monotonic()
        done = self._complete()
        if done.returncode:
            raise SystemExit(f"{job.name}: exit status {done.returncode}: {done.stderr[-2000:]}")
        self._seconds = time.monotonic() - begin
        shutil.rmtree(self._straight, ignore_errors=True)
        self._straight.parent.mkdir(exist_ok=True)
        self._out.rename(self._straight)

    def run(self, kills: int, draw: Random) -> dict[str, Any]:
        """Kill, run to the end, compare."""
        begin = time.monotonic()
        self._fresh()
        processes = []
        for _ in range(kills):
            self._kill_once(draw)
            processes += _processes(self._out)
        done = self._complete()
        other = [f"exit status {done.returncode}: {done.stderr[-500:]}"] if done.returncode else []
        names, expected = _names(self._out), _names(self._straight)
        left = [f"process: {command}" for command in processes] + sorted(names - expected)
        temporary = (path.name for path in self._temporary.iterdir())
        left += [f"temporary: {name}" for name in temporary if not name.startswith("torchinductor_")]  # torch's cache
        other += [f"{name} is missing" for name in sorted(expected - names)]
        pairs = ((name, self._out / name, self._straight / name) for name in sorted(names & expected))
        other += [name for name, found, wanted in pairs if _content(found) != _content(wanted)]
        shutil.rmtree(self._out.parent)
        seconds = round(time.monotonic() - begin, 1)
        return {"job": self._job.name, "kills": kills, "other": other, "left": left, "seconds": seconds}

    def _complete(self) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(self._command, env=self._environment, capture_output=True, text=True)

    @property
    def _command(self) -> list[str]:
        return self._job.command(self._out, self._inputs)

    def _fresh(self) -> None:
        shutil.rmtree(self._out.parent, ignore_errors=True)
        self._out.mkdir(parents=True)
        self._temporary.mkdir()
        self._job.prepare(self._out, self._inputs)

    def _kill_once(self, draw: Random) -> None:
        """Start the run and kill it; a run that ends before is begun again in an empty folder."""
        for _ in range(_TRIES):
            child = subprocess.Popen(
                self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                child.wait(draw.uniform(0.2, 1.0) * self._seconds)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                if child.wait() == -signal.SIGKILL:
                    return
            self._fresh()
        raise SystemExit(f"{self._job.name}: {_TRIES} runs ended before they were killed")


def _processes(folder: Path) -> list[str]:
    """Processes that still work on a folder after _LINGER_S; they are killed."""
    end = time.monotonic() + _LINGER_S
    while found := list(_working_on(folder)):
        if time.monotonic() > end:
            for process, _ in found:
                os.kill(process, signal.SIGKILL)
            return [command for _, command in found]
        time.sleep(0.05)
    return []


def _working_on(folder: Path) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment, command = entry.read_bytes(), entry.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if f"TMPDIR={folder.parent}/tmp".encode() in environment and command:
            yield int(entry.parent.name), command.replace(b"\0", b" ").decode(errors="replace")[:200]


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _content(path: Path) -> str:
    """A hash of what a file says, without measured times."""
    data = path.read_bytes()
    if path.suffix == ".html":
        return ""  # a report of measured times
    if path.suffix in (".json", ".jsonl"):
        lines = data.splitlines() if path.suffix == ".jsonl" else [data]
        rows = [_without_times(json.loads(line)) for line in lines]
        if path.name == "log.jsonl":  # a step that was repeated after a kill has two rows
            rows = list({row.get("step", index): row for index, row in enumerate(rows)}.values())
        data = json.dumps(rows).encode()
    return hashlib.sha256(data).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in _TIMES}
    if isinstance(value, list):
        return [_without_times(each) for each in value]
    return value


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kills": sum(row["kills"] for row in rows),
        "runs": len(rows),
        "other bytes": sum(len(row["other"]) for row in rows),
        "left over": sum(len(row["left"]) for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows)),
    }


def _row(name: str, found: dict[str, Any]) -> str:
    return f"| {name} | " + " | ".join(map(str, list(found.values())[:-1])) + f" | {found['seconds']} s |"


if __name__ == "__main__":
    sys.exit(main())
