"""`emola pretrain`: what the 7B model gets from CLIP, Vicuna and insightface, a small one gets from rendered faces."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sdk.errors import DataError

from ..config import ImageStatistics
from ..model import EmoLA
from ..records import read_records
from ..save import write_complete
from .landmark_network import landmark_error, train_landmark_network, write_landmark_network
from .renders import mean_anchors, read_renders
from .shape import VOCABULARY, nano_config, nano_conventions
from .tokenizer import train_tokenizer
from .tower import TowerRecipe, pretrain_tower, score_tower

CARD = "pretraining.json"


def pretrain(
    data: Path,
    out: Path,
    *,
    evaluation: Path | None = None,
    recipe: TowerRecipe | None = None,
    landmark_epochs: int = 6,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Make a base for `emola train --tune everything`: landmark network, tokenizer, vision tower; the rest at random.

    Args:
        data: folder of `emola data synthesize`.
        out: new folder: a complete checkpoint, and `landmark.onnx` beside it.
        evaluation: another such folder, of other people, to score the tower and the landmark network on.
        report: told one line now and then.

    Returns:
        The card: figures by name; also written to `out`, with the losses.

    Raises:
        DataError: `out` exists, or `data` is no rendered set.
    """
    if out.exists():
        raise DataError(f"{out} exists already; choose a new folder")
    recipe = recipe or TowerRecipe()
    renders, config, statistics = read_renders(data), nano_config(), ImageStatistics()
    unseen = read_renders(evaluation) if evaluation else None
    anchors = mean_anchors(renders)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    records = [record for path in sorted(data.glob("train_*_anno.json")) for record in read_records(path)]
    conventions = nano_conventions(anchors)
    tokenizer = partial / "pieces.model"
    train_tokenizer(records, conventions.template, VOCABULARY, tokenizer)
    losses: dict[str, list[dict[str, Any]]] = {"landmark network": [], "vision tower": []}

    def log(part: str) -> Callable[[dict[str, Any]], None]:
        def note(row: dict[str, Any]) -> None:
            losses[part].append(row)
            report(f"{part}: step {row['step']} of {row['of']}, loss {row['loss']:.3f}, {row['seconds']:.0f} s")

        return note

    network = train_landmark_network(renders, epochs=landmark_epochs, log=log("landmark network"), seed=recipe.seed)
    write_landmark_network(network, partial / "landmark.onnx")
    task = pretrain_tower(renders, anchors, config.vision, statistics, recipe, log("vision tower"))
    torch.manual_seed(recipe.seed)
    model = EmoLA(config)
    model.vision_tower.load_state_dict(task.tower.state_dict())
    write_complete(partial, model.state_dict().items(), config, conventions, statistics, tokenizer)
    tokenizer.unlink()
    card = {"recipe": vars(recipe), "faces": len(renders), "landmark epochs": landmark_epochs, "losses": losses}
    if unseen:
        card["landmark error %"] = landmark_error(network, unseen)
        card["tower"] = score_tower(task, unseen, anchors)
    (partial / CARD).write_text(json.dumps(card, indent=1))
    partial.rename(out)
    return {key: value for key, value in card.items() if key != "losses"}
