"""A decoder of any depth in the memory of one layer: all layers share parameters, which are read before each runs."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM


def read_layerwise(
    decoder: LlamaForCausalLM,
    read: Callable[[str], Tensor],
    dtype: torch.dtype,
    ran: Callable[[int], None] = lambda layer: None,
) -> None:
    """Make a decoder read the weights of each layer when it runs; embeddings, last norm and head stay in memory.

    It computes what the decoder with all weights in memory computes, to the bit. One batch of many sequences costs the
    same reading as one sequence. It must run in one thread.

    Args:
        decoder: with parameters on the meta device; changed in place.
        read: returns a weight by its name in `decoder`.
        dtype: of the parameters.
        ran: called with the index of each layer after it ran.
    """
    layers = cast("nn.ModuleList", decoder.model.layers)
    shared = {name: torch.empty(p.shape, dtype=dtype) for name, p in layers[0].named_parameters()}
    for index, layer in enumerate(layers):
        layer.load_state_dict(shared, assign=True)
        layer.requires_grad_(False)
        layer.register_forward_pre_hook(_filler(shared, read, f"model.layers.{index}."))
        layer.register_forward_hook(lambda *_, index=index: ran(index))
    rest = [name for name in decoder.state_dict() if not name.startswith("model.layers.")]
    decoder.load_state_dict({name: read(name).to(dtype) for name in rest}, strict=False, assign=True)


def _filler(shared: Mapping[str, Tensor], read: Callable[[str], Tensor], prefix: str) -> Callable[..., None]:
    def fill(*_: object) -> None:
        for name, buffer in shared.items():
            buffer.copy_(read(prefix + name))

    return fill
