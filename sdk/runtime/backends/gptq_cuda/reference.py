"""The kernels in plain torch: they run on a CPU, and the Triton kernels are checked against them.

Both modules have the same functions with the same arguments. Each function fills some of the `StepBuffers`.
"""

import torch
from torch import Tensor

from .buffers import StepBuffers
from .weights import Layer, Linear4, LlamaWeights

_SHIFTS = tuple(range(0, 32, 4))


def dequantise(linear: Linear4, out: Tensor) -> None:
    """Write the (K, outputs) weight of a layer to `out`, in its precision."""
    shifts = torch.tensor(_SHIFTS, dtype=torch.int32, device=out.device)
    values = (linear.values[:, :, None] >> shifts[:, None] & 15).flatten(1, 2) - 8  # (panels, K, panel)
    weight = values * linear.scales.float().repeat_interleave(linear.group, 1)
    out.copy_(weight.transpose(0, 1).flatten(1))


def _product(inputs: Tensor, linear: Linear4) -> Tensor:
    """Multiply (R, K or wider) inputs by a layer; returns (R, outputs) in float32."""
    weight = torch.empty(linear.inputs, linear.outputs, device=inputs.device)
    dequantise(linear, weight)
    return inputs[:, : linear.inputs] @ weight


def start(buffers: StepBuffers, llama: LlamaWeights, norm: Tensor, state: Tensor | None) -> None:
    """Fill `hidden` with the tokens of a pool's state, or keep the rows that it holds; then prepare the first norm.

    Args:
        norm: (D,) weight of the norm that follows.
        state: (sequences, 2) int32: the token that each sequence reads next, and its length; None keeps `hidden`.
    """
    if state is not None:
        chosen = state[buffers.sequences.clamp(min=0).long()]
        buffers.positions.copy_(chosen[:, 1])
        buffers.hidden.copy_(llama.table[chosen[:, 0].long()])
    _weigh(buffers, norm)


def _weigh(buffers: StepBuffers, norm: Tensor) -> None:
    buffers.weighted.copy_(buffers.hidden * norm)
    buffers.squares.zero_()
    buffers.squares[:, 0] = buffers.hidden.square().sum(1)


def read(buffers: StepBuffers, llama: LlamaWeights, layer: Layer, cache: Tensor) -> None:
    """Apply norm, QKV projection and rotary embedding, and write keys and values to the cache.

    Args:
        cache: (sequences, 2, KV heads, capacity, size) of this layer.
    """
    g, count = llama.geometry, len(buffers)
    qkv = _product(buffers.weighted, layer.qkv) * buffers.factor(llama.epsilon)[:, None]
    parts = qkv[:, : (g.heads + 2 * g.kv_heads) * g.head_size].view(count, -1, g.head_size)
    query, key, value = parts.split((g.heads, g.kv_heads, g.kv_heads), 1)
    positions, kept = buffers.positions.long(), buffers.sequences >= 0
    angles = llama.cos[positions][:, None], llama.sin[positions][:, None]
    buffers.query.copy_(rotate(query, *angles).flatten(1))
    where = buffers.sequences.long()[kept], slice(None), positions[kept]
    cache[:, 0][where] = rotate(key, *angles)[kept].to(cache.dtype)
    cache[:, 1][where] = value[kept].to(cache.dtype)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of (..., size) heads by angles whose cosine and sine are (..., size / 2)."""
    first, second = heads.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def attend(buffers: StepBuffers, llama: LlamaWeights, cache: Tensor) -> None:
    """Attend with every row to its sequence, up to its own position."""
    g = llama.geometry
    for index in range(len(buffers)):
        sequence, length = int(buffers.sequences[index]), int(buffers.positions[index]) + 1
        if sequence < 0:
            buffers.attended[index] = 0
            continue
        key, value = cache[sequence, :, :, :length].float().repeat_interleave(g.heads // g.kv_heads, 1)
        query = buffers.query[index].view(g.heads, 1, g.head_size)
        scores = (query @ key.transpose(1, 2) / g.head_size**0.5).softmax(-1)
        buffers.attended[index] = (scores @ value).flatten()


def add(buffers: StepBuffers, inputs: Tensor, linear: Linear4, norm: Tensor) -> None:
    """Add a linear layer of (R, K) inputs to the residual stream, and prepare the norm that follows."""
    buffers.hidden.add_(_product(inputs, linear)[:, : buffers.hidden.shape[1]])
    _weigh(buffers, norm)


def gate_up(buffers: StepBuffers, llama: LlamaWeights, linear: Linear4) -> None:
    """Apply norm, gate and up projection: `product` = silu(gate) * up."""
    both = _product(buffers.weighted, linear) * buffers.factor(llama.epsilon)[:, None]
    gate, up = both.view(len(buffers), -1, 2, linear.values.shape[2]).unbind(2)
    buffers.product.copy_((torch.nn.functional.silu(gate) * up).flatten(1))


def head(buffers: StepBuffers, llama: LlamaWeights, state: Tensor | None) -> None:
    """Apply the last norm, compute logits and choose the most probable token; the lowest id wins a tie.

    Args:
        state: as in `start`; the chosen token is written to it and the length grows by one.
    """
    logits = buffers.weighted @ llama.head.float().T * buffers.factor(llama.epsilon)[:, None]
    buffers.logits.copy_(logits)
    buffers.best[:, 0] = logits.argmax(1)
    if state is not None:
        kept = buffers.sequences >= 0
        where = buffers.sequences[kept].long()
        state[where, 0] = buffers.best[kept, 0]
        state[where, 1] = buffers.positions[kept] + 1
