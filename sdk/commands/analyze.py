"""`emola analyze PHOTO...`"""

import argparse
import json
import sys
from pathlib import Path

from sdk.analyzer import Analyzer
from sdk.errors import ImageError, SdkError
from sdk.faba.prompts import TASKS
from sdk.faces.images import load_image
from sdk.render import annotate, describe
from sdk.results import Analysis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="image file")
    parser.add_argument("--bundle", help="folder of a bundle; default: the embedded one")
    parser.add_argument("--task", action="append", choices=TASKS, help="ask only this; may be given twice")
    parser.add_argument(
        "--faces", choices=("detect", "aligned"), default="detect", help="aligned: each photo is the crop of one face"
    )
    parser.add_argument("--detector", default="auto", help="auto (dlib) or a SCRFD .onnx file")
    parser.add_argument("--device", default="auto", help="auto or cpu")
    parser.add_argument("--max-tokens", type=int, help="limit of each answer in tokens")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="PATH",
        help="write the photo with boxes and labels; a folder when there are several photos",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document: an analysis, or a list of them for several photos"
    )


def run(args: argparse.Namespace) -> None:
    if args.max_tokens is not None and args.max_tokens < 1:
        raise SdkError(f"--max-tokens must be at least 1, not {args.max_tokens}")
    analyzer = Analyzer(args.bundle, device=args.device, detector=args.detector)
    if analyzer.manifest.notice:
        print(f"note: {analyzer.manifest.notice}", file=sys.stderr)
    analyses: list[Analysis] = []
    failures = []
    for photo in args.photos:
        try:
            analyses.append(_analyze(analyzer, photo, args))
        except ImageError as error:
            failures.append(str(error))
    if args.json and analyses:
        documents = [analysis.to_dict() for analysis in analyses]
        print(json.dumps(documents if len(args.photos) > 1 else documents[0], ensure_ascii=False, indent=1))
    if failures:
        raise ImageError("; ".join(failures))


def _analyze(analyzer: Analyzer, photo: str, args: argparse.Namespace) -> Analysis:
    """Analyse one photo; print and draw it as the options say."""
    analysis = analyzer.analyze(photo, tasks=args.task or TASKS, faces=args.faces, max_new_tokens=args.max_tokens)
    if not args.json:
        print(describe(analysis))
    if args.save:
        target = args.save if len(args.photos) == 1 else args.save / f"{Path(photo).stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            annotate(load_image(photo), analysis).save(target)
        except (ValueError, OSError) as error:
            raise SdkError(f"--save {target}: {error}; expected a file name such as out.png") from None
        print(f"wrote {target}", file=sys.stderr)
    return analysis
