"""`emola paper list` and `emola paper table`: the tables of the paper, the published rows and ours."""

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from sdk.bundles.hub import resolve_checkpoint
from sdk.bundles.insightface_packs import find_model
from sdk.errors import CheckpointError, DataError, UsageError
from trainer.commands.arguments import words
from trainer.paper.execute import command_runner, execute, shown, waiting
from trainer.paper.experiments import MODELS, STUDIES, Place, Study
from trainer.paper.published import TABLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the tables, their data, and which data are there")
    listing.add_argument("--data", type=Path, metavar="DIR", help="folder with one folder for each data set")
    listing.add_argument("--json", action="store_true", help="print the list as JSON")
    listing.set_defaults(action=_list)
    table = actions.add_parser("table", help="run what is missing of a table and show it beside the published figures")
    table.add_argument("table", choices=tuple(STUDIES), help="number of a table of the paper, or an ablation")
    table.add_argument("--data", type=Path, help="folder with one folder for each data set; without it nothing is run")
    table.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all outputs (default %(default)s)")
    table.add_argument("--base", help="LLaVA-1.5, as in `emola train`")
    table.add_argument("--vision-tower", help="folder of CLIP; not needed if the base holds it")
    table.add_argument(
        "--landmark-network",
        type=Path,
        help="2d106det.onnx or an insightface pack such as buffalo_l, for data sets without landmark files",
    )
    table.add_argument(
        "--models", nargs="+", choices=MODELS, default=MODELS[:1], help="rows of Table 7 to run (default %(default)s)"
    )
    table.add_argument("--endpoint", nargs=2, metavar=("URL", "NAME"), help="Table 7: also a model behind an endpoint")
    table.add_argument(
        "--authors-evaluation",
        action="store_true",
        help="evaluate as the authors do: template llava_v1 and cropped pictures, landmark files of mode emola",
    )
    table.add_argument(
        "--launcher",
        type=words,
        default="",
        metavar="COMMAND",
        help="command that starts each training, for example 'torchrun --nproc-per-node 4' (default: none)",
    )
    for name, command in _WORDS.items():
        summary = f"more options of every `emola {command}` (default: none)"
        table.add_argument(f"--{name}-options", type=words, default="", metavar="OPTIONS", help=summary)
    table.add_argument("--plan", action="store_true", help="print the commands that would run, and run none")
    table.add_argument("--json", action="store_true", help="print the table as JSON instead of Markdown")
    table.set_defaults(action=_table)


_WORDS = {"prepare": "data prepare", "landmarks": "data landmarks", "train": "train", "evaluate": "evaluate"}


def run(args: argparse.Namespace) -> None:
    args.action(args)


def _list(args: argparse.Namespace) -> None:
    found = [_description(study, args.data) for study in STUDIES.values()]
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for each in found:
        state = {None: "", True: ", data complete", False: ", data missing"}[each["complete"]]
        print(f"{each['table']:9}{each['title']} ({each['data']}{state})")
    sources = {study.source.name: study.source for study in STUDIES.values()}
    for source in sources.values():
        missing = source.missing(args.data) if args.data else []
        print(f"\n{source.name}: {source.request} ({source.terms})")
        print("\n".join(f"  {line}" for line in source.shape()))
        if missing:
            print(f"  missing in {args.data / source.name}: {', '.join(missing)}")


def _description(study: Study, data: Path | None) -> dict[str, Any]:
    known = TABLES.get(study.name)
    return {
        "table": study.name,
        "title": known.title if known else study.title,
        "data": study.source.name,
        "request": study.source.request,
        "complete": not study.source.missing(data) if data else None,
        "published_rows": len(known.rows) if known else 0,
    }


def _table(args: argparse.Namespace) -> None:
    study = STUDIES[args.table]
    place = _place(args)
    rows = study.rows(place)
    jobs = [job for row in rows for job in row.jobs()]
    if args.plan:
        print("\n".join(shown(job) for job in waiting(jobs, place.runs)))
        return
    if args.data:
        _check(study, args)
        execute(jobs, place.runs, command_runner(args.launcher), _say)
    _show(study, rows, args)


def _show(study: Study, rows: Any, args: argparse.Namespace) -> None:
    from trainer.paper.figures import row_figures
    from trainer.paper.report import Report, markdown, write_report

    found = [(row.method, row_figures(row)) for row in rows]
    report = Report.of(study, found)
    if report.ours:
        _say("wrote " + ", ".join(map(str, write_report(report, args.runs))))
    print(json.dumps(dataclasses.asdict(report), indent=1) if args.json else markdown(report))


def _place(args: argparse.Namespace) -> Place:
    return Place(
        data=args.data or Path("data"),
        runs=args.runs,
        base=args.base or "BASE",
        vision_tower=args.vision_tower,
        landmark_network=args.landmark_network or Path("LANDMARK_NETWORK"),
        authors=args.authors_evaluation,
        models=tuple(args.models),
        endpoint=tuple(args.endpoint) if args.endpoint else None,
        prepare=args.prepare_options,
        landmarks=args.landmarks_options,
        train=args.train_options,
        evaluate=args.evaluate_options,
    )


def _check(study: Study, args: argparse.Namespace) -> None:
    """Check that everything is there that the jobs need. What a name of the hub stands for is downloaded.

    Raises:
        CheckpointError: the base or the vision tower is not there.
        DataError: the data set is not there, or not in its shape, or there is no landmark network.
        UsageError: an option is missing.
    """
    source = study.source
    if missing := source.missing(args.data):
        _say("\n".join([f"{args.data} must hold:", *(f"  {line}" for line in source.shape())]))
        raise DataError(
            f"{args.data / source.name}: expected the data set {source.name}, missing: {', '.join(missing)}; it is "
            f"given out {source.terms}: {source.request}"
        )
    if not args.base:
        raise UsageError("--data needs --base, the model to train")
    if source.name != "FABAInstruct" and not args.landmark_network:
        raise UsageError(f"{source.name} has no landmark files: pass --landmark-network")
    if args.launcher and not shutil.which(args.launcher[0]):
        raise UsageError(
            f"--launcher: there is no program {args.launcher[0]!r}; torchrun and accelerate come with torch"
        )
    for option, name in (("--base", args.base), ("--vision-tower", args.vision_tower)):
        if name and not (resolve_checkpoint(name) / "config.json").is_file():
            raise CheckpointError(
                f"{option} {name}: expected a folder with config.json and weights, found none; docs/weights.md names "
                "what can be downloaded, and `make nano` makes the base of emola-nano (build/nano/base)"
            )
    if args.landmark_network:
        find_model(str(args.landmark_network), "landmark", DataError)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
