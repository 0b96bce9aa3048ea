"""`emola data ACTION`: make, check and describe training and evaluation sets."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from sdk.errors import DataError
from sdk.faba.prompts import Task
from sdk.faces.crop import RELEASED_FACE_SCALE
from sdk.progress import progress_bar
from trainer.commands.arguments import at_least_one, not_negative, positive
from trainer.corpus.datasets import DatasetName

_TASKS: dict[str, Task] = {"emotion": "emotion", "au": "action_units"}  # as the files are named
_ALIGN: dict[str, Any] = {
    "nargs": "?",
    "const": "auto",
    "metavar": "FILE",
    "help": "turn each face until its eyes are level, as the paper does; FILE finds them: 2d106det.onnx, an "
    "insightface pack such as buffalo_l, or a shape predictor of dlib (.dat); default: the landmark network in the "
    "package",
}
_WORKERS: dict[str, Any] = {"type": at_least_one, "default": 1, "metavar": "N"}
_DETECTORS = "dlib, as in the paper and by default; auto, that of the package; an .onnx file"
_ROOT_HELP = "folder that the pictures are relative to; default: found above the file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, (summary, add, action) in _ACTIONS.items():
        subparser = actions.add_parser(name, help=summary, description=summary)
        add(subparser)
        subparser.set_defaults(action=action)


def run(args: argparse.Namespace) -> None:
    args.action(args)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=get_args(DatasetName), help="which data set it is")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the data set as distributed by its makers")
    parser.add_argument("--out", type=Path, required=True, help="new folder; an unfinished run there resumes")
    parser.add_argument("--fold", type=int, choices=(1, 2, 3), help="of DISFA and BP4D; default: all three")
    parser.add_argument("--detector", default="dlib", help=f"{_DETECTORS}; none if the pictures are cropped already")
    parser.add_argument("--align", **_ALIGN)
    parser.add_argument("--workers", **_WORKERS, help="processes that crop faces (default %(default)s)")
    parser.add_argument("--every", type=int, default=1, help="keep every n-th frame (default %(default)s)")
    parser.add_argument("--partition", type=Path, help="of GFT: the official division, lines 'participant,split'")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def _prepare(args: argparse.Namespace) -> None:
    from trainer.corpus.prepare import prepare

    if args.every < 1:
        raise DataError(f"--every must be at least 1, not {args.every}")
    with progress_bar("face") as progress:
        about = prepare(
            args.dataset,
            args.folder,
            args.out,
            fold=args.fold,
            detector=None if args.detector == "none" else args.detector,
            align=args.align,
            every=args.every,
            partition=args.partition,
            workers=args.workers,
            report=_say,
            progress=progress,
        )
    _print(about, args.json)


def _add_landmarks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="training or evaluation file")
    parser.add_argument(
        "--network",
        required=True,
        help="ONNX file with the interface of 2d106det, or an insightface pack such as buffalo_l",
    )
    parser.add_argument(
        "--mode",
        choices=("insightface", "emola"),
        default="insightface",
        help="input of the network: that of insightface (default), or the dark input of the released data",
    )
    parser.add_argument("--root", type=Path, help=_ROOT_HELP)
    parser.add_argument(
        "--face-scale",
        type=positive,
        default=RELEASED_FACE_SCALE,
        help="side of the pictures over the face box (default %(default)s)",
    )
    parser.add_argument("--replace", action="store_true", help="compute the files of another network or mode again")
    parser.add_argument("--batch-size", type=at_least_one, default=64, help="(default %(default)s)")
    parser.add_argument("--workers", **_WORKERS, help="processes that compute (default %(default)s)")
    parser.add_argument("--threads", type=at_least_one, default=4, help="of each process (default %(default)s)")


def _landmarks(args: argparse.Namespace) -> None:
    from sdk.bundles.insightface_packs import find_model
    from trainer.corpus.landmarks import fill_landmarks
    from trainer.corpus.records import read_records

    network = find_model(args.network, "landmark", DataError)
    # The task decides the question of evaluation records, which does not matter here.
    records = [record for path in args.files for record in read_records(path, args.root, "emotion")]
    names = ("batch_size", "threads", "workers", "face_scale", "replace")
    options = {name: getattr(args, name) for name in names}
    with progress_bar("file") as progress:
        count = fill_landmarks(records, network, args.mode, **options, report=_say, progress=progress)
    print(f"{count} landmark files written")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="training or evaluation file")
    parser.add_argument("--task", choices=tuple(_TASKS), help="of an evaluation file whose name does not contain it")
    parser.add_argument("--base", help="base model: report conversations longer than its context")
    parser.add_argument("--vision-tower", help="CLIP; not needed if the base describes it")
    parser.add_argument("--root", type=Path, help=_ROOT_HELP)
    parser.add_argument("--json", action="store_true", help="print the problems as a JSON list")


def _check(args: argparse.Namespace) -> None:
    from trainer.corpus.checks import check_rows
    from trainer.corpus.records import read_rows

    rows = read_rows(args.file)
    root = args.root or _reachable_root(args.file, rows)
    found = check_rows(rows, args.file, root, task=_task(args, args.file), **_context(args))
    problems = []
    for problem in found:
        problems.append(vars(problem))
        if not args.json:
            print(problem)
    if args.json:
        print(json.dumps(problems, indent=1))
    if problems:
        broken = len({problem["record"] for problem in problems})
        raise DataError(f"{broken} of {len(rows)} records are broken")
    _say(f"{len(rows)} records, none is broken")


def _reachable_root(path: Path, rows: list[Any]) -> Path:
    """The folder from which the first existing picture can be reached."""
    from trainer.corpus.records import find_root

    for row in rows:
        try:
            return find_root(path, [row])
        except DataError:
            continue
    return find_root(path, rows)


def _task(args: argparse.Namespace, path: Path) -> Task | None:
    """The task of a file: from --task or, as in FABA-Instruct, from its name."""
    named = (task for name, task in _TASKS.items() if f"_{name}_" in path.name)
    return _TASKS[args.task] if args.task else next(named, None)


def _context(args: argparse.Namespace) -> dict[str, Any]:
    """Tokenizer of a base model and maximum tokens of a conversation; the picture counts as one token."""
    if not args.base:
        return {}
    from sdk.bundles.hub import resolve_checkpoint
    from trainer.model.config import read_config
    from trainer.tokenization import load_tokenizer

    base = resolve_checkpoint(args.base)
    config = read_config(base, resolve_checkpoint(args.vision_tower) if args.vision_tower else None)
    return {"tokenizer": load_tokenizer(base), "max_tokens": config.max_length - config.image_rows + 1}


def _add_annotate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of photographs")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the set; an unfinished run there resumes")
    parser.add_argument("--endpoint", required=True, metavar="URL", help="OpenAI-compatible; key in OPENAI_API_KEY")
    parser.add_argument("--model", required=True, help="name of the model there")
    parser.add_argument(
        "--task", action="append", choices=tuple(_TASKS), help="ask only about this task; may be given twice"
    )
    parser.add_argument(
        "--split", choices=("train", "eval"), default="train", help="eval adds a review sheet (default train)"
    )
    parser.add_argument(
        "--sample", type=int, metavar="N", help="use N photographs of each class, drawn by --seed; a class is a folder"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="decides which question is asked, and the sample (default %(default)s)"
    )
    parser.add_argument("--workers", **_WORKERS, help="processes that crop faces (default %(default)s)")
    parser.add_argument(
        "--concurrency", type=at_least_one, default=4, help="questions asked at the same time (default %(default)s)"
    )
    parser.add_argument("--max-tokens", type=at_least_one, default=512, help="limit of an answer (default %(default)s)")
    parser.add_argument("--detector", default="dlib", help=_DETECTORS)
    parser.add_argument("--align", **_ALIGN)
    parser.add_argument(
        "--prices",
        type=not_negative,
        nargs=2,
        metavar=("PROMPT", "ANSWER"),
        help="dollars per million tokens, to compute the cost",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def _annotate(args: argparse.Namespace) -> None:
    from trainer.corpus.annotate import Prices, annotate
    from trainer.corpus.endpoint import ChatEndpoint

    with progress_bar("answer") as progress:
        about = annotate(
            args.images,
            args.out,
            ChatEndpoint(args.endpoint, args.model, os.environ.get("OPENAI_API_KEY")),
            tasks=[_TASKS[name] for name in args.task or _TASKS],
            split=args.split,
            seed=args.seed,
            concurrency=args.concurrency,
            prices=Prices(*args.prices) if args.prices else None,
            detector=args.detector,
            align=args.align,
            sample=args.sample,
            max_tokens=args.max_tokens,
            workers=args.workers,
            report=_say,
            progress=progress,
        )
    _print(about, args.json)


def _add_revise(parser: argparse.ArgumentParser) -> None:
    from trainer.corpus.review import VERDICTS

    known = "; ".join(f"{name}: {meaning}" for name, meaning in VERDICTS.items())
    parser.description = f"Apply the column `verdict` of FOLDER/review.csv and write FOLDER/revised. {known}."
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="holds review.csv, as `annotate --split eval` made it"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def _revise(args: argparse.Namespace) -> None:
    from trainer.corpus.revise import revise

    _print(revise(args.folder), args.json)


def _add_synthesize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    parser.add_argument("-n", type=int, required=True, dest="count", metavar="N", help="number of faces")
    parser.add_argument(
        "--face-model", type=Path, required=True, help="ICT-FaceKit: its folder FaceXModel, or the .npz"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides every face (default %(default)s)")
    parser.add_argument("--split", choices=("train", "eval"), default="train", help="names the files (default train)")
    parser.add_argument(
        "--portraits", action="store_true", help="draw calm people with low brows, and clear expressions"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that render (default %(default)s)")
    parser.add_argument("--preview", type=Path, metavar="PNG", help="also write a contact sheet of the first faces")


def _synthesize(args: argparse.Namespace) -> None:
    from trainer.synthetic.preview import preview
    from trainer.synthetic.synthesize import synthesize

    if args.count < 1:
        raise DataError(f"-n must be at least 1, not {args.count}")
    options = {name: getattr(args, name) for name in ("seed", "split", "portraits", "processes")}
    with progress_bar("face") as progress:
        synthesize(args.out, args.count, args.face_model, **options, report=lambda done: progress(done, args.count))
    if args.preview:
        preview(args.out, args.preview)
        _say(f"wrote {args.preview}")
    print(f"{args.count} faces in {args.out}")


def _add_stats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="training or evaluation file")
    parser.add_argument("--task", choices=tuple(_TASKS), help="of evaluation files whose name does not contain it")
    parser.add_argument("--root", type=Path, help=_ROOT_HELP)
    parser.add_argument("--save", type=Path, metavar="PNG", help="draw the distributions and word clouds")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, with the frequent words")


def _stats(args: argparse.Namespace) -> None:
    from trainer.corpus.records import read_records
    from trainer.corpus.stats import describe, plot

    records = [record for path in args.files for record in read_records(path, args.root, _task(args, path))]
    stats = describe(records)
    if args.save:
        plot(stats, args.save)
        _say(f"wrote {args.save}")
    _print(stats if args.json else {key: value for key, value in stats.items() if key != "words"}, args.json)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _print(content: dict[str, Any], as_json: bool) -> None:
    """Print a JSON document, or one line per figure."""
    if as_json:
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return
    for key, value in content.items():
        print(f"{key:18}{_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        parts = (
            f"{name} ({_text(part)})" if isinstance(part, dict) else f"{name} {part}" for name, part in value.items()
        )
        return ", ".join(parts) or "-"
    return "-" if value is None else str(value)


# name: summary, function that adds its arguments, function that runs it
_ACTIONS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]]] = {
    "prepare": ("turn RAF-DB, DISFA, BP4D or GFT into instruction records", _add_prepare, _prepare),
    "landmarks": ("compute the landmark files of a set", _add_landmarks, _landmarks),
    "check": ("report every broken record of a file", _add_check, _check),
    "annotate": ("build a set from photographs with a vision-language model", _add_annotate, _annotate),
    "revise": ("apply the verdicts of a person to an annotated evaluation set", _add_revise, _revise),
    "synthesize": ("render faces with exact labels", _add_synthesize, _synthesize),
    "stats": ("counts, distributions and frequent words of a set", _add_stats, _stats),
}
