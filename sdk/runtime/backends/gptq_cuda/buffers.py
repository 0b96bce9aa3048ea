"""The buffers of one decoder step: up to 16 rows on their way through the layers.

A row is an embedding with a sequence and a position in it. Rows of different sequences are a batch, rows of one
sequence are a short prompt or a draft. The kernels treat both alike, because the keys and values of all rows are
written before any row attends.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .weights import PANEL, LlamaWeights

MAX_ROWS = 16  # rows of a step: the height of a tensor core's tile
ROW_COUNTS = (1, 2, 4, 8, MAX_ROWS)  # a step is padded to one of these, so that few CUDA graphs are recorded
MAX_SPLITS = 16  # thread blocks that share the sum over the inputs or over the context


@dataclass(frozen=True)
class StepBuffers:
    """Inputs, intermediate results and outputs of one step of R rows; float32 unless a type is given.

    Attributes:
        sequences: (R,) int32, the sequence of the pool that a row belongs to; -1 marks a padding row, whose results
            are not stored.
        positions: (R,) int32.
        hidden: (R, D) residual stream.
        weighted: (R, D) hidden times the weight of the norm that follows. The norm's factor is applied after the linear
            layer, so that no second pass over the row is needed.
        squares: (R, panels of D) sums of the squares of hidden, for that factor.
        query: (R, heads * size) with rotary embedding.
        attended: (R, heads * size).
        product: (R, intermediate size, padded to panels).
        logits: (R, vocabulary).
        best: (R, 1) int32 most probable token.
        partial: scratch for sums over a part of the inputs or of the context.
        counters: int32, zero before and after every kernel.
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
    def allocate(cls, llama: LlamaWeights) -> "StepBuffers":
        """Buffers for MAX_ROWS rows."""
        g, layer = llama.geometry, llama.layers[0]
        device, attention = llama.norm.device, g.heads * g.head_size
        widest = max(*(linear.outputs for linear in layer.linears), g.heads * (g.head_size + 2), g.vocabulary)

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            sequences=zeros(MAX_ROWS, dtype=torch.int32),
            positions=zeros(MAX_ROWS, dtype=torch.int32),
            hidden=zeros(MAX_ROWS, g.hidden_size),
            weighted=zeros(MAX_ROWS, g.hidden_size),
            squares=zeros(MAX_ROWS, -(-g.hidden_size // PANEL)),
            query=zeros(MAX_ROWS, attention),
            attended=zeros(MAX_ROWS, attention),
            product=zeros(MAX_ROWS, layer.gate_up.outputs // 2),
            logits=zeros(MAX_ROWS, g.vocabulary),
            best=zeros(MAX_ROWS, 1, dtype=torch.int32),
            partial=zeros(MAX_SPLITS * MAX_ROWS * widest),
            counters=zeros(max(widest, MAX_ROWS * g.heads), dtype=torch.int32),
        )

    def first(self, count: int) -> "StepBuffers":
        """Views of the first `count` rows."""
        shared = ("partial", "counters")
        return StepBuffers(**{k: v if k in shared else v[:count] for k, v in vars(self).items()})

    def __len__(self) -> int:
        return len(self.sequences)

    def factor(self, epsilon: float) -> Tensor:
        """(R,) factors of RMSNorm."""
        return torch.rsqrt(self.squares.sum(1) / self.hidden.shape[1] + epsilon)
