"""The detector's network: depthwise separable convolutions, a feature pyramid, one head for two scales.

Source of the method: Wu, Peng & Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector"; the boxes here are squares.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.faces.nano_detector import OUTPUTS

WIDTHS = (24, 40, 72, 104)  # channels at strides 2 to 16
DEPTHS = (4, 4)  # blocks at strides 8 and 16
NECK = 64


class FaceNetwork(nn.Module):
    """Faces of a picture, from each cell of two grids.

    Args:
        widths: channels at strides 2, 4, 8 and 16.
        depths: blocks at strides 8 and 16.
        neck: channels of the feature pyramid.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, depths: tuple[int, ...] = DEPTHS, neck: int = NECK) -> None:
        super().__init__()
        first, second, *rest = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, 2, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            _block(first, second, 2),
        )
        stages, before = [], second
        for width, depth in zip(rest, depths, strict=True):
            stages.append(nn.Sequential(_block(before, width, 2), *(_block(width, width) for _ in range(depth - 1))))
            before = width
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(nn.Conv2d(width, neck, 1) for width in rest)
        self.smooth = nn.ModuleList(_block(neck, neck) for _ in rest)
        self.head = nn.Sequential(_block(neck, neck), _depthwise(neck, 1))
        outs = [nn.Conv2d(neck, OUTPUTS, 1) for _ in rest]
        self.out = nn.ModuleList(outs)
        for out in outs:
            nn.init.normal_(out.weight, std=0.01)
            bias = [0.0] * OUTPUTS
            bias[0], bias[3] = -4.6, 1.2  # a hundredth of the cells are faces, with sides of 3.3 strides
            out.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Two tensors (N, 14, H / stride, W / stride) from (N, H, W, 3) RGB in 0..255; sides are multiples of 16.

        Centres and points are in strides from the centre of the cell, sides of boxes in strides.
        """
        features = self.stem((pictures.permute(0, 3, 1, 2).float() - 127.5) / 64)
        levels = []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        merged = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        merged[0] = merged[0] + F.interpolate(merged[1], scale_factor=2.0, mode="nearest")
        return tuple(
            out(self.head(smooth(level))) for smooth, level, out in zip(self.smooth, merged, self.out, strict=True)
        )


def _depthwise(width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution, separated into channels and places."""
    return nn.Sequential(
        *_depthwise(before, stride),
        nn.Conv2d(before, after, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
