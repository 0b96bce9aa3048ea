"""Give damaged and hostile inputs to every reader, and count what must not happen.

    python benchmarks/reliability/fuzz.py build/fuzz [--target NAME ...] [--share 0.01]
    python benchmarks/reliability/fuzz.py build/fuzz --target manifest --index 1234     one input again, with its error
    python benchmarks/reliability/fuzz.py build/fuzz --target answers --engine coverage  guided by coverage

Each input follows from its number, so a stopped run goes on where it stopped and every finding can be repeated.
Journal, findings and their inputs are in the folder. One Markdown row per target is printed; exit status 1 if anything
was found.
"""

import argparse
import json
import shutil
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from worker import Counts, Findings, Target, run_block

from sdk.files import append_journal, read_journal, write_json

HEADER = (
    "| target | executions | refused | escapes | over 5 s | over 1 GB | slowest | peak memory | time |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def main() -> int:
    with _instrumented():
        from targets import GUIDED, TARGETS
    args = _arguments(list(TARGETS))
    chosen = [TARGETS[name] for name in args.target or TARGETS]
    if args.index is not None:
        return _repeat(chosen[0], args.index)
    if args.engine == "coverage":
        from guided import run_guided

        if chosen[0].name not in GUIDED:
            raise SystemExit(f"--engine coverage: choose one --target of {', '.join(GUIDED)}")
        return run_guided(chosen[0], args.folder, args.executions)
    print(HEADER, flush=True)
    found = {target.name: fuzz(target, args.folder, args.share) for target in chosen}
    total = Counts()
    for counts in found.values():
        total.add(counts)
    print(row("all", total))
    write_json(args.folder / "summary.json", {name: vars(counts) for name, counts in found.items()})
    print(json.dumps({"benchmark": "fuzz", **vars(total)}))
    return 1 if total.failures else 0


def _instrumented() -> AbstractContextManager[object]:
    """What is imported in this block reports its coverage, if the engine asks for it."""
    if "coverage" not in sys.argv:
        return nullcontext()
    import atheris

    return atheris.instrument_imports(include=["sdk", "PIL", "numpy.lib"])


def _arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="journal, findings and inputs")
    parser.add_argument("--target", action="append", choices=names, help="repeatable (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the executions of a complete run")
    parser.add_argument("--index", type=int, help="execute one input and show its error")
    parser.add_argument("--engine", choices=("random", "coverage"), default="random")
    parser.add_argument("--executions", type=int, default=100_000, help="of the engine coverage")
    return parser.parse_args()


def fuzz(target: Target, folder: Path, share: float = 1.0) -> Counts:
    """Execute what the journal in `folder` does not hold yet; print and return the counts of the whole target."""
    folder.mkdir(parents=True, exist_ok=True)
    journal, findings = folder / f"{target.name}.jsonl", Findings(folder)
    done = {row["begin"]: row for row in read_journal(journal)}
    total, count = Counts(), max(1, round(target.count * share))
    for begin in range(0, count, target.block):
        end = min(count, begin + target.block)
        if done.get(begin, {}).get("end") != end:
            with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory_disk()) as scratch:
                counts = run_block(target, begin, end, Path(scratch), findings)
            done[begin] = {"begin": begin, "end": end, **vars(counts)}
            append_journal(journal, done[begin])
        total.add(Counts(**{key: value for key, value in done[begin].items() if key not in ("begin", "end")}))
    print(row(target.what, total), flush=True)
    return total


def _memory_disk() -> str | None:
    """A folder in memory for files that are written at every execution; None if the machine has none with room."""
    disk = Path("/dev/shm")
    return str(disk) if disk.is_dir() and shutil.disk_usage(disk).free > 10**8 else None


def row(what: str, counts: Counts) -> str:
    """The row of the table of a target."""
    return (
        f"| {what} | {counts.executions:,} | {counts.refused:,} | {counts.escapes} | {counts.slow} | {counts.large} | "
        f"{counts.longest_s:.2f} s | {counts.peak_bytes / 1e6:.0f} MB | {counts.seconds:.0f} s |"
    )


def _repeat(target: Target, index: int) -> int:
    """Execute one input in this process."""
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as scratch:
        data = target.case(index)
        print(f"{target.name} {index}: {len(data)} bytes {data[:200]!r}", file=sys.stderr)
        try:
            print(repr(target.open(Path(scratch))(data))[:2000])
        except target.errors as error:
            print(f"refused: {type(error).__name__}: {error}"[:2000])
    return 0


if __name__ == "__main__":
    sys.exit(main())
