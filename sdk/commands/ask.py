"""`emola ask PHOTO QUESTION`"""

import argparse
import json
import sys

from sdk.analyzer import Analyzer
from sdk.commands.options import (
    STDIN,
    add_bundle_arguments,
    add_picture_arguments,
    add_reading_arguments,
    print_notice,
    reading_options,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photo", metavar="PHOTO", help="image file, or - for stdin; the question is about its most prominent face"
    )
    parser.add_argument(
        "question", metavar="QUESTION", help="a question in words, or the name of a task: emotion or action_units"
    )
    add_bundle_arguments(parser)
    add_picture_arguments(parser)
    add_reading_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the words as they come")


def run(args: argparse.Namespace) -> None:
    photo, name = (sys.stdin.buffer, STDIN) if args.photo == "-" else (args.photo, args.photo)
    with Analyzer(**reading_options(args)) as analyzer:
        print_notice(analyzer.pipeline.notice)
        pieces = analyzer.stream(photo, args.question, faces=args.faces)
        if not args.json:
            for piece in pieces:
                print(piece, end="", flush=True)
            print()
            return
        found = {"source": name, "question": args.question, "answer": "".join(pieces).strip()}
        print(json.dumps({**found, "model": analyzer.examiner.model.model_dump()}, ensure_ascii=False, indent=1))
