"""Pretraining of a small vision tower: where the landmarks are, which action units act, which emotion is shown.

The 7B model starts from CLIP; a tower of its own has to learn to see first. Each landmark is asked of the patches
(which one holds it, and where: the dense supervision that a transformer without convolutions needs), the rest of all
together.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from sdk.faba.vocabulary import EMOTIONS
from sdk.faces.preprocess import Anchor
from trainer.model.config import ImageStatistics
from trainer.model.processor import attend_plainly, multiplies_bfloat16
from trainer.pretrain.muon import Muon
from trainer.pretrain.renders import SCORED_AT_ONCE, Batch, Renders, batches
from trainer.synthetic.expression import UNITS

POINTS = 106
JITTER = 0.3  # of the aligned faces: what the landmark network's errors do


@dataclass(frozen=True)
class TowerRecipe:
    """Options of the pretraining.

    Attributes:
        epochs, batch_size: length and step.
        learning_rate: peak, of Muon for the matrices of the layers and of AdamW for the rest; a linear warm-up of 5 %
            and a cosine to zero around it.
        bfloat16: multiply in bfloat16, about twice as fast on processors that have it; others emulate it slowly.
    """

    epochs: int = 18
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    bfloat16: bool = field(default_factory=multiplies_bfloat16)
    seed: int = 1


class TowerTask(nn.Module):
    """A vision tower with the heads of its pretraining, which are dropped afterwards."""

    def __init__(self, config: CLIPVisionConfig, statistics: ImageStatistics) -> None:
        super().__init__()
        self.side = config.image_size // config.patch_size
        self.tower = CLIPVisionModel(config)
        self.places = nn.Linear(config.hidden_size, 3 * POINTS)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.pooled = nn.Linear(2 * config.hidden_size, 2 * len(UNITS) + len(EMOTIONS))
        self.register_buffer("centres", grid(self.side).flatten(0, 1).T.contiguous())  # (2, patches)
        self.register_buffer("mean", torch.tensor(statistics.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(statistics.std).view(3, 1, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Heat (B, 106, patches), points (B, 106, 2), presence and intensities (B, 20), emotions (B, 7); logits."""
        hidden = self.tower((pictures - self.mean) / self.std, output_hidden_states=True).hidden_states[-1]
        patches = self.norm(hidden[:, 1:])
        heat, points = votes(self.places(patches).float().mT, self.centres)
        summary = torch.cat([patches.mean(dim=1), patches.amax(dim=1)], dim=1)
        presence, strength, emotion = self.pooled(summary).float().split([len(UNITS), len(UNITS), len(EMOTIONS)], dim=1)
        return heat, points, presence, strength, emotion

    def loss(self, batch: Batch) -> Tensor:
        heat, points, presence, strength, emotion = self(batch.pictures)
        where = F.cross_entropy(heat.flatten(0, 1), self.soft_cells(batch.points).flatten(0, 1))
        there = (batch.intensities > 0).float()
        units = F.binary_cross_entropy_with_logits(presence, 0.95 * there + 0.02)
        much = ((strength - batch.intensities) ** 2).mean()
        feeling = F.cross_entropy(emotion, batch.emotions, ignore_index=-1, label_smoothing=0.05)
        return 0.15 * where + 0.25 * wing(points, batch.points) + 2.0 * units + 2.0 * much + 0.5 * feeling

    def soft_cells(self, points: Tensor) -> Tensor:
        """(B, 106, patches) share of each patch in a point, bilinear between the centres of the four around it."""
        place = (points.clamp(-1, 1) + 1) / 2 * self.side - 0.5
        cells = torch.arange(self.side)
        column, row = ((1 - (place[..., axis, None] - cells).abs()).clamp(min=0) for axis in (0, 1))
        share = (row[..., :, None] * column[..., None, :]).flatten(2)
        return share / share.sum(dim=2, keepdim=True).clamp(min=1e-6)


def grid(side: int) -> Tensor:
    """(side, side, 2) x and y of the centres of cells, -1 and 1 at the borders."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=2)


def votes(said: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Points on which cells agree: each votes for each point, and says how far from its centre it lies.

    Args:
        said: (B, 318, cells) logits of the votes, x and y from the centre.
        centres: (2, cells) x and y.

    Returns:
        The logits (B, 106, cells) and the points (B, 106, 2).
    """
    heat, *away = said.split(POINTS, dim=1)
    share = heat.softmax(dim=2)
    return heat, torch.stack([(share * (c + a)).sum(dim=2) for c, a in zip(centres, away, strict=True)], dim=2)


def wing(found: Tensor, points: Tensor) -> Tensor:
    """Mean logarithm of the errors: small ones count, and outliers less than squared (Feng et al. 2018)."""
    return torch.log1p((found - points).norm(dim=2) / 0.02).mean()


