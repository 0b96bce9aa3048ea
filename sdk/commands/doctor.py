"""`emola doctor`: say what works on this machine, with the command that mends what does not."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict

from sdk.commands.demo import PICTURES
from sdk.doctor.findings import Finding
from sdk.errors import BackendError

_MARKS = {"works": "ok  ", "absent": "-   ", "broken": "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from sdk.commands.options import add_bundle_arguments

    parser.epilog = (
        "The exit code is 1 if something that is installed does not work. The hub is asked unless --offline."
    )
    add_bundle_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(args: argparse.Namespace) -> None:
    findings = []
    for finding in _findings(args):
        findings.append(finding)
        if not args.json:
            print("\n".join(_lines(finding)), flush=True)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    broken = [finding.part for finding in findings if finding.verdict == "broken"]
    if broken:
        raise BackendError(f"not working here: {', '.join(broken)}; the lines above say what to do")


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    from sdk.doctor.machine import check_bundle, check_devices, check_hub
    from sdk.doctor.packages import check_packages

    yield from check_packages()
    yield from check_devices()
    yield check_hub(args.offline)
    yield check_bundle(args.bundle, PICTURES / "astronaut.jpg", device=args.device, offline=args.offline)


def _lines(finding: Finding) -> Iterator[str]:
    yield f"{_MARKS[finding.verdict]} {finding.part:12}{finding.found}"
    if finding.remedy:
        yield f"{'':17}{finding.remedy}"
