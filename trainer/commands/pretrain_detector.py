"""`emola pretrain-detector`"""

import argparse
import os
from pathlib import Path

from sdk.progress import Console
from sdk.ranges import COUNT, POSITIVE, Range, check_options
from trainer.commands.arguments import add_number
from trainer.detector.recipe import DetectorRecipe

_COUNTS = {
    "heads": "heads that are rendered",
    "scenes": "scenes that are composed of them",
    "empty": "scenes without faces, in which false faces are looked for",
    "steps": "steps of the training, of which the later seven sixteenths are taken twice",
    "batch_size": "a third of the windows of one step",
}
_NUMBERS = {
    **_COUNTS,
    "learning_rate": "peak of the learning rate in the later part, twice that in the first",
    "seed": "decides everything",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder, or one of a run that was stopped")
    parser.add_argument(
        "--face-model", type=Path, required=True, help="ICT-FaceKit: its folder FaceXModel, or the .npz"
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="pictures without faces; those with transparent pixels are pasted as objects, the others are backgrounds",
    )
    for name, text in _NUMBERS.items():
        add_number(parser, name, getattr(DetectorRecipe, name), text)
    add_number(parser, "processes", os.cpu_count() or 1, "that render")


def run(args: argparse.Namespace) -> None:
    counts = dict.fromkeys((*_COUNTS, "processes"), COUNT)
    check_options(vars(args), {**counts, "learning_rate": POSITIVE, "seed": Range(least=0, whole=True)})
    from trainer.detector.build import build_detector

    names = (*_NUMBERS, "face_model", "pictures", "processes")
    recipe = DetectorRecipe(**{name: getattr(args, name) for name in names})
    with Console() as report:
        path = build_detector(args.out, recipe, report)
    print(path)
