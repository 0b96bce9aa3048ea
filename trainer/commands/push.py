"""`emola push`"""

import argparse
import json
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a bundle, or a checkpoint of `emola train`")
    parser.add_argument("name", metavar="OWNER/NAME", help="repository on the hub; it is made if it does not exist")
    parser.add_argument(
        "--evaluation",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="folders of `emola evaluate`: their figures go into the model card",
    )
    parser.add_argument("--revision", default="main", help="branch (default %(default)s)")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="print the model card and the files, upload nothing")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> None:
    from trainer.publish.card import model_card
    from trainer.publish.upload import push, shown_files

    card = model_card(args.folder, args.name, args.evaluation)
    if args.dry_run:
        print("\n".join(shown_files(args.folder)), file=sys.stderr)
        print(card)
        return
    found = push(args.folder, args.name, card, revision=args.revision, private=args.private)
    print(json.dumps({"pushed": found}) if args.json else f"pushed {found}")
