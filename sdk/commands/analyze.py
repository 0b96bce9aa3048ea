"""`emola analyze PHOTO|FOLDER...`"""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sdk.analyzer import Analyzer
from sdk.errors import ImageError, SdkError, UsageError
from sdk.faba.prompts import TASKS
from sdk.files import write_file
from sdk.printable import json_text
from sdk.render import describe
from sdk.results import Analysis
from sdk.runtime.backends.select import DEVICES

if TYPE_CHECKING:
    from sdk.examine import RequestedTask


STDIN = "<stdin>"  # the name of sys.stdin.buffer, hence the source of its analysis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="image file, folder of image files, or - for stdin")
    add_model_arguments(parser)
    parser.add_argument(
        "--faces", choices=("detect", "aligned"), default="detect", help="aligned: every photo is the crop of one face"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="number of faces decoded at once (default 8)")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="PATH",
        help="save the photo with boxes, labels and action units; for several photos the name of a folder",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="PATH",
        help="write a table with one row per face, in place of the text: .csv, .xlsx or .parquet",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document: an analysis, or a list for several photos"
    )


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the bundle and the device."""
    parser.add_argument("--bundle", help="folder of a bundle, or owner/name on the hub (default: the embedded bundle)")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument("--device", default="auto", choices=DEVICES, help="where to compute (default auto)")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the model and the tasks."""
    add_bundle_arguments(parser)
    parser.add_argument("--task", action="append", choices=(*TASKS, "labels"), help="run only this task; repeatable")
    parser.add_argument("--scores", action="store_true", help="add the probabilities of the labels")
    parser.add_argument(
        "--abstain-below", type=float, default=0.0, metavar="P", help="withhold labels with a probability below P"
    )
    parser.add_argument(
        "--detector", default="auto", help="auto (the bundle's detector, or dlib) or a SCRFD .onnx file"
    )
    parser.add_argument("--min-score", type=float, metavar="S", help="lowest score of a detected face")
    parser.add_argument("--min-face", type=float, default=0.0, metavar="PIXELS", help="smallest side of a face box")
    parser.add_argument("--max-faces", type=int, metavar="N", help="analyse only the N largest faces")
    parser.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: ONNX Runtime chooses)")
    parser.add_argument("--memory-limit", type=float, metavar="MB", help="limit for weights and KV caches")
    parser.add_argument("--visual-tokens", type=int, metavar="N", help="read only N picture rows for each face")
    parser.add_argument("--max-tokens", type=int, help="limit of each answer in tokens")


def analyzer_options(args: argparse.Namespace) -> dict[str, Any]:
    """Check the options of `add_model_arguments` and return the keyword arguments of Analyzer."""
    for name, least in (("max_tokens", 1), ("threads", 1), ("max_faces", 1), ("min_face", 0)):
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if args.memory_limit is not None and not 0 <= args.memory_limit < float("inf"):
        raise UsageError(f"--memory-limit is a number of MB, not {args.memory_limit}")
    if args.min_score is not None and math.isnan(args.min_score):
        raise UsageError("--min-score is a number, not NaN: no face would have it")
    if not 0 <= args.abstain_below <= 1:
        raise UsageError(f"--abstain-below is a probability in 0..1, not {args.abstain_below}")
    if args.abstain_below and not args.scores and "labels" not in (args.task or ()):
        raise UsageError("--abstain-below needs label scores: add --scores or --task labels")
    return {
        "bundle": args.bundle,
        "device": args.device,
        "detector": args.detector,
        "offline": args.offline,
        "scores": args.scores,
        "abstain_below": args.abstain_below,
        "memory_limit": None if args.memory_limit is None else int(1e6 * args.memory_limit),
        "visual_tokens": args.visual_tokens,
        "threads": args.threads,
        "min_score": args.min_score,
        "min_face": args.min_face,
        "max_faces": args.max_faces,
    }


def open_analyzer(args: argparse.Namespace, *, keep_image: bool = False) -> Analyzer:
    """Open the Analyzer that the options describe; print the notice of its model to stderr."""
    analyzer = Analyzer(**analyzer_options(args), keep_image=keep_image)
    if analyzer.pipeline.notice:
        print(f"note: {analyzer.pipeline.notice}", file=sys.stderr)
    return analyzer


