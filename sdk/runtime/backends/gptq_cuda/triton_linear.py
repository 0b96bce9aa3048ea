"""4-bit linear layers for a few rows, each fused with the operations before and after it.

A thread block computes one panel of outputs over a part of the inputs and stores its partial sums. The block that
arrives last adds them up, always in the same order, and continues with the totals. So a step has one launch per linear
layer, enough blocks for a large GPU, and results that are the same bit for bit on every run.
"""

import triton
import triton.language as tl

from .triton_multiply import add_up, arrive, factor_of, multiply


@triton.jit
def read_kernel(
    weighted,
    squares,
    values,
    scales,
    partial,
    counters,
    cos,
    sin,
    sequences,
    positions,
    query,
    cache,
    sequence_stride,
    capacity,
    rows,
    words,
    outputs,
    epsilon,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCKS_UP: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    PANEL: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Query, key and value of one panel; the last block of a head rotates it and stores it.

    UNIT columns, whole heads and whole panels, are finished together.
    """
    panel, width = tl.program_id(0), words * 8
    norm = factor_of(squares, rows, width, epsilon, ROWS, BLOCKS, BLOCKS_UP)
    multiply(
        weighted, width, norm, values, scales, panel, rows, words, partial, outputs, ROWS, GROUP, PANEL, SPLITS, STAGES
    )
    unit = panel * PANEL // UNIT
    panels = tl.minimum(UNIT, outputs - unit * UNIT) // PANEL
    if arrive(counters + unit, panels * SPLITS):
        HALF: tl.constexpr = SIZE // 2
        row, column = tl.arange(0, ROWS)[:, None], unit * UNIT + tl.arange(0, UNIT)
        own = add_up(partial, column, rows, outputs, ROWS, SPLITS)
        other = add_up(partial, column ^ HALF, rows, outputs, ROWS, SPLITS)
        head, place = (column // SIZE)[None, :], (column % SIZE)[None, :]
        position = tl.load(positions + row, mask=row < rows, other=0)
        angle = position * HALF + place % HALF
        turned = own * tl.load(cos + angle) + tl.where(place < HALF, -other, other) * tl.load(sin + angle)
        result = tl.where(head < HEADS + KV_HEADS, turned, own)
        is_query = (row < rows) & (head < HEADS)
        tl.store(query + row * (HEADS * SIZE) + column[None, :], result, mask=is_query)
        sequence = tl.load(sequences + row, mask=row < rows, other=-1)
        kept = (sequence >= 0) & (head >= HEADS) & (head < HEADS + 2 * KV_HEADS)
        at = cache + sequence.to(tl.int64) * sequence_stride + ((head - HEADS) * capacity + position) * SIZE + place
        tl.store(at, result.to(cache.dtype.element_ty), mask=kept)


@triton.jit
def add_kernel(
    inputs,
    stride,
    values,
    scales,
    partial,
    counters,
    hidden,
    weighted,
    squares,
    norm,
    rows,
    words,
    outputs,
    width,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    PANEL: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Add a linear layer to the residual stream, and prepare the next norm."""
    panel = tl.program_id(0)
    factor = tl.full((ROWS,), 1.0, tl.float32)
    multiply(
        inputs, stride, factor, values, scales, panel, rows, words, partial, outputs, ROWS, GROUP, PANEL, SPLITS, STAGES
    )
    if arrive(counters + panel, SPLITS):
        row, column = tl.arange(0, ROWS)[:, None], panel * PANEL + tl.arange(0, PANEL)
        mask = (row < rows) & (column < width)[None, :]
        at = row * width + column[None, :]
        total = tl.load(hidden + at, mask=mask, other=0.0) + add_up(partial, column, rows, outputs, ROWS, SPLITS)
        total = tl.where(mask, total, 0.0)
        tl.store(hidden + at, total, mask=mask)
        weight = tl.load(norm + column, mask=column < width, other=0.0)
        tl.store(weighted + at, total * weight[None, :], mask=mask)
        place = tl.arange(0, ROWS)
        tl.store(squares + place * BLOCKS + panel, tl.sum(total * total, axis=1), mask=place < rows)


@triton.jit
def gate_up_kernel(
    weighted,
    squares,
    values,
    scales,
    partial,
    counters,
    product,
    rows,
    words,
    outputs,
    epsilon,
    BLOCKS: tl.constexpr,
    BLOCKS_UP: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    PANEL: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Panels 2p (gate) and 2p + 1 (up) become panel p of silu(gate) * up."""
    pair, width = tl.program_id(0), words * 8
    norm = factor_of(squares, rows, width, epsilon, ROWS, BLOCKS, BLOCKS_UP)
    for part in tl.static_range(2):
        at = 2 * pair + part
        multiply(
            weighted, width, norm, values, scales, at, rows, words, partial, outputs, ROWS, GROUP, PANEL, SPLITS, STAGES
        )
    if arrive(counters + pair, SPLITS):
        row, column = tl.arange(0, ROWS)[:, None], 2 * pair * PANEL + tl.arange(0, PANEL)
        gate = add_up(partial, column, rows, outputs, ROWS, SPLITS)
        up = add_up(partial, column + PANEL, rows, outputs, ROWS, SPLITS)
        place = product + row * (outputs // 2) + (pair * PANEL + tl.arange(0, PANEL))[None, :]
        tl.store(place, gate * tl.sigmoid(gate) * up, mask=row < rows)


@triton.jit
def dequantise_kernel(
    values, scales, out, words, outputs, GROUP: tl.constexpr, PANEL: tl.constexpr, WORDS: tl.constexpr
):
    """Write WORDS words of one panel as rows of (K, outputs)."""
    panel = tl.program_id(0)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    column, known = tl.arange(0, PANEL)[None, :], (word < words)[:, None]
    packed = tl.load(values + panel * words * PANEL + word[:, None] * PANEL + column, mask=known, other=0)
    group = (panel * (words * 8 // GROUP) + word * 8 // GROUP)[:, None]
    scale = tl.load(scales + group * PANEL + column, mask=known, other=0).to(tl.float32)
    at = out + (8 * word)[:, None] * outputs + panel * PANEL + column
    for index in tl.static_range(8):
        value = (((packed >> (4 * index)) & 0xF) - 8).to(tl.float32) * scale
        tl.store(at + index * outputs, value.to(out.dtype.element_ty), mask=known)
