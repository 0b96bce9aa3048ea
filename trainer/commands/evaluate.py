"""`emola evaluate`"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from sdk.errors import DataError
from sdk.faba.prompts import TEMPLATES
from sdk.faba.vocabulary import DATASETS
from sdk.progress import progress_bar
from sdk.ranges import COUNT, check_options
from sdk.untrusted_json import read_json_object


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        metavar="MODEL",
        help="folder or hub name of a bundle, an adapter, a complete checkpoint or LLaVA-1.5 as released",
    )
    parser.add_argument("--data", type=Path, help="evaluation file in the FABA-Instruct layout")
    parser.add_argument(
        "--root", type=Path, help="folder that the pictures are relative to (default: found above the file)"
    )
    parser.add_argument("--task", choices=("au", "emotion"), help="what is asked: action units or the emotion")
    parser.add_argument(
        "--dataset",
        default="FABA",
        choices=(*DATASETS, "RAF-DB"),
        help="data set, which decides which labels are scored (default %(default)s)",
    )
    parser.add_argument("--output", type=Path, help="folder of this run; an unfinished run there resumes")
    parser.add_argument("--base", help="base of an adapter: a folder or a hub name")
    parser.add_argument("--vision-tower", help="CLIP: a folder or a hub name; not needed if the base holds it")
    parser.add_argument("--endpoint", metavar="URL", help="ask a model behind an OpenAI-compatible endpoint instead")
    parser.add_argument("--model", metavar="NAME", help="its name at the endpoint; the key is read from OPENAI_API_KEY")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "tensorrt"),
        default="auto",
        help="what computes; tensorrt is for bundles (default auto)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="records answered at once (default %(default)s)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=512,
        metavar="N",
        help="limit of an answer in tokens (default %(default)s)",
    )
    parser.add_argument(
        "--visual-tokens",
        type=int,
        metavar="N",
        help="number of rows of each picture that the decoder reads (default: all)",
    )
    _add_question(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="take only the first N records (default: all)")
    parser.add_argument(
        "--against", type=Path, help="folder of another run on the same set, compared by a paired bootstrap"
    )
    parser.add_argument(
        "--average",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="print the row of Table 4 or 5 from the runs of all folds; takes no model",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_question(parser: argparse.ArgumentParser) -> None:
    asked = parser.add_argument_group("how the model is asked (defaults: as it was trained)")
    asked.add_argument("--question", metavar="TEXT", help="question in place of that of EmoLA's evaluation")
    asked.add_argument("--template", choices=tuple(TEMPLATES), help="conversation format of a checkpoint")
    asked.add_argument("--image-aspect", choices=("pad", "crop"), help="how a checkpoint gets a square picture")


def run(args: argparse.Namespace) -> None:
    check_options(vars(args), dict.fromkeys(("batch_size", "max_new_tokens", "visual_tokens", "limit"), COUNT))
    found = _average(args.average) if args.average else _evaluate(args)
    if found is None:  # not the first of several processes
        return
    print(json.dumps(found, indent=1) if args.json else "\n".join(lines_of(found)))


def _evaluate(args: argparse.Namespace) -> dict[str, Any] | None:
    from trainer.corpus.checks import check_files
    from trainer.evaluation.evaluate import (
        PREDICTIONS,
        EvaluationSet,
        answer_share,
        compare_runs,
        evaluate,
        other_answers,
    )
    from trainer.evaluation.shards import Shard, read_parts

    missing = [flag for flag in ("data", "task", "output") if getattr(args, flag) is None]
    if args.checkpoint and args.endpoint:
        raise DataError(f"expected a model or --endpoint, found both: {args.checkpoint} and {args.endpoint}")
    if missing or (args.checkpoint is None and args.endpoint is None):
        lacking = ", ".join(missing) or "the model"
        raise DataError(f"expected a model or --endpoint, and --data, --task, --output; missing: {lacking}")
    evaluation = EvaluationSet.read(args.data, args.task, args.dataset, root=args.root, limit=args.limit)
    shard, count = Shard.of_environment(), len(evaluation.records)
    theirs = other_answers(args.against, evaluation) if args.against else None
    broken = check_files(evaluation.records, landmarks=False) if shard.rank == 0 else []
    if broken:
        raise DataError(
            f"{len(broken)} of {count} pictures cannot be read, first {broken[0]}; `emola data check` lists them all"
        )
    before = len(read_parts(args.output / PREDICTIONS))  # before another process answers
    from trainer.evaluation.open_answerer import open_answerer  # torch, which none of the errors above needs

    answerer, begin = open_answerer(_request(args)), time.perf_counter()
    with progress_bar("face", shown=shard.rank == 0) as progress:
        predictions = answer_share(answerer, evaluation, args.output, progress, shard)
    if predictions is None:
        return None
    _report_speed(count - before, time.perf_counter() - begin, shard.count)
    scores = evaluate(predictions, evaluation, args.output)
    if theirs is not None:
        scores["against"] = compare_runs(predictions, theirs, evaluation)
    return scores


def _report_speed(faces: int, seconds: float, processes: int) -> None:
    if faces > 0:
        where = f" in {processes} processes" if processes > 1 else ""
        print(f"{faces} faces answered in {seconds:.1f} s{where}: {faces / seconds:.2f} faces/s", file=sys.stderr)


def _request(args: argparse.Namespace) -> Any:
    """Which model is asked, and how."""
    from trainer.evaluation.open_answerer import Request

    return Request(
        model=args.checkpoint,
        base=args.base,
        vision_tower=args.vision_tower,
        endpoint=(args.endpoint, args.model or "") if args.endpoint else None,
        key=os.environ.get("OPENAI_API_KEY"),
        device=args.device,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        visual_tokens=args.visual_tokens,
        question=args.question,
        template=args.template,
        image_aspect=args.image_aspect,
    )


def _average(folders: list[Path]) -> dict[str, Any]:
    from trainer.corpus.datasets import average_folds

    scores = []
    for folder in folders:
        path = folder / "scores.json"
        if not path.exists():
            raise DataError(f"{path} is missing; finish `emola evaluate` of that fold first")
        found = read_json_object(path, DataError).get("official", {})
        if not found.get("per_au"):
            raise DataError(f"{path} holds no F1 per action unit; folds are those of DISFA and BP4D")
        scores.append(found)
    if len({found["dataset"] for found in scores}) > 1:
        raise DataError(f"the runs are of different data sets: {', '.join(found['dataset'] for found in scores)}")
    per_au, mean = average_folds(
        [{int(code): f1 for code, f1 in s["per_au"].items() if f1 is not None} for s in scores]
    )
    return {"dataset": scores[0]["dataset"], "folds": len(folders), "per_au": per_au, "mean": mean}


def lines_of(found: dict[str, Any]) -> list[str]:
    """The figures as rows of the paper's tables."""
    against = [
        f"  {name:7}{c['difference']:+7.2f} against the other run (95 %: {c['low']:+.2f} .. {c['high']:+.2f}, "
        f"p = {c['p_value']:.3f})"
        for name, c in found.get("against", {}).items()
    ]
    if refused := found.get("refused"):
        first = next(iter(refused.values()))
        against.append(f"  {len(refused)} records were refused and count as empty answers; the first: {first}")
    if "accuracy" in found:
        return [*_noun_lines(found), *against]
    if "folds" in found:
        units = "  ".join(f"AU{code} {f1:.1f}" for code, f1 in found["per_au"].items())
        return [f"{found['dataset']}, mean of {found['folds']} folds: {units}  Avg. {found['mean']:.1f}"]
    return [*_protocol_lines(found), *against]


