"""A small landmark network with the interface of insightface's 2d106det: `data` (N, 3, 192, 192) -> `fc1` (N, 212).

Like 2d106det it centres its input itself and gives x, y of 106 points, -1 and 1 at the borders of its window. Its
first stage finds the face in the window, its second sees that face turned upright and enlarged.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.faces.preprocess import LANDMARK_SIDE, Anchor
from trainer.model.alignment import similarity, split_anchors
from trainer.model.processor import multiplies_bfloat16
from trainer.pretrain.descent import minimise
from trainer.pretrain.onnx_file import write_network
from trainer.pretrain.points import POINTS, cell_centres, count_votes, distance_loss
from trainer.pretrain.renders import EVALUATION_BATCH, Batch, Renders, batches

BATCH_SIZE = 64
SIDE = 96  # pixels of the input of each stage
_CELLS = SIDE // 8


class PointNetwork(nn.Module):
    """One stage: points of a picture by the votes of a 12 x 12 grid of cells, see `count_votes`.

    Args:
        widths: channels at a half, a quarter and an eighth of the picture's side, and of the last layers.
    """

    centres: Tensor

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        half, quarter, eighth, last = widths
        self.local = nn.Sequential(
            _convolution(3, half, 2),
            _convolution(half, quarter, 2),
            _convolution(quarter, eighth, 2),
            _convolution(eighth, last),
        )
        self.overall = nn.Sequential(
            _convolution(last, last, 2), _convolution(last, last, 2), nn.Flatten(), nn.Linear(9 * last, last)
        )
        self.head = nn.Sequential(_convolution(last, last), _convolution(last, last), nn.Conv2d(last, 3 * POINTS, 1))
        self.register_buffer("centres", cell_centres(_CELLS).flatten(0, 1).T.contiguous())  # (2, cells)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 106, 2), -1 and 1 at the borders, from (N, 3, 96, 96) RGB in about -1..1."""
        features = self.local(pictures)
        votes = self.head(features + self.overall(features)[:, :, None, None]).float().flatten(2)
        return count_votes(votes, self.centres)[1]

    def loss(self, batch: Batch) -> Tensor:
        return distance_loss(self(centred(batch.pictures * 255)), batch.points)


class LandmarkNetwork(nn.Module):
    """A coarse stage for the window and a fine one for the aligned face; 0.7 M parameters.

    Args:
        anchors: where the points that show how a face is turned lie in the fine stage's input.
    """

    wanted: Tensor
    grid: Tensor

    def __init__(self, anchors: tuple[Anchor, ...]) -> None:
        super().__init__()
        self.index, wanted = split_anchors(anchors)
        self.register_buffer("wanted", wanted)
        self.register_buffer("grid", cell_centres(SIDE).flatten(0, 1))
        self.coarse, self.fine = PointNetwork((16, 24, 32, 48)), PointNetwork((24, 48, 64, 96))

    def forward(self, data: Tensor) -> Tensor:
        """(N, 212) from (N, 3, 192, 192) RGB in 0..255."""
        frames = similarity(self.coarse(centred(F.avg_pool2d(data, 2)))[:, self.index], self.wanted)
        turn, shift = frames[:, :, :2].mT, frames[:, None, :, 2]
        places = (self.grid @ turn + shift).unflatten(1, (SIDE, SIDE))
        face = F.grid_sample(data, places, align_corners=False)  # black beyond the window, which training recolours
        points: Tensor = self.fine(centred(face)) @ turn + shift
        return points.flatten(1)


def centred(pixels: Tensor) -> Tensor:
    """Pixels in about -1..1, from 0..255."""
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
    """Train the coarse stage on the crops of the detector, then the fine one, three times as long, on aligned faces.

    Args:
        anchors: where the faces are aligned.
        log: told step, loss and seconds every 50 steps.
    """
    torch.manual_seed(seed)
    generator = torch.Generator(renders.device).manual_seed(seed)
    network = LandmarkNetwork(anchors).train().to(renders.device)
    nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    for stage, share, aligned, jitter in ((network.coarse, 1 / 3, (), 1.0), (network.fine, 1, anchors, 0.5)):
        optimizer = torch.optim.AdamW(stage.parameters(), lr=2e-3, weight_decay=0.02)
        steps = int(epochs * share * (len(renders) // BATCH_SIZE))
        epoch = partial(batches, renders, SIDE, BATCH_SIZE, generator, anchors=aligned, jitter=jitter)
        minimise(
            stage.loss, epoch, [optimizer], steps, log, bfloat16=renders.device.type == "cuda" or multiplies_bfloat16()
        )
    return network.eval()


@torch.inference_mode()
def landmark_error(network: LandmarkNetwork, renders: Renders) -> float:
    """Mean distance of a found point from the exact one, in percent of the picture's side."""
    generator = torch.Generator(renders.device).manual_seed(0)
    errors = [
        (network(batch.pictures * 255).view(-1, POINTS, 2) - batch.points).norm(dim=2).mean()
        for batch in batches(renders, LANDMARK_SIDE, EVALUATION_BATCH, generator, jitter=0)
    ]
    return 100 * float(torch.stack(errors).mean()) / 2


def write_landmark_network(network: LandmarkNetwork, path: Path) -> None:
    """Write the network, which is on the CPU, as ONNX."""
    example, sizes = torch.zeros(2, 3, LANDMARK_SIDE, LANDMARK_SIDE), {0: torch.export.Dim("batch", min=1)}
    write_network(network, example, path, inputs=["data"], outputs=["fc1"], sizes=sizes)
