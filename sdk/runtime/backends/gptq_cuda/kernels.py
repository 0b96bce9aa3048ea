"""The functions of `reference`, computed by Triton kernels."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

from . import triton_attention, triton_linear
from .rows import MOST, MOST_SPLITS, Rows
from .weights import Layer, Linear4, Llama

_LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Launch:
    """How a linear layer is spread over the GPU.

    Attributes:
        splits: blocks that share the inputs of one panel.
        warps: of a block.
        stages: of the loop over the inputs, how many loads are under way.
    """

    splits: int
    warps: int = 4
    stages: int = 4


tuned: dict[tuple[int, int, bool], Launch] = {}  # (outputs, inputs, one row) -> what `benchmarks/gpu.py --sweep` found


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def launch_of(linear: Linear4, rows: int, panels_of_block: int = 1) -> Launch:
    """The configuration of a linear layer: about four blocks per processor, each with at least two groups to read."""
    found = tuned.get((linear.outputs, linear.inputs, rows == 1))
    if found is None:
        blocks = len(linear.values) // panels_of_block
        wanted = max(1, 4 * _processors(linear.values.device) // blocks)
        found = Launch(min(triton.next_power_of_2(wanted), max(1, linear.inputs // 256), MOST_SPLITS))
    return found


def _shape(linear: Linear4, rows: Rows, panels_of_block: int = 1) -> dict[str, int]:
    """The compile-time arguments of every kernel with a linear layer."""
    launch = launch_of(linear, len(rows), panels_of_block)
    return {
        "ROWS": 1 if len(rows) == 1 else MOST,
        "GROUP": linear.group,
        "PANEL": linear.values.shape[2],
        "SPLITS": launch.splits,
        "STAGES": launch.stages,
        "num_warps": launch.warps,
    }


def _operands(linear: Linear4, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights and scratch, in the order in which every kernel with a linear layer takes them."""
    return linear.values, linear.scales, rows.partial, rows.counters


def _blocks(rows: Rows) -> dict[str, int]:
    blocks = rows.squares.shape[1]
    return {"BLOCKS": blocks, "BLOCKS_UP": triton.next_power_of_2(blocks)}


def dequantise(linear: Linear4, out: Tensor) -> None:
    words, panels = linear.values.shape[1], len(linear.values)
    triton_linear.dequantise_kernel[panels, triton.cdiv(words, 16)](
        linear.values,
        linear.scales,
        out,
        words,
        linear.outputs,
        GROUP=linear.group,
        PANEL=linear.values.shape[2],
        WORDS=16,
    )


def start(rows: Rows, llama: Llama, norm: Tensor, state: Tensor | None) -> None:
    blocks, width = rows.squares.shape[1], rows.hidden.shape[1]
    triton_attention.start_kernel[len(rows), blocks](
        rows.best if state is None else state,
        rows.sequences,
        rows.positions,
        llama.table,
        norm,
        rows.hidden,
        rows.weighted,
        rows.squares,
        width,
        FROM_STATE=state is not None,
        BLOCKS=blocks,
        BLOCK=triton.next_power_of_2(triton.cdiv(width, blocks)),
    )


def read(rows: Rows, llama: Llama, layer: Layer, cache: Tensor) -> None:
    g, linear = llama.geometry, layer.qkv
    shape = _shape(linear, rows)
    triton_linear.read_kernel[len(linear.values), shape["SPLITS"]](
        rows.weighted,
        rows.squares,
        *_operands(linear, rows),
        llama.cos,
        llama.sin,
        rows.sequences,
        rows.positions,
        rows.query,
        cache,
        cache.stride(0),
        cache.shape[3],
        len(rows),
        linear.values.shape[1],
        linear.outputs,
        llama.epsilon,
        HEADS=g.heads,
        KV_HEADS=g.kv_heads,
        SIZE=g.head_size,
        UNIT=max(g.head_size, shape["PANEL"]),
        **_blocks(rows),
        **shape,
    )


def attend(rows: Rows, llama: Llama, cache: Tensor) -> None:
    g = llama.geometry
    wanted = max(1, 4 * _processors(cache.device) // (len(rows) * g.heads))
    splits = min(triton.next_power_of_2(wanted), MOST_SPLITS)
    triton_attention.attend_kernel[len(rows), g.heads, splits](
        rows.query,
        cache,
        rows.sequences,
        rows.positions,
        rows.partial,
        rows.counters,
        rows.attended,
        cache.stride(0),
        cache.shape[3],
        _LOG2_E / g.head_size**0.5,
        HEADS=g.heads,
        KV_HEADS=g.kv_heads,
        SIZE=g.head_size,
        SPLITS=splits,
        BLOCK=32,
        num_warps=4,
    )


def add(rows: Rows, inputs: Tensor, linear: Linear4, norm: Tensor) -> None:
    shape = _shape(linear, rows)
    triton_linear.add_kernel[len(linear.values), shape["SPLITS"]](
        inputs,
        inputs.stride(0),
        *_operands(linear, rows),
        rows.hidden,
        rows.weighted,
        rows.squares,
        norm,
        len(rows),
        linear.values.shape[1],
        linear.outputs,
        rows.hidden.shape[1],
        BLOCKS=rows.squares.shape[1],
        **shape,
    )


def gate_up(rows: Rows, llama: Llama, linear: Linear4) -> None:
    shape = _shape(linear, rows, panels_of_block=2)
    triton_linear.gate_up_kernel[len(linear.values) // 2, shape["SPLITS"]](
        rows.weighted,
        rows.squares,
        *_operands(linear, rows),
        rows.product,
        len(rows),
        linear.values.shape[1],
        linear.outputs,
        llama.epsilon,
        **_blocks(rows),
        **shape,
    )


def head(rows: Rows, llama: Llama, state: Tensor | None) -> None:
    vocabulary, width = llama.head.shape
    tokens = 16
    blocks = triton.cdiv(vocabulary, tokens)
    triton_attention.head_kernel[(blocks,)](
        rows.weighted,
        rows.squares,
        llama.head,
        rows.logits,
        rows.partial,
        rows.counters,
        rows.best,
        rows.sequences,
        rows.positions,
        rows.best if state is None else state,
        len(rows),
        width,
        vocabulary,
        llama.epsilon,
        HAS_STATE=state is not None,
        **_blocks(rows),
        ROWS=1 if len(rows) == 1 else MOST,
        TOKENS=tokens,
        BLOCK=min(256, triton.next_power_of_2(width)),
        PARTS_UP=triton.next_power_of_2(blocks),
        num_warps=4,
    )
