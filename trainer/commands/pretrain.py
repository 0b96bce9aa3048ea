"""`emola pretrain`"""

import argparse
import json
from pathlib import Path

from sdk.progress import Console
from sdk.ranges import COUNT, POSITIVE, Range, check_options
from trainer.commands.arguments import add_number
from trainer.pretrain.recipe import LANDMARK_EPOCHS, TowerRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of `emola data synthesize`")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder: a base for `emola train --tune everything`")
    parser.add_argument("--eval", type=Path, metavar="DATA", help="rendered faces of other people, for scoring")
    add_number(parser, "epochs", TowerRecipe.epochs, "epochs of the vision tower")
    add_number(parser, "landmark_epochs", LANDMARK_EPOCHS, "epochs of the landmark network")
    add_number(parser, "batch_size", TowerRecipe.batch_size, "faces of one step")
    add_number(parser, "learning_rate", TowerRecipe.learning_rate, "learning rate of the vision tower")
    add_number(parser, "seed", TowerRecipe.seed, "seed of all random numbers")


def run(args: argparse.Namespace) -> None:
    epochs = dict.fromkeys(("epochs", "landmark_epochs", "seed"), Range(least=0, whole=True))
    check_options(vars(args), {**epochs, "batch_size": COUNT, "learning_rate": POSITIVE})
    from trainer.pretrain.base import pretrain

    recipe = TowerRecipe(
        epochs=args.epochs, batch_size=args.batch_size, learning_rate=args.learning_rate, seed=args.seed
    )
    with Console() as report:
        card = pretrain(
            args.data,
            args.out,
            evaluation=args.eval,
            recipe=recipe,
            landmark_epochs=args.landmark_epochs,
            report=report,
        )
    print(json.dumps(card, indent=1))
