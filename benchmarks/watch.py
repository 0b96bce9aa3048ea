"""Run a child process and measure it: time, memory of its whole process tree, growth of a folder, each stage by itself.

Linux only: memory comes from /proc. Anonymous memory (RssAnon) is what cannot be dropped; pages of mapped files can.
"""

import ctypes
import math
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INTERVAL_S = 0.1  # between two samples of the memory
_DISK_INTERVAL_S = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FIELDS = re.compile(r"^(VmHWM|VmRSS|RssAnon):\s+(\d+) kB$", re.MULTILINE)


@dataclass
class Usage:
    """What a process or one of its stages used.

    Attributes:
        seconds: wall-clock time.
        anonymous: peak of the anonymous memory of all processes together, in bytes.
        resident: peak of the resident memory of one process, in bytes; it includes mapped files.
        disk: peak of the bytes by which the folder grew.
    """

    seconds: float = 0.0
    anonymous: int = 0
    resident: int = 0
    disk: int = 0

    def add(self, other: "Usage") -> None:
        """Continue with a later part of the same work."""
        self.seconds += other.seconds
        for name in ("anonymous", "resident", "disk"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))


@dataclass(frozen=True)
class Kill:
    """When the child gets SIGKILL.

    Attributes:
        stage: that must run.
        after_s: seconds after that stage began.
        line: pattern of a line of that stage; if given, it is awaited instead of the time.
    """

    stage: str
    after_s: float = 0.0
    line: str | None = None


@dataclass
class Run:
    """A child process that has ended.

    Attributes:
        code: exit status; -9 after SIGKILL.
        usage: of the whole process.
        stages: of each stage that ran, in order; the last one is incomplete if the child failed.
        skipped: stages that an earlier run had finished.
        output: stdout.
        lines: of stderr.
    """

    code: int = 0
    usage: Usage = field(default_factory=Usage)
    stages: dict[str, Usage] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    output: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def last_stage(self) -> str | None:
        """The stage that began last."""
        return next(reversed(self.stages), None)


def watch(
    command: Sequence[str],
    folder: Path,
    stages: Sequence[str] = (),
    *,
    kill: Kill | None = None,
    finished: Callable[[str, Usage], None] = lambda stage, usage: None,
) -> Run:
    """Run a command to its end and measure it; its stderr is passed on.

    Args:
        command: the child process.
        folder: whose growth is measured.
        stages: names of stages. On stderr, "NAME ..." begins one and "NAME: ... skipped" skips one.
        kill: end the child by SIGKILL at this moment.
        finished: called with each stage that is complete.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        try:
            run = _Watch(child, folder, stages, kill, finished).follow()
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        output.seek(0)
        run.output = output.read()
    return run


def _end_with_parent() -> None:
    """Get SIGKILL when the parent ends, however it ends: a child that went on would write beside its successor."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Watch:
    def __init__(
        self,
        child: "subprocess.Popen[str]",
        folder: Path,
        stages: Sequence[str],
        kill: Kill | None,
        finished: Callable[[str, Usage], None],
    ) -> None:
        self._child, self._folder, self._kill, self._finished = child, folder, kill, finished
        self._pattern = re.compile(rf"^({'|'.join(stages)})\b.*?(\.\.\.|skipped)") if stages else None
        self._run, self._begin = Run(), time.monotonic()
        self._stage_begin, self._disk_before = self._begin, folder_bytes(folder)
        self._sample_due = self._disk_due = self._begin
        self._stage_disk = self._disk_before
        self._kill_at: float | None = None
        self._lines: queue.Queue[tuple[float, str] | None] = queue.Queue()

    def follow(self) -> Run:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        open_ = True
        while open_:
            open_ = self._step()
        self._run.code = self._child.wait()
        reader.join()
        self._measure_disk()
        self._end_stage(time.monotonic(), complete=self._run.code == 0)
        self._run.usage.seconds = time.monotonic() - self._begin
        return self._run

    def _read(self) -> None:
        assert self._child.stderr is not None
        with self._child.stderr:
            for line in self._child.stderr:
                self._lines.put((time.monotonic(), line.rstrip("\n")))
        self._lines.put(None)

    def _step(self) -> bool:
        """Handle one line or take one sample; False once stderr is closed."""
        due = min(self._sample_due, self._kill_at or math.inf)
        try:
            entry = self._lines.get(timeout=max(0.0, due - time.monotonic()))
        except queue.Empty:
            pass
        else:
            if entry is None:
                return False
            self._handle(*entry)
        self._kill_if_due()
        if time.monotonic() >= self._sample_due:
            self._sample()
        return True

    def _handle(self, moment: float, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        self._run.lines.append(line)
        found = self._pattern.match(line) if self._pattern else None
        if found and found[2] == "skipped":
            self._run.skipped.append(found[1])
        elif found and found[1] != self._run.last_stage:
            self._begin_stage(found[1], moment)
        kill = self._kill
        if kill and kill.line and self._run.last_stage == kill.stage and re.search(kill.line, line):
            self._kill_at = moment

    def _begin_stage(self, name: str, moment: float) -> None:
        self._measure_disk()
        self._end_stage(moment, complete=True)
        self._run.stages[name], self._stage_begin = Usage(), moment
        self._stage_disk = folder_bytes(self._folder)
        if self._kill and self._kill.stage == name and not self._kill.line:
            self._kill_at = moment + self._kill.after_s
        elif self._kill and self._kill.stage in self._run.stages:
            self._kill_at = moment  # too late: the caller sees it by the last stage

    def _end_stage(self, moment: float, *, complete: bool) -> None:
        if (name := self._run.last_stage) is None:
            return
        self._run.stages[name].seconds = moment - self._stage_begin
        if complete:
            self._finished(name, self._run.stages[name])

    def _kill_if_due(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at and self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._kill_at = None

    def _sample(self) -> None:
        self._sample_due = time.monotonic() + INTERVAL_S
        anonymous = resident = peak = 0
        for process in _tree(self._child.pid):
            found = _memory(process)
            anonymous += found.get("RssAnon", 0)
            resident = max(resident, found.get("VmRSS", 0))
            peak = max(peak, found.get("VmHWM", 0))
        self._run.usage.add(Usage(0, anonymous, peak))
        if stage := self._run.last_stage:
            self._run.stages[stage].add(Usage(0, anonymous, resident))
        if time.monotonic() >= self._disk_due:
            self._measure_disk()

    def _measure_disk(self) -> None:
        size = folder_bytes(self._folder)
        self._disk_due = time.monotonic() + _DISK_INTERVAL_S
        self._run.usage.add(Usage(disk=size - self._disk_before))
        if stage := self._run.last_stage:
            self._run.stages[stage].add(Usage(disk=size - self._stage_disk))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed, and files that vanish meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _tree(root: int) -> Iterator[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry))
    waiting = [root]
    while waiting:
        process = waiting.pop()
        yield process
        waiting += children.get(process, [])


def _parent(process: str) -> int | None:
    try:
        stat = Path("/proc", process, "stat").read_text(errors="replace")
    except OSError:
        return None
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def _memory(process: int) -> dict[str, int]:
    """Bytes by field; empty once the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return {}
    return {name: 1024 * int(size) for name, size in _FIELDS.findall(status)}


def as_row(usage: Usage) -> dict[str, Any]:
    """Minutes and GB, as JSON."""
    sizes = {name: round(getattr(usage, name) / 1e9, 3) for name in ("anonymous", "resident", "disk")}
    return {"minutes": round(usage.seconds / 60, 3), **{f"{name}_gb": size for name, size in sizes.items()}}
