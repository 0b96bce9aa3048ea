"""Execute many inputs in a process of its own and count what must not happen: escapes, slow ones, memory, deaths.

An execution may return or raise the documented error of its target. Anything else is an escape, also the death of the
process and a call that never returns. The process has a limited address space, so that no input can take the machine's
memory. Linux only: memory comes from the kernel's accounting.
"""

import gc
import mmap
import os
import re
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

MAX_SECONDS, MAX_BYTES = 5.0, 10**9
HANGS_AFTER_S = 60.0  # then the process is killed
_ADDRESS_SPACE = 1_600_000_000  # bytes in addition to what the process has when it begins

Call = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A part of the product under attack.

    Attributes:
        name: for the command line and the journal.
        what: for the table.
        open: called in the process with an empty folder; returns the function of one input.
        case: the input with this number; the same number always gives the same input.
        errors: the documented errors.
        count: executions of a complete run.
        block: executions of one process.
    """

    name: str
    what: str
    open: Callable[[Path], Call]
    case: Callable[[int], bytes]
    errors: tuple[type[Exception], ...]
    count: int
    block: int = 5000


@dataclass
class Counts:
    """What the executions of a target did.

    Attributes:
        executions: inputs that were given.
        refused: ended with the documented error.
        escapes: raised another error, killed the process or never returned.
        slow: took more than MAX_SECONDS.
        large: took more than MAX_BYTES.
        longest_s: time of the slowest execution.
        peak_bytes: growth of the process at its largest.
        seconds: time of all executions.
    """

    executions: int = 0
    refused: int = 0
    escapes: int = 0
    slow: int = 0
    large: int = 0
    longest_s: float = 0.0
    peak_bytes: int = 0
    seconds: float = 0.0

    def add(self, other: "Counts") -> None:
        for field in fields(self):
            one, two = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, max(one, two) if field.name in ("longest_s", "peak_bytes") else one + two)

    @property
    def failures(self) -> int:
        return self.escapes + self.slow + self.large


class _Shared:
    """Counts and the running execution, in memory that outlives the process which writes them."""

    _LAYOUT = struct.Struct("qqqqqdqdqd")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._LAYOUT.size)

    def write(self, counts: Counts, index: int, began: float) -> None:
        """`began`: by `_clock`, 0 between two executions."""
        values = [getattr(counts, field.name) for field in fields(counts)]
        self._memory[:] = self._LAYOUT.pack(*values, index, began)

    def read(self) -> tuple[Counts, int, float]:
        *values, index, began = self._LAYOUT.unpack(self._memory[:])
        return Counts(*values), index, began


def run_block(target: Target, begin: int, end: int, scratch: Path, findings: "Findings") -> Counts:
    """Execute the inputs `begin` to `end`, in a new process after each death."""
    total = Counts()
    while begin < end:
        shared = _Shared()
        shared.write(Counts(), begin - 1, 0.0)
        status, hung = _wait(_fork(target, begin, end, scratch, findings, shared), shared)
        counts, index, _ = shared.read()
        total.add(counts)
        if status == 0:
            break
        if index < begin:
            raise SystemExit(f"{target.name}: the target cannot be opened; see above")
        reason = f"no return within {HANGS_AFTER_S:.0f} s" if hung else f"the process ended with status {status}"
        total.add(Counts(executions=1, escapes=1, slow=int(hung), longest_s=HANGS_AFTER_S if hung else 0))
        findings.add(target, index, "hang" if hung else "death", reason)
        begin = index + 1
    return total


def _fork(target: Target, begin: int, end: int, scratch: Path, findings: "Findings", shared: _Shared) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        _execute(target, begin, end, scratch, findings, shared)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _wait(child: int, shared: _Shared) -> tuple[int, bool]:
    """The exit status of the process, negative for a signal, and whether it was killed because it hung."""
    try:
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), False
            _, _, began = shared.read()
            if began and _clock(str(child)) - began > HANGS_AFTER_S:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return -signal.SIGKILL, True
            time.sleep(0.02)
    except BaseException:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def _execute(target: Target, begin: int, end: int, scratch: Path, findings: "Findings", shared: _Shared) -> None:
    warnings.simplefilter("ignore")
    folder = scratch / str(begin)  # a process that died may have left files in another one
    folder.mkdir()
    call, counts = target.open(folder), Counts()
    findings.take_stderr(target)
    _limit_address_space()
    gc.collect()
    base = _resident()
    for index in range(begin, end):
        data = target.case(index)
        shared.write(counts, index, _clock())
        seconds, error = _timed(call, data)
        if seconds > MAX_SECONDS:  # once more, because a busy machine can slow one execution down
            again, _ = _timed(call, data)
            seconds = min(seconds, again)
        _count(counts, target, index, seconds, error, findings)
        _count_memory(counts, target, index, base, findings)
        shared.write(counts, index, 0.0)
        error = None


def _timed(call: Call, data: bytes) -> tuple[float, BaseException | None]:
    begin, error = _clock(), None
    try:
        call(data)
    except (Exception, SystemExit) as caught:
        error = caught
    except BaseException as caught:  # the panic of a Rust library is no Exception
        if isinstance(caught, KeyboardInterrupt):
            raise
        error = caught
    return _clock() - begin, error


def _clock(process: str = "thread-self") -> float:
    """Seconds, without those in which the main thread of a process was ready to run but other processes ran."""
    waited = int(Path(f"/proc/{process}/schedstat").read_text().split()[1])
    return time.monotonic() - waited / 1e9


def _count(
    counts: Counts, target: Target, index: int, seconds: float, error: BaseException | None, findings: "Findings"
) -> None:
    counts.executions += 1
    counts.seconds += seconds
    counts.longest_s = max(counts.longest_s, seconds)
    if isinstance(error, target.errors):
        counts.refused += 1
    elif error is not None:
        counts.escapes += 1
        findings.add(target, index, "escape", "".join(traceback.format_exception(error, chain=False)))
    if seconds > MAX_SECONDS:
        counts.slow += 1
        findings.add(target, index, "slow", f"{seconds:.1f} s")


def _count_memory(counts: Counts, target: Target, index: int, base: int, findings: "Findings") -> None:
    grown = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
    counts.peak_bytes = max(counts.peak_bytes, grown)
    if grown > MAX_BYTES:
        counts.large += 1
        findings.add(target, index, "large", f"{grown / 1e9:.2f} GB")
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again at the present size


def _limit_address_space() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + _ADDRESS_SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


class Findings:
    """What must not happen, with the input: JSON lines and one file per input, at most a few of each kind.

    Args:
        folder: receives `findings.jsonl`, `inputs/` and `stderr/`.
    """

    _KEPT = 5

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, int] = {}

    def take_stderr(self, target: Target) -> None:
        """Send what C libraries print to a file, from here to the end of the process."""
        path = self._folder / "stderr" / target.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            os.dup2(file.fileno(), 2)

    def add(self, target: Target, index: int, kind: str, text: str) -> None:
        """Keep the input with this number."""
        self.add_input(target, str(index), target.case(index), kind, text)

    def add_input(self, target: Target, name: str, data: bytes, kind: str, text: str) -> None:
        from sdk.files import append_journal

        signature = f"{target.name} {kind} {_where(text)}"
        self._seen[signature] = self._seen.get(signature, 0) + 1
        if self._seen[signature] > self._KEPT:
            return
        path = self._folder / "inputs" / f"{target.name}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        row = {"target": target.name, "index": name, "kind": kind, "input": str(path), "text": text}
        append_journal(self._folder / "findings.jsonl", row)


def _where(text: str) -> str:
    """Type of the error and the last line of our own code in a traceback; equal ones are one fault."""
    lines = [line.strip() for line in text.splitlines()]
    ours = [line for line in lines if line.startswith("File ") and ("/sdk/" in line or "/trainer/" in line)]
    types = [
        line.split(":")[0] for line in text.splitlines() if re.match(r"[\w.]+(?:Error|Exception|Panic\w*)\b", line)
    ]
    return f"{types[-1] if types else ''} {ours[-1] if ours else ''}"
