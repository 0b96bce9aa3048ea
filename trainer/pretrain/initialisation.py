"""Initial weights that spare a small vision transformer the long search for what a convolution has by construction."""

import math

import torch
from torch import Tensor
from transformers import CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPAttention

from trainer.model.config import patch_side, patches_per_side


@torch.no_grad()
def initialise_tower(model: CLIPVisionModel, pixels: Tensor) -> None:
    """Set the patch projection, the positions and the attention of a tower.

    Patches are projected on their whitened principal components (Coates & Ng 2011); positions are waves, and attention
    starts at the patch itself (Trockman & Kolter 2023, mimetic initialisation).

    Args:
        pixels: (N, 3, S, S) normalised pictures, from which the components are computed.
    """
    tower: CLIPVisionModel = getattr(model, "vision_model", model)  # older versions of transformers nest it
    width = model.config.hidden_size
    filters = _whitened_components(pixels, patch_side(model.config), width)
    patch_embedding = tower.embeddings.patch_embedding
    patch_embedding.weight.copy_(0.5 * filters.view(patch_embedding.weight.shape))
    tower.embeddings.position_embedding.weight[1:] = 0.5 * _waves(patches_per_side(model.config), width)
    unit = torch.eye(width, device=pixels.device)
    for attention in (module for module in tower.modules() if isinstance(module, CLIPAttention)):
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.copy_(unit + 0.3 * _noise(width, unit.device))
        attention.v_proj.weight.copy_(0.4 * (_noise(width, unit.device) - unit))
        attention.out_proj.weight.copy_(0.4 * (_noise(width, unit.device) + unit))


def _whitened_components(pixels: Tensor, side: int, count: int) -> Tensor:
    """(count, 3 * side * side) the first whitened principal components of the patches of pictures."""
    patches = pixels.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    variance, directions = torch.linalg.eigh(torch.cov(patches.T))
    components: Tensor = directions * (variance + 0.01 * variance[-count:].mean()).rsqrt()
    return components.T[-count:].flip(0)


def _waves(side: int, width: int) -> Tensor:
    """(side * side, width) sines and cosines of column and row."""
    frequency = math.pi / 2 * torch.logspace(0, -math.log10(2 * side), width // 4)
    waves = torch.arange(side)[:, None] * frequency
    angle = torch.cat([waves.repeat(side, 1), waves.repeat_interleave(side, 0)], dim=1)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _noise(width: int, device: torch.device) -> Tensor:
    return torch.randn(width, width, device=device) / math.sqrt(width)
