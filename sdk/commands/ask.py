"""`emola ask PHOTO QUESTION`"""

import argparse
import json
import sys

from sdk.analyzer import Analyzer
from sdk.commands.analyze import add_bundle_arguments, add_reading_arguments, reading_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", metavar="PHOTO", help="image file; the question is about its most prominent face")
    parser.add_argument(
        "question", metavar="QUESTION", help="in words; or emotion or action_units, the fixed questions"
    )
    add_bundle_arguments(parser)
    parser.add_argument(
        "--faces", choices=("detect", "aligned"), default="detect", help="aligned: the photo is the crop of one face"
    )
    add_reading_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the words as they come")


def run(args: argparse.Namespace) -> None:
    with Analyzer(**reading_options(args)) as analyzer:
        if analyzer.pipeline.notice:
            print(f"note: {analyzer.pipeline.notice}", file=sys.stderr)
        pieces = analyzer.stream(args.photo, args.question, faces=args.faces)
        if not args.json:
            for piece in pieces:
                print(piece, end="", flush=True)
            print()
            return
        found = {"source": args.photo, "question": args.question, "answer": "".join(pieces).strip()}
        print(json.dumps({**found, "model": analyzer.examiner.model.model_dump()}, ensure_ascii=False, indent=1))