def run(args: argparse.Namespace) -> None:
    if args.batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, not {args.batch_size}")
    photos = _photos(args.photos)
    several = len(photos) > 1 or Path(args.photos[0]).is_dir()
    documents: list[dict[str, Any]] = []
    failures: list[str] = []
    targets = _targets(photos, args.save, several) if args.save else {}
    if args.save:
        _check_folders_stay(args.photos, args.save)
    check_inputs_stay(photos, args.csv, *targets.values())
    with open_analyzer(args, keep_image=args.save is not None) as analyzer, _table(args.csv) as table:
        for analysis in _with_progress(_analyses(analyzer, photos, args), len(photos)):
            if analysis.status == "failed":
                failures.extend(analysis.warnings)
                continue
            _show(analysis, args, targets)
            if table:
                table.add(analysis)
            if args.json:
                documents.append(analysis.to_dict())
    if args.json and documents:
        print(json_text(documents if several else documents[0]))
    if args.csv:
        print(f"wrote {args.csv}", file=sys.stderr)
    if failures:
        count = f"{len(failures)} of {len(photos)} pictures could not be read: " if several else ""
        raise ImageError(count + "; ".join(failures))


def _photos(names: Sequence[str]) -> list[str]:
    from sdk.batch import pictures_in

    found: list[str] = []
    for name in names:
        found += map(str, pictures_in(Path(name))) if Path(name).is_dir() else [STDIN if name == "-" else name]
    return found


def _targets(photos: Sequence[str], save: Path, several: bool) -> dict[str, Path]:
    """The output path of each photo's drawing; photos with the same name get the names of their folders as prefix.

    Raises:
        UsageError: `save` is not the name of a picture or, for several photos, of a folder; or two names are equal.
    """
    is_picture = Image.registered_extensions().get(save.suffix.lower()) in Image.SAVE
    if not several and not is_picture:
        raise UsageError(f"--save {save}: expected the name of a picture, such as out.png")
    if several and (is_picture or save.exists()) and not save.is_dir():
        raise UsageError(f"--save {save}: expected the name of a folder for several photos, such as drawn")
    names = {photo: "stdin" if photo == STDIN else Path(photo).stem for photo in photos}
    if len(set(names.values())) < len(names):
        root = os.path.commonpath([os.path.dirname(os.path.abspath(photo)) for photo in photos])
        names = {photo: "_".join(Path(os.path.relpath(photo, root)).parts) for photo in photos}
    targets = {photo: save / f"{name}.png" if several else save for photo, name in names.items()}
    if len(set(targets.values())) < len(targets):
        raise UsageError(f"--save {save}: two drawings would have the same name; analyse the folders one by one")
    return targets


def _check_folders_stay(names: Sequence[str], save: Path) -> None:
    """Raise UsageError if drawings would lie in a folder that is analysed: the next run would read them."""
    place = Path(os.path.realpath(save))
    for name in filter(os.path.isdir, names):
        if Path(os.path.realpath(name)) in (place, *place.parents):
            raise UsageError(f"--save {save} is in {name}, which is analysed; choose a folder beside it")


def check_inputs_stay(inputs: Sequence[str], *outputs: Path | None) -> None:
    """Raise UsageError if an output would replace an input."""
    given = {os.path.realpath(name) for name in inputs}
    for output in outputs:
        if output and os.path.realpath(output) in given:
            raise UsageError(f"{output} would replace an input; choose another path")


def _table(path: Path | None) -> Any:
    from sdk.table_files import open_table

    return open_table(path) if path else nullcontext()


def _analyses(analyzer: Analyzer, photos: Sequence[str], args: argparse.Namespace) -> Iterator[Analysis]:
    tasks: Sequence[RequestedTask] = args.task or TASKS
    sources = [sys.stdin.buffer if photo == STDIN else photo for photo in photos]
    if len(sources) == 1:
        yield analyzer.analyze(sources[0], tasks=tasks, faces=args.faces, max_new_tokens=args.max_tokens)
        return
    yield from analyzer.iterate_batch(
        sources,
        tasks=tasks,
        faces=args.faces,
        max_new_tokens=args.max_tokens,
        batch_size=args.batch_size,
        keep_going=True,
    )


def _with_progress(analyses: Iterator[Analysis], total: int) -> Iterator[Analysis]:
    """Show a progress bar for several photos if stderr is a terminal."""
    if total == 1 or not sys.stderr.isatty():
        return analyses
    from tqdm import tqdm

    return iter(tqdm(analyses, total=total, unit="photo"))


def _show(analysis: Analysis, args: argparse.Namespace, targets: Mapping[str, Path]) -> None:
    """Print and draw an analysis; with --csv it is not printed."""
    if not args.json and not args.csv:
        print(describe(analysis.model_copy(update={"warnings": ()})))
        for warning in analysis.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if args.save:
        target, content = targets[analysis.source], BytesIO()
        try:
            analysis.plot().save(content, Image.registered_extensions()[target.suffix.lower()])
        except (ValueError, OSError) as error:
            raise SdkError(f"--save {target}: {error}; choose another path") from None
        write_file(target, content.getvalue())
        print(f"wrote {target}", file=sys.stderr)
