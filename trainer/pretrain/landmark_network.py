"""A small landmark network with the interface of insightface's 2d106det: `data` (N, 3, 192, 192) -> `fc1` (N, 212).

Like that one it centres its input itself and gives x, y of 106 points, -1 and 1 at the borders of its window.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdk.faces.preprocess import LANDMARK_SIZE

from ..processor import multiplies_bfloat16
from .renders import SCORED_AT_ONCE, Batch, Renders, batches
from .shape import LICENCE
from .tower import POINTS, descend

BATCH_SIZE = 64
TRAINED_SIZE = 96  # the network halves its window first; training feeds it pictures of that size at once


class LandmarkNetwork(nn.Module):
    """Six strided convolutions and a dense layer, 0.6 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 24, 2), (24, 32, 2), (32, 48, 1), (48, 64, 2), (64, 96, 2), (96, 96, 1)):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Conv2d(96, 40, 1), nn.ReLU(), nn.Flatten())
        self.points = nn.Linear(40 * 6 * 6, 2 * POINTS)

    def forward(self, data: Tensor) -> Tensor:
        """(N, 212) from (N, 3, 192, 192) RGB in 0..255."""
        return self.locate(nn.functional.avg_pool2d((data - 127.5) / 128, 2))

    def locate(self, halved: Tensor) -> Tensor:
        """(N, 212) from (N, 3, 96, 96) in about -1..1."""
        return self.points(self.features(halved))

    def loss(self, batch: Batch) -> Tensor:
        """Wing-like: the square root of small errors counts, outliers count less than squared."""
        found = self.locate((batch.pictures * 255 - 127.5) / 128).float().view(-1, POINTS, 2)
        error = (found - batch.points).norm(dim=2)
        return torch.log1p(error / 0.02).mean()


def train_landmark_network(
    renders: Renders, *, epochs: int, log: Callable[[dict[str, Any]], None], seed: int = 1
) -> LandmarkNetwork:
    """Train it on the crops of the detector, jittered.

    Args:
        log: told step, loss and seconds every 50 steps.
    """
    torch.manual_seed(seed)
    generator, network = torch.Generator().manual_seed(seed), LandmarkNetwork().train()
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    steps = epochs * (len(renders) // BATCH_SIZE)
    epoch = lambda: batches(renders, TRAINED_SIZE, BATCH_SIZE, generator)  # noqa: E731
    descend(network.loss, epoch, [optimizer], steps, log, bfloat16=multiplies_bfloat16())
    return network.eval()


@torch.inference_mode()
def landmark_error(network: LandmarkNetwork, renders: Renders) -> float:
    """Mean distance of a point from its place, in percent of the picture's side."""
    errors = [
        (network.locate((batch.pictures * 255 - 127.5) / 128).view(-1, POINTS, 2) - batch.points).norm(dim=2).mean()
        for batch in batches(renders, TRAINED_SIZE, SCORED_AT_ONCE, torch.Generator().manual_seed(0), jitter=False)
    ]
    return 100 * float(torch.stack(errors).mean()) / 2


def write_landmark_network(network: LandmarkNetwork, path: Path) -> None:
    """The network as ONNX, which states its licence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own internals
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, LANDMARK_SIZE, LANDMARK_SIZE),),
            dynamo=True,
            verbose=False,
            opset_version=20,
            input_names=["data"],
            output_names=["fc1"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    program.model.metadata_props["licence"] = LICENCE
    program.save(str(path), external_data=False)
