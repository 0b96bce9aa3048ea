"""`emola pretrain`: the parts of a small base model, trained on rendered faces.

The 7B model gets them from CLIP, Vicuna and insightface.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sdk.errors import DataError
from sdk.files import replacing, write_json
from sdk.progress import Step
from trainer.corpus.records import read_records
from trainer.model import EmoLA
from trainer.model.alignment import AlignedShape
from trainer.model.config import ImageStatistics
from trainer.model.save import write_complete
from trainer.pretrain.landmark_network import (
    BATCH_SIZE,
    landmark_error,
    train_landmark_network,
    write_landmark_network,
)
from trainer.pretrain.recipe import LANDMARK_EPOCHS, TowerRecipe
from trainer.pretrain.renders import EVALUATION_BATCH, Renders, mean_anchors, read_renders
from trainer.pretrain.shape import TEMPLATE, VOCABULARY, nano_config, nano_conventions
from trainer.pretrain.tokenizer import train_tokenizer
from trainer.pretrain.tower import pretrain_tower, score_tower
from trainer.tokenization import load_tokenizer

CARD = "pretraining.json"


def pretrain(
    data: Path,
    out: Path,
    *,
    evaluation: Path | None = None,
    recipe: TowerRecipe | None = None,
    landmark_epochs: int = LANDMARK_EPOCHS,
    vocabulary: int = VOCABULARY,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Make a base for `emola train --tune everything`: trained landmark network, tokenizer and vision tower.

    The projectors and the decoder start at random.

    Args:
        data: folder of `emola data synthesize`.
        out: new folder, for a complete checkpoint and `landmark.onnx`.
        evaluation: another such folder, of other people, on which the tower and the landmark network are scored.
        vocabulary: number of pieces of the tokenizer.
        report: told one line every 50 steps.

    Returns:
        The card: figures by name; also written to `out`, with the losses.

    Raises:
        DataError: `out` exists, or `data` is not a rendered set or is too small.
    """
    if out.exists():
        raise DataError(f"{out} exists already; choose a new folder")
    recipe = recipe or TowerRecipe()
    renders = read_renders(data).to(recipe.device)
    unseen = read_renders(evaluation).to(recipe.device) if evaluation else None
    _check_size(renders, data, max(recipe.batch_size, BATCH_SIZE))
    if unseen and evaluation:
        _check_size(unseen, evaluation, EVALUATION_BATCH)
    with replacing(out, folder=True) as partial:
        records = [record for path in sorted(data.glob("train_*_anno.json")) for record in read_records(path)]
        tokenizer = partial / "pieces.model"
        train_tokenizer(records, TEMPLATE, vocabulary, tokenizer)
        card = _train_parts(renders, unseen, tokenizer, recipe, landmark_epochs, report)
        tokenizer.unlink()
    return {key: value for key, value in card.items() if key != "losses"}


def _check_size(renders: Renders, folder: Path, least: int) -> None:
    """Refuse a set that does not fill one batch: batches that are not full are left out."""
    if len(renders) < least:
        raise DataError(f"{folder} holds {len(renders)} faces, at least {least} are needed; render more")


def _train_parts(
    renders: Renders,
    unseen: Renders | None,
    tokenizer: Path,
    recipe: TowerRecipe,
    landmark_epochs: int,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Train both networks and write the base into the tokenizer's folder; returns the card."""
    folder = tokenizer.parent
    losses: dict[str, list[dict[str, Any]]] = {"landmark network": [], "vision tower": []}
    anchors, statistics = mean_anchors(renders), ImageStatistics()
    config = nano_config(load_tokenizer(tokenizer).vocab_size(), anchors)

    def log(part: str) -> Callable[[dict[str, Any]], None]:
        def add(row: dict[str, Any]) -> None:
            losses[part].append(row)
            line = f"{part}: step {row['step']} of {row['of']}, loss {row['loss']:.3f}, {row['seconds']:.0f} s"
            report(Step(line, row["step"], row["of"], part))

        return add

    network = train_landmark_network(
        renders, anchors, epochs=landmark_epochs, log=log("landmark network"), seed=recipe.seed
    )
    error = landmark_error(network, unseen) if unseen else None
    write_landmark_network(network.cpu(), folder / "landmark.onnx")
    task = pretrain_tower(renders, anchors, config.vision, statistics, recipe, log("vision tower"))
    torch.manual_seed(recipe.seed)
    model = EmoLA(config)
    model.vision_tower.load_state_dict(task.tower.state_dict())
    for part in model.landmark_feature_projector:
        if isinstance(part, AlignedShape):
            part.measure(renders.points.cpu().flatten(1))
    write_complete(folder, model.state_dict().items(), config, nano_conventions(anchors), statistics, tokenizer)
    card: dict[str, Any] = {
        "recipe": vars(recipe),
        "faces": len(renders),
        "landmark epochs": landmark_epochs,
        "losses": losses,
    }
    if unseen:
        card["landmark error %"] = error
        card["tower"] = score_tower(task, unseen, anchors)
    write_json(folder / CARD, card)
    return card
