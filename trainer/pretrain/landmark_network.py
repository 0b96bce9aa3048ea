"""A small landmark network with the interface of insightface's 2d106det: `data` (N, 3, 192, 192) -> `fc1` (N, 212).

Like that one it centres its input itself and gives x, y of 106 points, -1 and 1 at the borders of its window. It looks
twice: at the window, and at the face that it found there, turned upright and enlarged.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.faces.preprocess import LANDMARK_SIZE, Anchor
from trainer.model.alignment import rigid, similarity
from trainer.model.processor import multiplies_bfloat16
from trainer.pretrain.renders import SCORED_AT_ONCE, Batch, Renders, batches
from trainer.pretrain.shape import LICENCE
from trainer.pretrain.tower import POINTS, descend, grid, votes, wing

BATCH_SIZE, EPOCHS = 64, 10
SIDE = 96  # pixels that a look takes in
_CELLS = SIDE // 8


class Look(nn.Module):
    """Points of a picture: each cell of a 12 x 12 grid votes for each point, and says how far from its centre it lies.

    Args:
        widths: channels at a half, a quarter and an eighth of the picture's side, and of what is common to the picture.
    """

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        half, quarter, eighth, last = widths
        self.near = nn.Sequential(
            _convolution(3, half, 2),
            _convolution(half, quarter, 2),
            _convolution(quarter, eighth, 2),
            _convolution(eighth, last),
        )
        self.far = nn.Sequential(
            _convolution(last, last, 2), _convolution(last, last, 2), nn.Flatten(), nn.Linear(9 * last, last)
        )
        self.together = nn.Sequential(
            _convolution(last, last), _convolution(last, last), nn.Conv2d(last, 3 * POINTS, 1)
        )
        self.register_buffer("centres", grid(_CELLS).flatten(0, 1).T.contiguous())  # (2, cells)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 106, 2), -1 and 1 at the borders, from (N, 3, 96, 96) RGB in about -1..1."""
        near = self.near(pictures)
        said = self.together(near + self.far(near)[:, :, None, None]).float().flatten(2)
        return votes(said, self.centres)[1]

    def loss(self, batch: Batch) -> Tensor:
        return wing(self(centred(batch.pictures * 255)), batch.points)


class LandmarkNetwork(nn.Module):
    """A quick look at the window, a closer one at the aligned face; 0.7 M parameters.

    Args:
        anchors: where the closer look expects the points that say how a face is turned.
    """

    def __init__(self, anchors: tuple[Anchor, ...]) -> None:
        super().__init__()
        self.index, wanted = rigid(anchors)
        self.register_buffer("wanted", wanted)
        self.register_buffer("grid", grid(SIDE).flatten(0, 1))
        self.coarse, self.fine = Look((16, 24, 32, 48)), Look((24, 48, 64, 96))

    def forward(self, data: Tensor) -> Tensor:
        """(N, 212) from (N, 3, 192, 192) RGB in 0..255."""
        frames = similarity(self.coarse(centred(F.avg_pool2d(data, 2)))[:, self.index], self.wanted)
        turn, shift = frames[:, :, :2].mT, frames[:, None, :, 2]
        places = (self.grid @ turn + shift).unflatten(1, (SIDE, SIDE))
        face = F.grid_sample(data, places, align_corners=False)  # black beyond the window, which training recolours
        return (self.fine(centred(face)) @ turn + shift).flatten(1)


def centred(pixels: Tensor) -> Tensor:
    """0..255 -> about -1..1."""
    return (pixels - 127.5) / 128


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


def train_landmark_network(
    renders: Renders,
    anchors: tuple[Anchor, ...],
    *,
    epochs: int,
    log: Callable[[dict[str, Any]], None],
    seed: int = 1,
) -> LandmarkNetwork:
    """Train the closer look on aligned faces, the quick one for a third of the time on the crops of the detector.

    Args:
        anchors: where the faces are aligned.
        log: told step, loss and seconds every 50 steps.
    """
    torch.manual_seed(seed)
    generator, network = torch.Generator().manual_seed(seed), LandmarkNetwork(anchors).train()
    network.to(memory_format=torch.channels_last)
    for look, share, aligned, jitter in ((network.coarse, 1 / 3, (), 1.0), (network.fine, 1, anchors, 0.5)):
        optimizer = torch.optim.AdamW(look.parameters(), lr=2e-3, weight_decay=0.02)
        steps = int(epochs * share * (len(renders) // BATCH_SIZE))
        epoch = partial(batches, renders, SIDE, BATCH_SIZE, generator, anchors=aligned, jitter=jitter)
        descend(look.loss, epoch, [optimizer], steps, log, bfloat16=multiplies_bfloat16())
    return network.eval()


@torch.inference_mode()
def landmark_error(network: LandmarkNetwork, renders: Renders) -> float:
    """Mean distance of a point from its place, in percent of the picture's side."""
    errors = [
        (network(batch.pictures * 255).view(-1, POINTS, 2) - batch.points).norm(dim=2).mean()
        for batch in batches(renders, LANDMARK_SIZE, SCORED_AT_ONCE, torch.Generator().manual_seed(0), jitter=0)
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
