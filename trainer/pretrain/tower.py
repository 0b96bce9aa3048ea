"""Pretraining of a small vision tower: where the landmarks are, which action units act, which emotion is shown.

The 7B model starts from CLIP; a small tower has to learn to see first. Each patch predicts the landmarks (whether it
holds one, and where), which gives a transformer without convolutions the dense supervision that it needs. All patches
together predict action units and emotion.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from sdk.faba.vocabulary import EMOTIONS
from sdk.faces.preprocess import Anchor
from trainer.model.config import ImageStatistics, image_side, patches_per_side
from trainer.model.processor import attend_plainly
from trainer.pretrain.descent import minimise
from trainer.pretrain.initialisation import initialise_tower
from trainer.pretrain.muon import Muon
from trainer.pretrain.points import POINTS, cell_centres, count_votes, distance_loss
from trainer.pretrain.recipe import TowerRecipe
from trainer.pretrain.renders import EVALUATION_BATCH, Batch, Renders, batches
from trainer.synthetic.expression import UNITS

JITTER = 0.3  # of the aligned faces: the size of the landmark network's errors
INITIAL_BATCH = 512  # faces from which the initial patch projection is computed


class TowerTask(nn.Module):
    """A vision tower with the heads of its pretraining, which are dropped afterwards."""

    centres: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: CLIPVisionConfig, statistics: ImageStatistics) -> None:
        super().__init__()
        self.side = patches_per_side(config)
        self.tower = CLIPVisionModel(config)
        self.votes = nn.Linear(config.hidden_size, 3 * POINTS)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.pooled = nn.Linear(2 * config.hidden_size, 2 * len(UNITS) + len(EMOTIONS))
        self.register_buffer("centres", cell_centres(self.side).flatten(0, 1).T.contiguous())  # (2, patches)
        self.register_buffer("mean", torch.tensor(statistics.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(statistics.std).view(3, 1, 1))

    def normalise(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) input of the tower, from pictures in 0..1."""
        return (pictures - self.mean) / self.std

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Heat (B, 106, patches), points (B, 106, 2), presence and intensities (B, 20), emotions (B, 7); logits."""
        hidden = self.tower(self.normalise(pictures), output_hidden_states=True).hidden_states[-1]
        patches = self.norm(hidden[:, 1:])
        heat, points = count_votes(self.votes(patches).float().mT, self.centres)
        summary = torch.cat([patches.mean(dim=1), patches.amax(dim=1)], dim=1)
        sizes = [len(UNITS), len(UNITS), len(EMOTIONS)]
        presence, intensities, emotion = self.pooled(summary).float().split(sizes, dim=1)
        return heat, points, presence, intensities, emotion

    def loss(self, batch: Batch) -> Tensor:
        """The weighted sum of the five losses, each named by what it penalises."""
        heat, points, presence, intensities, emotion = self(batch.pictures)
        patch_loss = F.cross_entropy(heat.flatten(0, 1), self.patch_shares(batch.points).flatten(0, 1))
        present = (batch.intensities > 0).float()
        presence_loss = F.binary_cross_entropy_with_logits(presence, 0.95 * present + 0.02)  # smoothed labels
        intensity_loss = ((intensities - batch.intensities) ** 2).mean()
        emotion_loss = F.cross_entropy(emotion, batch.emotions, ignore_index=-1, label_smoothing=0.05)
        place_loss = 0.15 * patch_loss + 0.25 * distance_loss(points, batch.points)
        total: Tensor = place_loss + 2.0 * presence_loss + 2.0 * intensity_loss + 0.5 * emotion_loss
        return total

    def patch_shares(self, points: Tensor) -> Tensor:
        """(B, 106, patches) share of each patch in a point, bilinear between the four nearest centres."""
        place = (points.clamp(-1, 1) + 1) / 2 * self.side - 0.5
        cells = torch.arange(self.side, device=points.device)
        column, row = ((1 - (place[..., axis, None] - cells).abs()).clamp(min=0) for axis in (0, 1))
        share = (row[..., :, None] * column[..., None, :]).flatten(2)
        return share / share.sum(dim=2, keepdim=True).clamp(min=1e-6)


def pretrain_tower(
    renders: Renders,
    anchors: tuple[Anchor, ...],
    config: CLIPVisionConfig,
    statistics: ImageStatistics,
    recipe: TowerRecipe,
    log: Callable[[dict[str, Any]], None],
) -> TowerTask:
    """Train a tower from random weights.

    Args:
        anchors: where the faces are aligned.
        log: told step, loss and seconds every 50 steps.
    """
    torch.manual_seed(recipe.seed)
    generator, side = torch.Generator(renders.device).manual_seed(recipe.seed), image_side(config)
    task = TowerTask(config, statistics).train().to(renders.device)
    if recipe.bfloat16 and renders.device.type == "cpu":
        attend_plainly(task.tower)
    first = next(batches(renders, side, min(INITIAL_BATCH, len(renders)), generator, anchors=anchors))
    initialise_tower(task.tower, task.normalise(first.pictures))
    layers = [p for name, p in task.tower.named_parameters() if ".layers." in name and p.ndim == 2]
    rest = [p for p in task.parameters() if all(p is not layer for layer in layers)]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    optimizers = [
        Muon(layers, lr=rate, weight_decay=decay),
        torch.optim.AdamW(rest, lr=rate, weight_decay=decay, betas=(0.9, 0.98)),
    ]
    minimise(
        task.loss,
        lambda: batches(renders, side, recipe.batch_size, generator, anchors=anchors, jitter=JITTER),
        optimizers,
        recipe.epochs * (len(renders) // recipe.batch_size),
        log,
        bfloat16=recipe.bfloat16,
    )
    return task.eval()


@torch.inference_mode()
def score_tower(task: TowerTask, renders: Renders, anchors: tuple[Anchor, ...]) -> dict[str, float]:
    """Emotion accuracy, mean F1 of the action units and landmark error (share of the picture's side) in percent."""
    generator, side = torch.Generator(renders.device).manual_seed(0), image_side(task.tower.config)
    correct = labelled = 0
    counts = torch.zeros(3, len(UNITS), device=renders.device)  # true positives, predicted, present
    error = count = 0.0
    for batch in batches(renders, side, EVALUATION_BATCH, generator, anchors=anchors, jitter=0):
        _, points, presence, _, emotion = task(batch.pictures)
        known = batch.emotions >= 0
        correct += int((emotion.argmax(1) == batch.emotions)[known].sum())
        labelled += int(known.sum())
        predicted, present = presence > 0, batch.intensities > 0
        counts += torch.stack([(predicted & present).sum(0), predicted.sum(0), present.sum(0)])
        error += float((points - batch.points).norm(dim=2).mean())
        count += 1
    f1 = 2 * counts[0] / (counts[1] + counts[2]).clamp(min=1)
    return {
        "emotion accuracy": 100 * correct / max(labelled, 1),
        "mean F1": 100 * float(f1.mean()),
        "landmark error": 100 * error / max(count, 1) / 2,
        **{f"AU{code}": round(100 * float(value), 1) for code, value in zip(UNITS, f1, strict=True)},
    }
