"""`emola demo`: run the embedded model on a photograph and a rendered face from the package."""

import argparse
from pathlib import Path

from sdk.commands import analyze

PICTURES = Path(__file__).parents[1] / "assets" / "pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save", default="emola-demo", metavar="DIR", help="folder for the annotated pictures (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the analyses as one JSON list")


def run(args: argparse.Namespace) -> None:
    parser = argparse.ArgumentParser()
    analyze.add_arguments(parser)
    pictures = [str(path) for path in sorted(PICTURES.glob("*.jpg"))]
    analyze.run(parser.parse_args([*pictures, "--save", args.save, *["--json"] * args.json]))
