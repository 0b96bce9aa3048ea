"""Prefill of long prompts: dense 16-bit weights, torch's matrix products and scaled_dot_product_attention."""

from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from .reference import rotate
from .weights import Layer, Linear4, LlamaWeights


class Prefill:
    """Reads a prompt into the cache of one sequence.

    Args:
        llama: the model.
        kernels: module whose `dequantise` is used.
        dtype: of weights and products; the residual stream is float32.
        keep: keep every weight in `dtype`, which takes four times the memory of 4 bits; otherwise each weight is
            dequantised whenever it is used.
    """

    def __init__(self, llama: LlamaWeights, kernels: ModuleType, dtype: torch.dtype, keep: bool) -> None:
        self._llama, self._kernels, self._dtype, self._keep = llama, kernels, dtype, keep
        self._dense: dict[int, Tensor] = {}
        largest = max(linear.inputs * linear.outputs for layer in llama.layers for linear in layer.linears)
        self._scratch = torch.empty(0 if keep else largest, dtype=dtype, device=llama.norm.device)

    def __call__(self, hidden: Tensor, cache: Tensor, start: int) -> Tensor:
        """Append rows to the sequence.

        Args:
            hidden: (T, D) float32 embeddings.
            cache: (layers, 2, KV heads, capacity, size) of the sequence.
            start: number of positions that the cache holds.

        Returns:
            (T, D) float32, before the last norm.
        """
        for index, layer in enumerate(self._llama.layers):
            hidden = hidden + self._attention(hidden, layer, cache[index], start)
            hidden = hidden + self._mlp(hidden, layer)
        return hidden

    def _attention(self, hidden: Tensor, layer: Layer, cache: Tensor, start: int) -> Tensor:
        g, count = self._llama.geometry, len(hidden)
        both = self._product(self._norm(hidden, layer.input_norm), layer.qkv)
        heads = both[:, : (g.heads + 2 * g.kv_heads) * g.head_size].view(count, -1, g.head_size)
        query, key, value = heads.split((g.heads, g.kv_heads, g.kv_heads), 1)
        end = start + count
        angles = self._llama.cos[start:end, None], self._llama.sin[start:end, None]
        cache[0, :, start:end] = rotate(key.float(), *angles).transpose(0, 1).to(cache.dtype)
        cache[1, :, start:end] = value.transpose(0, 1)
        turned = rotate(query.float(), *angles).transpose(0, 1).to(cache.dtype)
        mask = None
        if start:
            mask = torch.ones(count, end, dtype=torch.bool, device=hidden.device).tril(start)
        past = cache[:, None, :, :end]
        attended = scaled_dot_product_attention(
            turned[None], past[0], past[1], mask, is_causal=not start, enable_gqa=g.heads != g.kv_heads
        )
        return self._product(attended[0].transpose(0, 1).flatten(1), layer.out)[:, : g.hidden_size]

    def _mlp(self, hidden: Tensor, layer: Layer) -> Tensor:
        width = hidden.shape[1]
        both = self._product(self._norm(hidden, layer.post_norm), layer.gate_up)
        gate, up = both.view(len(hidden), -1, 2, layer.gate_up.values.shape[2]).unbind(2)
        return self._product((silu(gate) * up).flatten(1)[:, : layer.down.inputs], layer.down)[:, :width]

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(hidden, weight.shape, weight, self._llama.epsilon).to(self._dtype)

    def _product(self, rows: Tensor, linear: Linear4) -> Tensor:
        return rows @ self._weight(linear)

    def _weight(self, linear: Linear4) -> Tensor:
        """The dense (K, outputs) weight of a layer."""
        if id(linear) in self._dense:
            return self._dense[id(linear)]
        shape = linear.inputs, linear.outputs
        if self._keep:
            weight = torch.empty(shape, dtype=self._dtype, device=self._scratch.device)
        else:
            weight = self._scratch[: shape[0] * shape[1]].view(shape)
        self._kernels.dequantise(linear, weight)
        if self._keep:  # only once it is filled: the kernel may fail
            self._dense[id(linear)] = weight
        return weight
