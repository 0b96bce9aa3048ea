"""`emola engines BUNDLE`"""

import argparse
import sys
from pathlib import Path

from export.targets.engines import EngineOptions, build_engines
from sdk.errors import ExportError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="folder of a sealed bundle")
    parser.add_argument(
        "--target", default="auto", help="machine that this one must be, as `emola plan` lists them (default auto)"
    )
    parser.add_argument("--batch", default="1,4", help="batch sizes to measure, rising (default 1,4)")
    parser.add_argument("--workspace", type=float, default=2.0, metavar="GB", help="memory for the builder (default 2)")
    parser.add_argument(
        "--max-latency", type=float, default=1.5, help="factor on the planned time of the vision engine (default 1.5)"
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON")


def run(args: argparse.Namespace) -> None:
    try:
        batches = tuple(int(size) for size in args.batch.split(","))
    except ValueError:
        raise ExportError(f"--batch takes numbers such as 1,4, not {args.batch!r}") from None
    if not 0 < args.workspace < 1e6:
        raise UsageError(f"--workspace is a number of GB greater than 0, not {args.workspace}")
    options = EngineOptions(batches, int(args.workspace * (1 << 30)), args.max_latency)
    target = None if args.target == "auto" else args.target
    record = build_engines(args.bundle, options, target, lambda line: print(line, file=sys.stderr))
    if args.json:
        print(record.model_dump_json(indent=1))
        return
    print(record.verdict)
    print(f"{args.bundle}/engines/{record.platform.folder}: {', '.join(record.plans)}")
    for name, plan in record.plans.items():
        for batch, median in plan.p50_ms.items():
            print(f"  {name:9} batch {batch}: p50 {median} ms, p95 {plan.p95_ms[batch]} ms")
