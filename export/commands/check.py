"""`emola check [BUNDLE]`: one verdict on a bundle, on the machine that will run it."""

import argparse
import html
import json
from pathlib import Path

from export.targets.check import Checked, CheckOptions, check_bundle
from export.targets.machines import TARGETS
from sdk.bundles.hub import resolve_bundle
from sdk.errors import ExportError
from sdk.files import write_file
from sdk.html import page, table
from sdk.progress import Console
from sdk.ranges import COUNT, FINITE, POSITIVE, check_options
from sdk.runtime.backends.select import DEVICES

_MARKS = {"passed": "ok  ", "failed": "FAIL", "not judged": "-   "}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle",
        nargs="?",
        metavar="BUNDLE",
        help="folder of a bundle, or owner/name on the hub (default: the bundle in the package)",
    )
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="what runs the bundle (default auto: the best that runs here)"
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        metavar="NAME",
        help="name of this machine in `emola plan`, whose plan counts (default: found out)",
    )
    parser.add_argument(
        "--evaluation", type=Path, metavar="JSON", help="the evaluation set of the export: compare REGE with torch's"
    )
    parser.add_argument(
        "--root", type=Path, help="folder that its pictures are relative to (default: found above the file)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="take only the first N records of the set (default: all)"
    )
    parser.add_argument(
        "--answers",
        type=Path,
        metavar="DIR",
        help="folder that keeps the answers, so that a check that was stopped continues",
    )
    parser.add_argument(
        "--max-rege-drop",
        type=float,
        default=1.0,
        metavar="N",
        help="points of REGE that may be lost (default 1)",
    )
    parser.add_argument(
        "--max-latency",
        type=float,
        default=1.5,
        metavar="N",
        help="times the planned latency that are allowed (default 1.5)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the result as a page")


def run(args: argparse.Namespace) -> None:
    check_options(vars(args), {"limit": COUNT, "max_rege_drop": FINITE, "max_latency": POSITIVE})
    options = CheckOptions(
        device=args.device,
        target=args.target,
        evaluation=args.evaluation,
        root=args.root,
        limit=args.limit,
        answers=args.answers,
        rege_drop=args.max_rege_drop,
        latency_factor=args.max_latency,
    )
    with Console() as report:
        found = check_bundle(resolve_bundle(args.bundle), options, report)
    if args.html:
        write_file(args.html, _page(found))
    print(json.dumps(found.to_dict(), indent=1) if args.json else "\n".join(_lines(found)))
    if found.failed:
        reasons = [f"{each.part}: {each.text}" for each in found.failed]
        raise ExportError(f"{found.name} did not pass: {'; '.join([*reasons, *filter(None, [found.disturbed])])}")


def _lines(found: Checked) -> list[str]:
    rows = [f"  {_MARKS[each.verdict]} {each.part:13}{each.text}" for each in found.findings]
    sources = {each.figures["plan"] for each in found.findings if "plan" in each.figures}
    plans = [f"  plan: {source}" for source in sources]
    return [f"{found.name} on {found.backend or 'no backend'}: {_summary(found)}", *rows, *plans]


def _summary(found: Checked) -> str:
    judged = {each.part for each in found.findings if each.verdict != "not judged"}
    unjudged = sorted({each.part for each in found.findings} - judged)
    verdict = f"{len(found.failed)} of {len(found.findings)} checks failed" if found.failed else "passed"
    return f"{verdict}; not judged: {', '.join(unjudged)}" if unjudged else verdict


def _page(found: Checked) -> bytes:
    style = "bad" if found.failed else "good"
    rows = [(each.part, each.verdict, each.text) for each in found.findings]
    parts = [
        f'<p class="{style}">{html.escape(f"{found.backend}: {_summary(found)}")}</p>',
        table("What was checked", ("part", "verdict", "found"), rows),
        table("On this machine", ("", ""), [("digest", found.digest), *sorted(found.environment.items())]),
    ]
    return page(found.name, parts)
