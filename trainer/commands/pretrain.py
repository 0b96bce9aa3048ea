"""`emola pretrain`"""

import argparse
import json
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from trainer.pretrain.landmark_network import EPOCHS
    from trainer.pretrain.tower import TowerRecipe

    default = TowerRecipe()
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of `emola data synthesize`")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder: a base for `emola train --tune everything`")
    parser.add_argument("--eval", type=Path, metavar="DATA", help="rendered faces of other people, for scoring")
    parser.add_argument("--epochs", type=int, default=default.epochs, help="of the vision tower (default %(default)s)")
    parser.add_argument(
        "--landmark-epochs", type=int, default=EPOCHS, help="of the landmark network (default %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=default.batch_size, help="(default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate, help="(default %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="(default %(default)s)")


def run(args: argparse.Namespace) -> None:
    from trainer.pretrain.base import pretrain
    from trainer.pretrain.tower import TowerRecipe

    recipe = TowerRecipe(
        epochs=args.epochs, batch_size=args.batch_size, learning_rate=args.learning_rate, seed=args.seed
    )
    card = pretrain(
        args.data,
        args.out,
        evaluation=args.eval,
        recipe=recipe,
        landmark_epochs=args.landmark_epochs,
        report=lambda line: print(line, file=sys.stderr),
    )
    print(json.dumps(card, indent=1))