def _noun_lines(found: dict[str, Any]) -> list[str]:
    """The accuracies on RAF-DB."""
    low, high = found["intervals"]["accuracy"]
    return [
        f"{found['dataset']}: accuracy {found['accuracy']:.2f} %  (95 %: {low:.2f} .. {high:.2f})",
        f"  {found['unread']} of {found['samples']} answers name no emotion",
        f"  {found['literal_accuracy']:.2f} % of the answers are the noun of the label and nothing else",
    ]


def _protocol_lines(found: dict[str, Any]) -> list[str]:
    """The scores of the protocols side by side, and what the protocols are."""
    from sdk.faba.rege import PROTOCOLS

    scores = {protocol: found[protocol] for protocol in PROTOCOLS}
    ranges = {"official": found["intervals"], **found["intervals_of"]}
    first = scores["official"]
    rows = [[f"{first['dataset']} {first['task']}, {first['samples']} samples", *PROTOCOLS]]
    for code in first["per_au"]:
        values = [score["per_au"][code] for score in scores.values()]
        rows.append([f"  AU{code}", *("-" if f1 is None else f"{f1:.1f}" for f1 in values)])
    for name in ("s_re", "s_ge", "s_rege"):
        cells = (f"{scores[p][name]:.2f} ({ranges[p][name][0]:.2f} .. {ranges[p][name][1]:.2f})" for p in PROTOCOLS)
        rows.append([f"  {name}", *cells])
    rows.append(["  answers not read", *(str(score["unread"]) for score in scores.values())])
    lines = [title.ljust(28) + "".join(cell.rjust(26) for cell in cells) for title, *cells in rows]
    return [*lines, "In brackets: 95 % intervals.", *(f"{name}: {meaning}." for name, meaning in PROTOCOLS.items())]
