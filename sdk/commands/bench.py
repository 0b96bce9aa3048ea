"""`emola bench`: time every stage, compare it with the limits of the machine and with an earlier run."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from sdk.analyzer import Analyzer
from sdk.bench.ceilings import floors, measure_ceilings
from sdk.bench.compare import Change, compare, differences
from sdk.bench.energy import find_meter
from sdk.bench.footprint import measure_footprint
from sdk.bench.machine import environment
from sdk.bench.page import html_page, text
from sdk.bench.report import Energy, Report, Stage, read_json, read_report
from sdk.bench.stages import Bench
from sdk.bundles.hub import resolve_bundle
from sdk.bundles.manifest import read_manifest
from sdk.commands.demo import PICTURES
from sdk.commands.options import add_bundle_arguments
from sdk.errors import BackendError, IntegrityError, UsageError
from sdk.files import write_file
from sdk.ranges import Range, check_options
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference, measure_parity

_ENERGY_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The exit code is 1 if --compare finds a stage that is slower beyond noise."
    add_bundle_arguments(parser)
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="rounds of all stages (default 15)")
    parser.add_argument(
        "--photo",
        type=Path,
        default=PICTURES / "astronaut.jpg",
        metavar="FILE",
        help="picture of a face (default: one in the package)",
    )
    parser.add_argument(
        "--faces",
        choices=("detect", "aligned"),
        default="detect",
        help="detect finds the faces; aligned takes the picture as the crop of one face (default detect)",
    )
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="FILE.json",
        help="add the results of other runtimes, as benchmarks/peers.py measured them",
    )
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="compare with an earlier output of --json")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write an HTML page with plots")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")


def run(args: argparse.Namespace) -> None:
    check_options(vars(args), {"rounds": Range(least=3, whole=True)})
    if args.html and (args.html.is_dir() or not args.html.absolute().parent.is_dir()):
        raise UsageError(f"--html {args.html}: expected the name of a file in an existing folder")
    old = read_report(args.compare) if args.compare else None
    report = _measure(args)
    changes = compare(report, old) if old else []
    if args.html:
        write_file(args.html, html_page(report, changes))
        print(f"wrote {args.html}", file=sys.stderr)
    if args.json:
        compared = {"comparison": [change.to_dict() for change in changes]} if old else {}
        print(json.dumps({**report.to_dict(), **compared}, indent=1))
    else:
        print(text(report, changes))
    for difference in differences(report, old) if old else ():
        print(f"note: machine or model differ: {difference}", file=sys.stderr)
    _fail_if_slower(changes, args.compare)


def _measure(args: argparse.Namespace) -> Report:
    peers = read_json(args.peers) if args.peers else None
    machine = environment()
    folder = resolve_bundle(args.bundle, offline=args.offline)
    with Analyzer(folder, device=args.device) as analyzer:
        manifest, backend = analyzer.manifest, analyzer.pipeline.backend
        variant = backend.variant
        parity = _check_parity(analyzer.pipeline, Reference.load(folder / manifest.reference))
        bench = Bench(analyzer, args.photo, aligned=args.faces == "aligned")
        ceilings = measure_ceilings(manifest, variant)
        for index in range(args.rounds):
            print(f"round {index + 1} of {args.rounds}", file=sys.stderr)
            bench.round()
        energy = _energy(bench, "cuda" if backend.on_gpu else "cpu")
    floor_of = floors(manifest, variant, ceilings)
    return Report(
        model=manifest.name,
        digest=manifest.digest,
        variant=backend.name,
        notice=manifest.notice,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        environment=machine,
        ceilings=ceilings,
        stages=tuple(Stage(name=n, rounds=tuple(r), floor=floor_of.get(n)) for n, r in bench.rounds.items()),
        tokens_per_second=float(np.median(bench.tokens_per_second)) if bench.tokens_per_second else None,
        footprints=tuple(
            measure_footprint(folder, manifest, each, args.photo, args.faces) for each in read_manifest(folder).variants
        ),
        energy=energy,
        parity=parity,
        peers=peers,
    )


def _check_parity(pipeline: Pipeline, reference: Reference) -> dict[str, float]:
    """Relative error of each stage against the torch model.

    Raises:
        IntegrityError: the error of a stage is above its tolerance, so its time would mean nothing.
    """
    measured = measure_parity(pipeline, reference)
    for parity in measured:
        if not parity.passed:
            raise IntegrityError(
                f"{parity.stage} differs from the torch model by {parity.relative_error:.1e}, the tolerance is "
                f"{parity.tolerance:.1e}; nothing was timed: see `emola verify`"
            )
    return {parity.stage: parity.relative_error for parity in measured}


def _energy(bench: Bench, device: str) -> Energy:
    meter = find_meter(device)
    if meter is None:
        return Energy(source="no energy meter found")
    meter.start()
    tokens = bench.step_for(_ENERGY_S)
    return Energy(source=meter.source, joules=meter.stop(), tokens=tokens)


def _fail_if_slower(changes: Sequence[Change], path: Path) -> None:
    slower = [f"{c.stage} {c.ratio:.2f} times ({c.low:.2f} .. {c.high:.2f})" for c in changes if c.verdict == "slower"]
    if slower:
        raise BackendError(f"slower than {path} beyond noise: {', '.join(slower)}")