def pretrain_tower(
    renders: Renders,
    anchors: tuple[Anchor, ...],
    config: CLIPVisionConfig,
    statistics: ImageStatistics,
    recipe: TowerRecipe,
    log: Callable[[dict[str, Any]], None],
) -> TowerTask:
    """Train a tower from nothing.

    Args:
        anchors: where the faces are aligned.
        log: told step, loss and seconds every 50 steps.
    """
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    task = TowerTask(config, statistics).train()
    if recipe.bfloat16:
        attend_plainly(task.tower)
    start_local(task, next(batches(renders, config.image_size, min(512, len(renders)), generator, anchors=anchors)))
    layers = [p for name, p in task.tower.named_parameters() if ".layers." in name and p.ndim == 2]
    rest = [p for p in task.parameters() if all(p is not layer for layer in layers)]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    optimizers = [
        Muon(layers, lr=rate, weight_decay=decay),
        torch.optim.AdamW(rest, lr=rate, weight_decay=decay, betas=(0.9, 0.98)),
    ]
    descend(
        task.loss,
        lambda: batches(renders, config.image_size, recipe.batch_size, generator, anchors=anchors, jitter=JITTER),
        optimizers,
        recipe.epochs * (len(renders) // recipe.batch_size),
        log,
        bfloat16=recipe.bfloat16,
    )
    return task.eval()


@torch.no_grad()
def start_local(task: TowerTask, batch: Batch) -> None:
    """Starting values that spare a transformer the long search for what a convolution has by construction.

    Patches are projected on their whitened principal components (Coates & Ng 2011); positions are waves, and attention
    starts by looking around itself (Trockman & Kolter 2023, mimetic initialisation).
    """
    tower, width = getattr(task.tower, "vision_model", task.tower), task.tower.config.hidden_size
    side = task.tower.config.patch_size
    pictures = (batch.pictures - task.mean) / task.std
    patches = pictures.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    variance, directions = torch.linalg.eigh(torch.cov(patches.T))
    scale = (variance + 0.01 * variance[-width:].mean()).rsqrt()
    filters = (directions * scale).T[-width:].flip(0)
    patch_embedding = tower.embeddings.patch_embedding.weight
    patch_embedding.copy_(0.5 * filters.view(patch_embedding.shape))
    frequency = math.pi / 2 * torch.logspace(0, -math.log10(2 * task.side), width // 4)
    waves = torch.arange(task.side)[:, None] * frequency
    angle = torch.cat([waves.repeat(task.side, 1), waves.repeat_interleave(task.side, 0)], dim=1)
    tower.embeddings.position_embedding.weight[1:] = 0.5 * torch.cat([angle.sin(), angle.cos()], dim=1)
    noise, unit = (lambda: torch.randn(width, width) / math.sqrt(width)), torch.eye(width)
    for layer in tower.encoder.layers:
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.copy_(unit + 0.3 * noise())
        attention.v_proj.weight.copy_(0.4 * (noise() - unit))
        attention.out_proj.weight.copy_(0.4 * (noise() + unit))


def descend(
    loss_of: Callable[[Batch], Tensor],
    epoch: Callable[[], Iterator[Batch]],
    optimizers: list[torch.optim.Optimizer],
    steps: int,
    log: Callable[[dict[str, Any]], None],
    *,
    bfloat16: bool,
) -> None:
    """Gradient descent with a linear warm-up over the first 5 % of the steps and a cosine to zero."""
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    begin, total = time.perf_counter(), 0.0
    batches_of_all_epochs = itertools.chain.from_iterable(epoch() for _ in itertools.count())
    for step, batch in zip(range(steps), batches_of_all_epochs, strict=False):
        share = min(1.0, (step + 1) / (0.05 * steps + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = share * peak
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        total += loss.item()
        if (step + 1) % 50 == 0:
            seconds = round(time.perf_counter() - begin, 1)
            log({"step": step + 1, "of": steps, "loss": round(total / 50, 4), "seconds": seconds})
            total = 0.0


@torch.inference_mode()
def score_tower(task: TowerTask, renders: Renders, anchors: tuple[Anchor, ...]) -> dict[str, float]:
    """Emotion accuracy, mean F1 of the action units and landmark error (share of the picture's side) in percent."""
    generator = torch.Generator().manual_seed(0)
    right = asked = 0
    hits = torch.zeros(3, len(UNITS))  # true positives, predicted, there
    error = count = 0.0
    for batch in batches(renders, task.tower.config.image_size, SCORED_AT_ONCE, generator, anchors=anchors, jitter=0):
        _, points, presence, _, emotion = task(batch.pictures)
        known = batch.emotions >= 0
        right += int((emotion.argmax(1) == batch.emotions)[known].sum())
        asked += int(known.sum())
        said, there = presence > 0, batch.intensities > 0
        hits += torch.stack([(said & there).sum(0), said.sum(0), there.sum(0)])
        error += float((points - batch.points).norm(dim=2).mean())
        count += 1
    f1 = 2 * hits[0] / (hits[1] + hits[2]).clamp(min=1)
    return {
        "emotion accuracy": 100 * right / max(asked, 1),
        "mean F1": 100 * float(f1.mean()),
        "landmark error": 100 * error / max(count, 1) / 2,
        **{f"AU{code}": round(100 * float(value), 1) for code, value in zip(UNITS, f1, strict=True)},
    }
