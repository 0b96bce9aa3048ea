"""From released files to a checked bundle at the full size, with random weights: minutes, memory and disk of each step.

    python benchmarks/rehearsal.py FOLDER [--layers 32] [--quantize int4,gptq] [--records 8] [--kill gptq] [--tiny]

Writes the checkpoint (benchmarks/full_size_checkpoint.py), exports it with rounding and with GPTQ, kills one more
export in the middle of a stage and starts it again, then runs `emola verify`, `check`, `analyze` and `bench`. Each step
is a child process. FOLDER/rehearsal.jsonl records finished steps and stages, so a rehearsal that was stopped goes on;
a step whose assertions failed runs again. The last line is JSON; the exit code is 1 if an assertion failed.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from full_size_checkpoint import FULL, TINY
from rehearsal_steps import STAGES, Steps, Verdict
from watch import Run, as_row

from sdk.bench.machine import environment
from sdk.errors import ExportError
from sdk.files import append_journal, claim_folder, read_journal

PEAK_GB = 16.0
COLUMNS = ("minutes", "anonymous_gb", "resident_gb", "disk_gb")


def main() -> int:
    args = _arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    try:
        settings = {"layers": args.layers, "records": args.records, "tiny": args.tiny}
        claim_folder(args.folder / "rehearsal.json", settings, "rehearsal", ExportError, shared=True)
        rows = rehearse(args)
    except ExportError as error:
        print(f"rehearsal: {error}", file=sys.stderr)
        return 1
    machine = {**environment(), **{name: version(name) for name in ("torch", "transformers")}}
    failures = [f"{row['step']}: {failure}" for row in rows for failure in row["failures"]]
    print(table(rows))
    print("\n".join(f"FAILED {failure}" for failure in failures) or "every assertion holds")
    print(json.dumps({**settings, "environment": machine, "steps": rows, "failures": failures}))
    return int(bool(failures))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="takes about 55 GB with 32 layers; a checkpoint in it is used")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--quantize", default="int4,gptq", type=lambda text: text.split(","), help="exports, in order")
    parser.add_argument("--records", type=int, default=8, help="fused records that GPTQ calibrates on")
    parser.add_argument("--kill", nargs="+", default=["gptq"], choices=(*STAGES, "none"), metavar="STAGE")
    parser.add_argument("--cuda", action="store_true", help="export for an NVIDIA GPU too, and check and use that")
    parser.add_argument("--tiny", action="store_true", help="narrow matrices, for tests")
    args = parser.parse_args()
    if not Path("/proc/self/status").is_file():
        parser.error("memory is read from /proc, so it runs on Linux only")
    if unknown := {*args.quantize} - {"int4", "gptq"}:
        parser.error(f"--quantize takes int4 and gptq, not {', '.join(sorted(unknown))}")
    args.kill = [] if "none" in args.kill else args.kill
    if {"calibrate", "gptq"} & {*args.kill} and "gptq" not in args.quantize:
        parser.error("an export without gptq has no stages calibrate and gptq to be killed in; choose another --kill")
    return args


def rehearse(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the steps that the journal does not hold; returns one row per step. A failed export ends the rehearsal."""
    journal = args.folder / "rehearsal.jsonl"
    before = read_journal(journal)
    done = {row["step"]: row for row in before if "failures" in row}
    shape = TINY if args.tiny else FULL
    steps = Steps(args.folder, shape, args.layers, args.quantize, args.records, args.kill, journal, args.cuda)
    rows = []
    for name, (measure, judge) in steps.all().items():
        if name in done:
            print(f"== {name}: done before, skipped", file=sys.stderr)
            rows.append(done[name])
            continue
        print(f"== {name}", file=sys.stderr, flush=True)
        resumed = any(row["step"] == name for row in before)
        append_journal(journal, {"step": name, "begun": True})
        run = measure(name)
        row = _row(name, run, judge(run), before, resumed)
        rows.append(row)
        if not row["failures"]:
            append_journal(journal, row)
        elif run.code and name.startswith(("checkpoint", "export")):
            break
    return rows


def _row(name: str, run: Run, verdict: Verdict, before: list[dict[str, Any]], resumed: bool) -> dict[str, Any]:
    """The row of a step. Stages that an earlier rehearsal finished count as it measured them."""
    earlier = {row["stage"]: row for row in before if row["step"] == name and "stage" in row}
    stages = {stage: as_row(usage) for stage, usage in run.stages.items()}
    kept = {stage: {key: row[key] for key in COLUMNS} for stage, row in earlier.items() if stage not in stages}
    row = as_row(run.usage)
    row["minutes"] = round(row["minutes"] + sum(found["minutes"] for found in kept.values()), 3)
    for column in COLUMNS[1:]:
        row[column] = max([row[column], *(found[column] for found in kept.values())])
    failures = list(verdict.failures)
    if row["anonymous_gb"] > PEAK_GB:
        failures.append(f"{row['anonymous_gb']:.1f} GB of anonymous memory, at most {PEAK_GB:g} GB are allowed")
    result = verdict.result + ("; went on after a stop" if resumed else "")
    measured = {"stages": {**kept, **stages}, "figures": verdict.figures, "git": environment().get("git")}
    return {"step": name, **row, "result": result, **measured, "failures": failures}


def table(rows: list[dict[str, Any]]) -> str:
    """A table in Markdown with one line per step and per stage."""
    lines = [["step", "minutes", "anonymous GB", "resident GB", "disk GB", "result"], ["---"] * 6]
    for row in rows:
        result = "; ".join([row["result"], *(f"FAILED: {failure}" for failure in row["failures"])])
        lines.append([f"**{row['step']}**", *_cells(row), result])
        lines += [[f"- {stage}", *_cells(usage), ""] for stage, usage in row["stages"].items()]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    padded = ([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[5]] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def _cells(usage: dict[str, Any]) -> list[str]:
    return [f"{usage[column]:.2f}" for column in COLUMNS]


if __name__ == "__main__":
    sys.exit(main())
