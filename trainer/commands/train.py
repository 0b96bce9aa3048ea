"""`emola train`"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

_RECIPE = {
    "rank": "rank of the LoRA matrices",
    "alpha": "scale of LoRA times its rank",
    "dropout": "dropout of LoRA, a share below 1",
    "learning_rate": "learning rate of LoRA and the landmark projector",
    "projector_learning_rate": "learning rate of the visual projector and, with everything, of the vision tower",
    "epochs": "passes over the data",
    "max_steps": "number of steps, in place of --epochs; -1 leaves it to --epochs",
    "batch_size": "records per device and forward pass",
    "accumulation": "forward passes that make one step",
    "warmup_ratio": "share of the steps in which the learning rate rises, before it falls as a cosine",
    "weight_decay": "weight decay of AdamW",
    "max_grad_norm": "norm to which gradients are clipped",
    "keep_visual": "smallest share of the visual rows that a pass reads, to prepare for fewer rows; 1 reads all",
    "prior_only": "share of the passes that read the landmark row without visual rows",
    "group_by_length": "put records of similar length into one pass",
    "precision": "arithmetic; auto is bfloat16 on a GPU, else float32",
    "checkpointing": "compute activations again in the backward pass, to save memory",
    "load_4bit": "keep the frozen weights in 4 bits",
    "save_steps": "steps between two checkpoints to resume from",
    "workers": "processes that load pictures; 0 loads them in this one",
    "seed": "seed of all random numbers",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from trainer.training.recipe import Recipe

    default = Recipe()
    files = parser.add_argument_group("files")
    files.add_argument("--base", help="LLaVA-1.5, as released or as converted by llava-hf: a folder or a hub name")
    files.add_argument("--vision-tower", help="CLIP: a folder or a hub name; not needed if the base holds it")
    files.add_argument("--adapter", help="adapter to train further (default: a new one)")
    files.add_argument(
        "--data", type=Path, action="append", default=[], help="training file; may be given several times"
    )
    files.add_argument(
        "--root", type=Path, help="folder that the pictures are relative to (default: found above the file)"
    )
    files.add_argument("--output", type=Path, help="folder of the new checkpoint; an unfinished run there resumes")
    files.add_argument("--official-layout", action="store_true", help="write the adapter in the authors' .bin files")
    files.add_argument(
        "--report-to",
        choices=("tensorboard", "wandb", "mlflow"),
        action="append",
        default=[],
        help="also report each step there; may be given several times; each has an extra of its name",
    )
    files.add_argument(
        "--tensorboard", dest="report_to", action="append_const", const="tensorboard", help="--report-to tensorboard"
    )
    files.add_argument(
        "--dry-run", action="store_true", help="print what would be trained; without --base for LLaVA-1.5-7b"
    )
    files.add_argument("--json", action="store_true", help="print the plan or the card as JSON")
    files.add_argument("--compile", action="store_true", help="faster steps by torch.compile, after a slow start")
    ablations = parser.add_argument_group("ablations")
    _add_ablations(ablations, default.tune)
    recipe = parser.add_argument_group("recipe (defaults: the authors')")
    skipped = {"tune"}
    for field in dataclasses.fields(Recipe):
        if field.name not in skipped:
            _add_option(recipe, field.name, getattr(default, field.name), get_args(field.type))


def _add_ablations(ablations: Any, tune: str) -> None:
    from sdk.faces.preprocess import LandmarkMode
    from trainer.model.ablation import PriorPosition, Tokens
    from trainer.training.recipe import Tune

    ablations.add_argument(
        "--tune",
        choices=get_args(Tune),
        default=tune,
        help="what is trained, as in Table 9: all is LoRA and both projectors, lora is LoRA and the visual projector, "
        "landmark is the landmark projector; decoder and everything train weights without LoRA (default %(default)s)",
    )
    ablations.add_argument(
        "--tokens", choices=get_args(Tokens), help="rows that the decoder reads, as in Table 8 (default both)"
    )
    ablations.add_argument(
        "--prior-position",
        choices=get_args(PriorPosition),
        help="place of the landmark row beside those of the picture (default after)",
    )
    ablations.add_argument(
        "--prior",
        metavar="NAME",
        help="facial prior: landmarks, geometry, geometry-68 or one of a package (default: that of the base)",
    )
    ablations.add_argument("--template", help="conversation format (default: that of adapter or base, else vicuna_v1)")
    ablations.add_argument(
        "--image-aspect",
        choices=("pad", "crop"),
        help="how a picture becomes square (default: as adapter or base, else pad)",
    )
    ablations.add_argument(
        "--landmark-mode",
        choices=get_args(LandmarkMode),
        help="input of the landmark network (default: that of the landmark files)",
    )


def _add_option(group: Any, name: str, default: Any, choices: tuple[Any, ...]) -> None:
    flag = "--" + name.replace("_", "-")
    if isinstance(default, bool):
        meaning = f"{_RECIPE[name]} (default {'yes' if default else 'no'})"
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=meaning)
    else:
        kind = {"choices": choices} if choices else {"type": type(default), "metavar": "N"}
        group.add_argument(flag, default=default, help=f"{_RECIPE[name]} (default {default})", **kind)


def run(args: argparse.Namespace) -> None:
    from trainer.training.recipe import Recipe

    recipe = Recipe(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Recipe)})
    content = _plan(args, recipe) if args.dry_run else _train(args, recipe)
    if os.environ.get("RANK", "0") == "0":  # one of several processes prints
        print(json.dumps(content, indent=1) if args.json else _table(content))


def _plan(args: argparse.Namespace, recipe: Any) -> dict[str, Any]:
    from sdk.bundles.hub import resolve_checkpoint
    from trainer.corpus.records import read_rows
    from trainer.evaluation.shards import Shard
    from trainer.model.config import read_config
    from trainer.training.recipe import llava_7b, plan

    tower = resolve_checkpoint(args.vision_tower) if args.vision_tower else None
    config = read_config(resolve_checkpoint(args.base), tower) if args.base else llava_7b()
    changes: dict[str, Any] = {name: value for name in ("tokens", "prior") if (value := getattr(args, name))}
    config = dataclasses.replace(config, **changes)
    records = sum(len(read_rows(path)) for path in args.data) if args.data else None
    return plan(config, recipe, records, Shard.of_environment().count)


def _train(args: argparse.Namespace, recipe: Any) -> dict[str, Any]:
    from sdk.errors import TrainingError
    from trainer.corpus.checks import check_files
    from trainer.corpus.records import read_records
    from trainer.training.train import Sources, train

    missing = [flag for flag in ("base", "data", "output") if not getattr(args, flag)]
    if missing:
        raise TrainingError(f"--{' and --'.join(missing)} missing; --dry-run works without them")
    records = [record for path in args.data for record in read_records(path, args.root)]
    broken = check_files(records, landmarks=args.tokens != "visual")
    if broken:
        raise TrainingError(f"{len(broken)} broken records, first {broken[0]}; `emola data check` lists them all")
    conventions = _conventions(args, records)
    rows = (args.tokens, args.prior_position, args.prior)
    sources = Sources(records, conventions, args.base, args.vision_tower, args.adapter, *rows)
    return train(
        sources,
        recipe,
        args.output,
        official_layout=args.official_layout,
        report=lambda line: print(line, file=sys.stderr),
        trackers=tuple(dict.fromkeys(args.report_to)),
        compiled=args.compile,
    )


def _conventions(args: argparse.Namespace, records: Sequence[Any]) -> Any:
    """The conventions of the adapter or the base, else those of the authors' training; options take precedence."""
    from sdk.bundles.hub import resolve_checkpoint
    from trainer.corpus.landmarks import recorded_mode
    from trainer.model.config import CONVENTIONS, Conventions, read_conventions

    start = Conventions(template="vicuna_v1", image_aspect="pad")
    folders = [resolve_checkpoint(name) for name in (args.adapter, args.base) if name]
    recorded = [folder for folder in folders if (folder / CONVENTIONS).is_file()]
    if recorded:
        start = read_conventions(recorded[0])
    changes: dict[str, Any] = {"landmark_mode": args.landmark_mode or recorded_mode(records)}
    if args.template:
        changes["template"] = args.template
    if args.image_aspect:
        changes |= {"image_aspect": args.image_aspect, "anchors": ()}
    return dataclasses.replace(start, **changes)


def _table(content: dict[str, Any]) -> str:
    rows = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows.append(f"{key}:")
            rows += [f"  {name:26}{_number(part):>16}" for name, part in value.items()]
        else:
            shown = f"{100 * value:.2f} %" if key == "share" else _number(value)
            rows.append(f"{key:28}{shown:>16}")
    return "\n".join(rows)


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
