"""The functions of `reference`, computed by Triton kernels."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

from . import triton_attention, triton_linear
from .buffers import MAX_ROWS, MAX_SPLITS, StepBuffers
from .weights import Layer, Linear4, LlamaWeights

_LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Launch:
    """How a linear layer is distributed over the GPU.

    Attributes:
        splits: thread blocks that share the inputs of one panel.
        warps: warps of a thread block.
        stages: pipeline stages of the loop over the inputs.
    """

    splits: int
    warps: int = 4
    stages: int = 4


tuned: dict[tuple[int, int, bool], Launch] = {}  # by (outputs, inputs, one row); `benchmarks/gpu.py --sweep` finds them
_HOPPER = {  # found on an H200 for Vicuna-7B; a step takes 0.95 of its time without them
    (12288, 4096, True): Launch(2, stages=3),
    (4096, 4096, True): Launch(8, stages=2),
    (22016, 4096, True): Launch(2, stages=3),
    (4096, 11008, True): Launch(8, stages=3),
}


@lru_cache
def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def launch_of(linear: Linear4, rows: int, panels_of_block: int = 1) -> Launch:
    """The tuned launch of a linear layer, or about four blocks per multiprocessor, each with at least 256 inputs."""
    key = (linear.outputs, linear.inputs, rows == 1)
    found = tuned.get(key) or (_HOPPER.get(key) if _is_hopper(linear.values.device) else None)
    if found is None:
        blocks = len(linear.values) // panels_of_block
        wanted = max(1, 4 * _processors(linear.values.device) // blocks)
        found = Launch(min(triton.next_power_of_2(wanted), max(1, linear.inputs // 256), MAX_SPLITS))
    return found


def _shape(linear: Linear4, buffers: StepBuffers, panels_of_block: int = 1) -> dict[str, int]:
    """The compile-time arguments of every kernel with a linear layer."""
    launch = launch_of(linear, len(buffers), panels_of_block)
    return {
        "ROWS": 1 if len(buffers) == 1 else MAX_ROWS,
        "GROUP": linear.group,
        "PANEL": linear.values.shape[2],
        "SPLITS": launch.splits,
        "STAGES": launch.stages,
        "num_warps": launch.warps,
    }


def _operands(linear: Linear4, buffers: StepBuffers) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights and scratch buffers, in the order of the arguments of every kernel with a linear layer."""
    return linear.values, linear.scales, buffers.partial, buffers.counters


def _blocks(buffers: StepBuffers) -> dict[str, int]:
    blocks = buffers.squares.shape[1]
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


def start(buffers: StepBuffers, llama: LlamaWeights, norm: Tensor, state: Tensor | None) -> None:
    blocks, width = buffers.squares.shape[1], buffers.hidden.shape[1]
    triton_attention.start_kernel[len(buffers), blocks](
        buffers.best if state is None else state,
        buffers.sequences,
        buffers.positions,
        llama.table,
        norm,
        buffers.hidden,
        buffers.weighted,
        buffers.squares,
        width,
        FROM_STATE=state is not None,
        BLOCKS=blocks,
        BLOCK=triton.next_power_of_2(triton.cdiv(width, blocks)),
    )


def read(buffers: StepBuffers, llama: LlamaWeights, layer: Layer, cache: Tensor) -> None:
    g, linear = llama.geometry, layer.qkv
    shape = _shape(linear, buffers)
    triton_linear.read_kernel[len(linear.values), shape["SPLITS"]](
        buffers.weighted,
        buffers.squares,
        *_operands(linear, buffers),
        llama.cos,
        llama.sin,
        buffers.sequences,
        buffers.positions,
        buffers.query,
        cache,
        cache.stride(0),
        cache.shape[3],
        len(buffers),
        linear.values.shape[1],
        linear.outputs,
        llama.epsilon,
        HEADS=g.heads,
        KV_HEADS=g.kv_heads,
        SIZE=g.head_size,
        UNIT=max(g.head_size, shape["PANEL"]),
        **_blocks(buffers),
        **shape,
    )


def attend(buffers: StepBuffers, llama: LlamaWeights, cache: Tensor) -> None:
    g = llama.geometry
    wanted = max(1, 4 * _processors(cache.device) // (len(buffers) * g.heads))
    splits = min(triton.next_power_of_2(wanted), MAX_SPLITS)
    triton_attention.attend_kernel[len(buffers), g.heads, splits](
        buffers.query,
        cache,
        buffers.sequences,
        buffers.positions,
        buffers.partial,
        buffers.counters,
        buffers.attended,
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


def add(buffers: StepBuffers, inputs: Tensor, linear: Linear4, norm: Tensor) -> None:
    shape = _shape(linear, buffers)
    triton_linear.add_kernel[len(linear.values), shape["SPLITS"]](
        inputs,
        inputs.stride(0),
        *_operands(linear, buffers),
        buffers.hidden,
        buffers.weighted,
        buffers.squares,
        norm,
        len(buffers),
        linear.values.shape[1],
        linear.outputs,
        buffers.hidden.shape[1],
        BLOCKS=buffers.squares.shape[1],
        **shape,
    )


def gate_up(buffers: StepBuffers, llama: LlamaWeights, linear: Linear4) -> None:
    shape = _shape(linear, buffers, panels_of_block=2)
    triton_linear.gate_up_kernel[len(linear.values) // 2, shape["SPLITS"]](
        buffers.weighted,
        buffers.squares,
        *_operands(linear, buffers),
        buffers.product,
        len(buffers),
        linear.values.shape[1],
        linear.outputs,
        llama.epsilon,
        **_blocks(buffers),
        **shape,
    )


def head(buffers: StepBuffers, llama: LlamaWeights, state: Tensor | None) -> None:
    vocabulary, width = llama.head.shape
    tokens = 16
    blocks = triton.cdiv(vocabulary, tokens)
    triton_attention.head_kernel[(blocks,)](
        buffers.weighted,
        buffers.squares,
        llama.head,
        buffers.logits,
        buffers.partial,
        buffers.counters,
        buffers.best,
        buffers.sequences,
        buffers.positions,
        buffers.best if state is None else state,
        len(buffers),
        width,
        vocabulary,
        llama.epsilon,
        HAS_STATE=state is not None,
        **_blocks(buffers),
        ROWS=1 if len(buffers) == 1 else MAX_ROWS,
        TOKENS=tokens,
        BLOCK=min(256, triton.next_power_of_2(width)),
        PARTS_UP=triton.next_power_of_2(blocks),
        num_warps=4,
    )
