"""The buffers of one decoder step: up to 16 rows on their way through the layers, whosever they are.

A row is an embedding with a sequence and a position in it. Rows of different sequences are a batch, rows of one
sequence are a short prompt or a draft: the kernels do not care, because keys and values are written before any row
attends.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .weights import PANEL, Llama

MOST = 16  # rows of a step: the height of a tensor core's tile
SIZES = (1, 2, 4, 8, MOST)
MOST_SPLITS = 16


@dataclass(frozen=True)
class Rows:
    """Rows of one step, all float32 unless said otherwise.

    Attributes:
        sequences: (R,) int32, the row of the pool that a row belongs to; -1 for none, it is computed and forgotten.
        positions: (R,) int32.
        hidden: (R, D) residual stream.
        weighted: (R, D) hidden times the weight of the norm that follows; the norm's factor is applied behind the
            linear layer, which needs no second pass over the row.
        squares: (R, panels of D) sums of the squares of hidden, for that factor.
        query: (R, heads * size) with rotary embedding.
        attended: (R, heads * size).
        product: (R, intermediate size, padded to panels).
        logits: (R, vocabulary).
        best: (R, 1) int32 most probable token.
        partial: scratch for sums over a part of the inputs or of the context.
        counters: zeros int32, and zeros again after every kernel.
    """

    sequences: Tensor
    positions: Tensor
    hidden: Tensor
    weighted: Tensor
    squares: Tensor
    query: Tensor
    attended: Tensor
    product: Tensor
    logits: Tensor
    best: Tensor
    partial: Tensor
    counters: Tensor

    @classmethod
    def allocate(cls, llama: Llama) -> "Rows":
        """Buffers for the most rows."""
        g, layer = llama.geometry, llama.layers[0]
        device, attention = llama.norm.device, g.heads * g.head_size
        widest = max(*(linear.outputs for linear in layer.linears), g.heads * (g.head_size + 2), g.vocabulary)

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            sequences=zeros(MOST, dtype=torch.int32),
            positions=zeros(MOST, dtype=torch.int32),
            hidden=zeros(MOST, g.hidden_size),
            weighted=zeros(MOST, g.hidden_size),
            squares=zeros(MOST, -(-g.hidden_size // PANEL)),
            query=zeros(MOST, attention),
            attended=zeros(MOST, attention),
            product=zeros(MOST, layer.gate_up.outputs // 2),
            logits=zeros(MOST, g.vocabulary),
            best=zeros(MOST, 1, dtype=torch.int32),
            partial=zeros(MOST_SPLITS * MOST * widest),
            counters=zeros(max(widest, MOST * g.heads), dtype=torch.int32),
        )

    def first(self, count: int) -> "Rows":
        """The same buffers for the first rows only."""
        shared = ("partial", "counters")
        return Rows(**{k: v if k in shared else v[:count] for k, v in vars(self).items()})

    def __len__(self) -> int:
        return len(self.sequences)

    def factor(self, epsilon: float) -> Tensor:
        """(R,) of RMSNorm."""
        return torch.rsqrt(self.squares.sum(1) / self.hidden.shape[1] + epsilon)
