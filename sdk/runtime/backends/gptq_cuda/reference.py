"""The kernels in plain torch: what the Triton kernels are checked against, and what runs on a CPU.

Both modules have the same functions with the same arguments, and each function fills buffers of `Rows`.
"""

import torch
from torch import Tensor

from .rows import Rows
from .weights import Layer, Linear4, Llama

_SHIFTS = tuple(range(0, 32, 4))


def dequantise(linear: Linear4, out: Tensor) -> None:
    """Fill (K, outputs) with a weight in the precision of `out`."""
    shifts = torch.tensor(_SHIFTS, dtype=torch.int32, device=out.device)
    values = (linear.values[:, :, None] >> shifts[:, None] & 15).flatten(1, 2) - 8  # (panels, K, panel)
    weight = values * linear.scales.float().repeat_interleave(linear.group, 1)
    out.copy_(weight.transpose(0, 1).flatten(1))


def _product(inputs: Tensor, linear: Linear4) -> Tensor:
    """(R, K or wider) -> (R, outputs) in float32."""
    weight = torch.empty(linear.inputs, linear.outputs, device=inputs.device)
    dequantise(linear, weight)
    return inputs[:, : linear.inputs] @ weight


def start(rows: Rows, llama: Llama, norm: Tensor, state: Tensor | None) -> None:
    """Begin with the tokens of a pool's state at their positions, or with the rows that `hidden` holds already.

    Args:
        norm: (D,) weight of the norm that follows.
        state: (sequences, 2) int32: the token that each sequence is to read next, and its length.
    """
    if state is not None:
        chosen = state[rows.sequences.clamp(min=0).long()]
        rows.positions.copy_(chosen[:, 1])
        rows.hidden.copy_(llama.table[chosen[:, 0].long()])
    _weigh(rows, norm)


def _weigh(rows: Rows, norm: Tensor) -> None:
    rows.weighted.copy_(rows.hidden * norm)
    rows.squares.zero_()
    rows.squares[:, 0] = rows.hidden.square().sum(1)


def read(rows: Rows, llama: Llama, layer: Layer, cache: Tensor) -> None:
    """Norm, query, key and value; rotary embedding; keys and values into the cache.

    Args:
        cache: (sequences, 2, KV heads, capacity, size) of this layer.
    """
    g, count = llama.geometry, len(rows)
    qkv = _product(rows.weighted, layer.qkv) * rows.factor(llama.epsilon)[:, None]
    parts = qkv[:, : (g.heads + 2 * g.kv_heads) * g.head_size].view(count, -1, g.head_size)
    query, key, value = parts.split((g.heads, g.kv_heads, g.kv_heads), 1)
    positions, kept = rows.positions.long(), rows.sequences >= 0
    angles = llama.cos[positions][:, None], llama.sin[positions][:, None]
    rows.query.copy_(rotate(query, *angles).flatten(1))
    where = rows.sequences.long()[kept], slice(None), positions[kept]
    cache[:, 0][where] = rotate(key, *angles)[kept].to(cache.dtype)
    cache[:, 1][where] = value[kept].to(cache.dtype)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(..., size) -> the same, its halves rotated by the angles of (..., size / 2)."""
    first, second = heads.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def attend(rows: Rows, llama: Llama, cache: Tensor) -> None:
    """Every row over its sequence up to its own position."""
    g = llama.geometry
    for index in range(len(rows)):
        sequence, length = int(rows.sequences[index]), int(rows.positions[index]) + 1
        if sequence < 0:
            rows.attended[index] = 0
            continue
        key, value = cache[sequence, :, :, :length].float().repeat_interleave(g.heads // g.kv_heads, 1)
        query = rows.query[index].view(g.heads, 1, g.head_size)
        scores = (query @ key.transpose(1, 2) / g.head_size**0.5).softmax(-1)
        rows.attended[index] = (scores @ value).flatten()


def add(rows: Rows, inputs: Tensor, linear: Linear4, norm: Tensor) -> None:
    """Add a linear layer of some inputs (R, K) to the residual stream, and prepare the norm that follows."""
    rows.hidden.add_(_product(inputs, linear)[:, : rows.hidden.shape[1]])
    _weigh(rows, norm)


def gate_up(rows: Rows, llama: Llama, linear: Linear4) -> None:
    """Norm, gate and up projection: silu(gate) * up."""
    both = _product(rows.weighted, linear) * rows.factor(llama.epsilon)[:, None]
    gate, up = both.view(len(rows), -1, 2, linear.values.shape[2]).unbind(2)
    rows.product.copy_((torch.nn.functional.silu(gate) * up).flatten(1))


def head(rows: Rows, llama: Llama, state: Tensor | None) -> None:
    """Last norm, logits and the most probable token; the lowest of equals.

    Args:
        state: as in `start`; gets the token, and the length grows by one.
    """
    logits = rows.weighted @ llama.head.float().T * rows.factor(llama.epsilon)[:, None]
    rows.logits.copy_(logits)
    rows.best[:, 0] = logits.argmax(1)
    if state is not None:
        kept = rows.sequences >= 0
        where = rows.sequences[kept].long()
        state[where, 0] = rows.best[kept, 0]
        state[where, 1] = rows.positions[kept] + 1
