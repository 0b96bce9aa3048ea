"""Train the detector on scenes, and write it as ONNX."""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdk.faces.nano_detector import STRIDES
from trainer.detector.batches import SceneBatch, Scenes
from trainer.detector.loss import detection_loss
from trainer.detector.mining import false_faces
from trainer.detector.network import FaceNetwork
from trainer.detector.recipe import DetectorRecipe
from trainer.pretrain.descent import minimise
from trainer.pretrain.onnx_file import write_network

WINDOW = 128  # pixels of the side of a window
WINDOWS = 3  # in a batch, for each scene in one
FIRST_SHARE = 0.5625  # of the steps, before the training goes on in two ways
FIRST_RATE = 2.0  # peak of the learning rate in that part, over that of the recipe
FALSE_SHARE = 1 / 12  # of the windows in a batch that are around false faces, in one of the two ways


def train_detector(
    scenes: Scenes, empty: Scenes, recipe: DetectorRecipe, log: Callable[[dict[str, Any]], None]
) -> FaceNetwork:
    """A network that finds the faces of scenes.

    After the first part of the steps the training goes on in two ways from the same network: with the scenes alone, and
    also with the false faces that the network saw. The mean of both networks' weights finds more faces in photographs
    than either, at the same number of false ones. Source of the method: Wortsman et al. 2022, "Model soups".

    Args:
        empty: scenes without faces, in which false faces are looked for.
        log: told step, loss and seconds every 50 steps.
    """
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    network = FaceNetwork()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size, first = WINDOWS * recipe.batch_size, int(FIRST_SHARE * recipe.steps)
    rest, total = recipe.steps - first, 2 * recipe.steps - first
    early = dataclasses.replace(recipe, learning_rate=FIRST_RATE * recipe.learning_rate)
    scenes_alone = partial(scenes.epoch, size, random, WINDOW)
    _descend(network, scenes_alone, early, range(first), total, log)
    wrong, other = false_faces(network, empty, WINDOW, random), copy.deepcopy(network)
    _descend(network, scenes_alone, recipe, range(first, first + rest), total, log)
    _descend(other, partial(_mixed, scenes, wrong, size, random), recipe, range(first + rest, total), total, log)
    return _mean(network, other)


def _mean(first: FaceNetwork, second: FaceNetwork) -> FaceNetwork:
    """The first network, with the means of both networks' weights."""
    weights = second.state_dict()
    for name, weight in first.state_dict().items():
        if weight.is_floating_point():
            weight.copy_((weight + weights[name]) / 2)
    return first.eval()


def _mixed(scenes: Scenes, wrong: Scenes, size: int, random: np.random.Generator) -> Iterator[SceneBatch]:
    """An epoch of batches of windows, a part of them around false faces."""
    count = min(int(FALSE_SHARE * size), len(wrong))
    others = itertools.chain.from_iterable(wrong.epoch(count, random) for _ in itertools.count()) if count else None
    for batch in scenes.epoch(size - count, random, WINDOW):
        yield batch.joined(next(others)) if others else batch


def _descend(
    network: FaceNetwork,
    epoch: Callable[[], Iterator[SceneBatch]],
    recipe: DetectorRecipe,
    steps: range,
    total: int,
    log: Callable[[dict[str, Any]], None],
) -> None:
    """Take some of all steps, with a schedule of their own."""

    def log_step(row: dict[str, Any]) -> None:
        log({**row, "step": steps.start + row["step"], "of": total})

    scaled = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    groups = [{"params": scaled, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)

    def loss_of(batch: SceneBatch) -> Tensor:
        return detection_loss(network(batch.pictures), batch.labels)

    minimise(loss_of, epoch, [optimizer], len(steps), log_step, bfloat16=False)


def write_detector(network: FaceNetwork, path: Path) -> None:
    """Write the network as ONNX for pictures of any size."""
    height, width = (STRIDES[-1] * torch.export.Dim(name, min=1, max=512) for name in ("rows", "columns"))
    example = torch.zeros(1, 480, 640, 3, dtype=torch.uint8)
    outputs = [f"stride_{stride}" for stride in STRIDES]
    write_network(network, example, path, inputs=["picture"], outputs=outputs, sizes={1: height, 2: width})
