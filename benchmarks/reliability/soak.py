"""Long runs in one process: memory, file descriptors and threads at the start and at the end.

    python benchmarks/reliability/soak.py [--bundle DIR] [--analyses 20000] [--batches 5000] [--frames 10000]

analyses  pictures, labels, batches, questions, abandoned streams, cancelled calls and unreadable pictures in turn.
batches   `analyze_batch` with the garbage collector off: what a call leaves behind would stay.
video     a clip of this many frames, read to its end.

Each part begins after a warm-up. Resident memory may grow by less than 5 %; descriptors and threads may not grow.
"""

import argparse
import gc
import json
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdk import Analyzer
from sdk.errors import CancelledError, ImageError, QuestionWarning
from sdk.faces.images import load_image

PHOTO = Path(__file__).parents[2] / "sdk/assets/pictures/astronaut.jpg"
MAX_GROWTH = 0.05  # share of resident memory
HEADER = (
    "| part | calls | memory, start | memory, end | growth | descriptors | threads | time |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class State:
    """Resources of this process."""

    resident: int
    descriptors: int
    threads: int

    @classmethod
    def now(cls) -> "State":
        gc.collect()
        status = Path("/proc/self/status").read_text()
        found = {
            line.split(":")[0]: line.split()[1] for line in status.splitlines() if ":" in line and line.split()[1:]
        }
        descriptors = len(list(Path("/proc/self/fd").iterdir())) - 1  # without that of this list
        return cls(1024 * int(found["VmRSS"]), descriptors, int(found["Threads"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="folder of a bundle; default: the embedded one")
    parser.add_argument("--analyses", type=int, default=20_000)
    parser.add_argument("--batches", type=int, default=5000)
    parser.add_argument("--frames", type=int, default=10_000)
    args = parser.parse_args()
    warnings.simplefilter("ignore", QuestionWarning)  # emola-nano does not know all questions that are asked here
    analyzer, failed = Analyzer(args.bundle), False
    print(HEADER, flush=True)
    for name, count, calls in (
        ("analyses", args.analyses, analyses),
        ("batches", args.batches, batches),
        ("video", args.frames, video),
    ):
        if count:
            found = soak(name, count, calls(analyzer, count))
            failed |= bool(found["failures"])
            print(json.dumps({"benchmark": "soak", **found}), file=sys.stderr, flush=True)
    return 1 if failed else 0


def soak(name: str, count: int, calls: Iterator[None]) -> dict[str, object]:
    """Draw `count` calls after a warm-up of at least one in twenty; print a row."""
    for _ in range(max(20, count // 20)):
        next(calls)
    begin, start = time.monotonic(), State.now()
    for index in range(count):
        next(calls)
        if index % max(1, count // 20) == 0:
            print(f"{name}: {index} of {count}, {State.now()}", file=sys.stderr)
    end, seconds = State.now(), time.monotonic() - begin
    calls.close()  # type: ignore[attr-defined]
    growth = end.resident / start.resident - 1
    failures = [f"memory grew by {100 * growth:.1f} %"] if growth >= MAX_GROWTH else []
    failures += ["descriptors grew"] * (end.descriptors > start.descriptors) + ["threads grew"] * (
        end.threads > start.threads
    )
    print(
        f"| {name} | {count:,} | {start.resident / 1e6:.1f} MB | {end.resident / 1e6:.1f} MB | {100 * growth:+.2f} % | "
        f"{start.descriptors} -> {end.descriptors} | {start.threads} -> {end.threads} | {seconds:.0f} s |",
        flush=True,
    )
    return {"part": name, "calls": count, "growth": round(growth, 4), "failures": failures, **vars(end)}


def analyses(analyzer: Analyzer, count: int) -> Iterator[None]:
    """Calls of every kind, in turn."""
    photo = load_image(PHOTO)
    crop = np.ascontiguousarray(photo[40:210, 140:310])
    small = {"color": "rgb", "faces": "aligned", "max_new_tokens": 24}
    stop = threading.Event()
    stop.set()

    def refused(call: Callable[[], object]) -> None:
        with suppress(ImageError, CancelledError):
            call()
            raise AssertionError("a call that must be refused was not")

    calls: tuple[Callable[[], object], ...] = (
        lambda: analyzer.analyze(crop, **small),
        lambda: analyzer.analyze(photo, color="rgb", max_new_tokens=24),
        lambda: analyzer.analyze(crop, tasks=("labels",), color="rgb", faces="aligned"),
        lambda: analyzer.analyze_batch([crop, crop], batch_size=2, **small),
        lambda: next(analyzer.stream(crop, "Why?", color="rgb", faces="aligned")),
        lambda: refused(lambda: analyzer.analyze(crop, cancel=stop, **small)),
        lambda: refused(lambda: analyzer.analyze(b"no picture")),
        lambda: analyzer.analyze(PHOTO, faces="aligned", max_new_tokens=8),
    )
    while True:
        for call in calls:
            call()
            yield


def batches(analyzer: Analyzer, count: int) -> Iterator[None]:
    """Batches of three faces in two slots, one of them of an unreadable picture; without the garbage collector."""
    crop = np.ascontiguousarray(load_image(PHOTO)[40:210, 140:310])
    gc.disable()
    try:
        while True:
            analyzer.analyze_batch(
                [crop, crop, np.zeros((3, 3)), crop],
                color="rgb",
                faces="aligned",
                max_new_tokens=4,
                batch_size=2,
                keep_going=True,
            )
            yield
    finally:
        gc.enable()


def video(analyzer: Analyzer, count: int) -> Iterator[None]:
    """The frames of one clip in which a face moves, long enough for the warm-up as well."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp4"
        _write_clip(path, count + max(20, count // 20))
        for _ in analyzer.analyze_video(path, max_new_tokens=8):
            yield


def _write_clip(path: Path, frames: int) -> None:
    sys.path.append(str(Path(__file__).parents[2] / "tests"))
    from clips import write_clip

    photo = load_image(PHOTO)[:320, :440]
    steps = (abs(index % 60 - 30) for index in range(frames))
    write_clip(path, (np.ascontiguousarray(photo[step : step + 256, 2 * step : 2 * step + 320]) for step in steps))


if __name__ == "__main__":
    sys.exit(main())
