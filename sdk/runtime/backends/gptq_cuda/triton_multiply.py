"""The product of a few rows and a 4-bit matrix, in partial sums that the last thread block adds up.

One row does not use tensor cores. Two 4-bit values of a word are moved into the upper bits of a float32's mantissa,
where they read 1 + v/16 and 1 + v/256. So each weight costs one bit operation and one multiply-add, without a
conversion; the sum of the inputs gives what the ones and the offset of 8 add. Several rows are multiplied on tensor
cores: eight products, one for each of the eight values in a word, so that no values have to be interleaved.
"""

import triton
import triton.language as tl

INPUTS_OF_STEP = tl.constexpr(128)  # inputs that `_multiply_many` reads at a time


@triton.jit
def _one_of_word(word, PLACE: tl.constexpr):
    """1 + v/16 of the upper and 1 + v/256 of the lower value in byte PLACE of each word, as float32."""
    if PLACE < 2:
        moved = word << (15 - 8 * PLACE)
    else:
        moved = word >> (8 * PLACE - 15)
    low = ((moved & 0x00078000) | 0x3F800000).to(tl.float32, bitcast=True)
    high = ((moved & 0x00780000) | 0x3F800000).to(tl.float32, bitcast=True)
    return low, high


@triton.jit
def _multiply_one(
    inputs,
    values,
    scales,
    first,
    last,
    GROUP: tl.constexpr,
    PANEL: tl.constexpr,
    STAGES: tl.constexpr,
):
    """(1, PANEL) sums over the groups first..last of one row; `values` and `scales` are those of the panel."""
    WORDS: tl.constexpr = GROUP // 8
    word = tl.arange(0, WORDS)
    column = tl.arange(0, PANEL)[None, :]
    total = tl.zeros((WORDS, PANEL), tl.float32)
    for group in tl.range(first, last, num_stages=STAGES):
        packed = tl.load(values + (group * WORDS + word)[:, None] * PANEL + column)
        scale = tl.load(scales + group * PANEL + column).to(tl.float32)
        at = inputs + group * GROUP + 8 * word
        x0, x1, x2, x3 = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
        x4, x5, x6, x7 = tl.load(at + 4), tl.load(at + 5), tl.load(at + 6), tl.load(at + 7)
        even = tl.zeros((WORDS, PANEL), tl.float32) - ((x0 + x2 + x4 + x6) * (1 + 8 / 256))[:, None]
        odd = tl.zeros((WORDS, PANEL), tl.float32) - ((x1 + x3 + x5 + x7) * (1 + 8 / 16))[:, None]
        low, high = _one_of_word(packed, 0)
        even += low * x0[:, None]
        odd += high * x1[:, None]
        low, high = _one_of_word(packed, 1)
        even += low * x2[:, None]
        odd += high * x3[:, None]
        low, high = _one_of_word(packed, 2)
        even += low * x4[:, None]
        odd += high * x5[:, None]
        low, high = _one_of_word(packed, 3)
        even += low * x6[:, None]
        odd += high * x7[:, None]
        total += (even * 16 + odd) * (16 * scale)
    return tl.sum(total, axis=0)[None, :]


@triton.jit
def _multiply_many(
    inputs,
    stride,
    factor,
    values,
    scales,
    rows,
    words,
    first,
    last,
    GROUP: tl.constexpr,
    PANEL: tl.constexpr,
    STAGES: tl.constexpr,
):
    """(16, PANEL) sums over the steps first..last of 128 inputs, in float16 with float32 sums."""
    word, row = tl.arange(0, INPUTS_OF_STEP // 8), tl.arange(0, 16)
    column = tl.arange(0, PANEL)[None, :]
    total = tl.zeros((16, PANEL), tl.float32)
    for step in tl.range(first, last, num_stages=STAGES):
        place = step * (INPUTS_OF_STEP // 8) + word
        known = place < words
        packed = tl.load(values + place[:, None] * PANEL + column, mask=known[:, None], other=0)
        part = tl.zeros((16, PANEL), tl.float32)
        if GROUP == INPUTS_OF_STEP:
            scale = tl.load(scales + step * PANEL + column).to(tl.float32)
        else:
            scale = tl.load(scales + (place * 8 // GROUP)[:, None] * PANEL + column, mask=known[:, None], other=0)
        at = inputs + row[:, None] * stride + 8 * place[None, :]
        there = (row < rows)[:, None] & known[None, :]
        for index in tl.static_range(8):
            x = tl.load(at + index, mask=there, other=0.0) * factor[:, None]
            weight = ((packed >> (4 * index)) & 0xF | 0x6400).to(tl.int16).to(tl.float16, bitcast=True) - 1032.0
            if GROUP != INPUTS_OF_STEP:
                weight = weight * scale
            part = tl.dot(x.to(tl.float16), weight.to(tl.float16), part)
        if GROUP == INPUTS_OF_STEP:
            total += part * scale
        else:
            total += part
    return total


@triton.jit
def factor_of(squares, rows, width, epsilon, ROWS: tl.constexpr, BLOCKS: tl.constexpr, BLOCKS_UP: tl.constexpr):
    """(ROWS,) factors of RMSNorm; BLOCKS_UP is BLOCKS, rounded up to a power of two."""
    row, block = tl.arange(0, ROWS), tl.arange(0, BLOCKS_UP)
    mask = (row < rows)[:, None] & (block < BLOCKS)[None, :]
    found = tl.load(squares + row[:, None] * BLOCKS + block[None, :], mask=mask, other=0.0)
    return tl.rsqrt(tl.sum(found, axis=1) / width + epsilon)


@triton.jit
def multiply(
    inputs,
    stride,
    factor,
    values,
    scales,
    panel,
    rows,
    words,
    partial,
    outputs,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    PANEL: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Store the partial sums over this block's share of the inputs, for one panel of every row."""
    split = tl.program_id(1)
    values += panel * words * PANEL
    scales += panel * (words * 8 // GROUP) * PANEL
    if ROWS == 1:
        units = words * 8 // GROUP
        each = (units + SPLITS - 1) // SPLITS
        last = tl.minimum(split * each + each, units)
        found = _multiply_one(inputs, values, scales, split * each, last, GROUP, PANEL, STAGES)
        found = found * factor[:, None]
    else:
        units = (words * 8 + INPUTS_OF_STEP - 1) // INPUTS_OF_STEP
        each = (units + SPLITS - 1) // SPLITS
        last = tl.minimum(split * each + each, units)
        found = _multiply_many(
            inputs, stride, factor, values, scales, rows, words, split * each, last, GROUP, PANEL, STAGES
        )
    row, column = tl.arange(0, ROWS), panel * PANEL + tl.arange(0, PANEL)
    at = partial + (split * rows + row[:, None]) * outputs + column[None, :]
    tl.store(at, found, mask=(row < rows)[:, None] & (column < outputs)[None, :])


@triton.jit
def arrive(counter, expected):
    """Whether this block is the last of `expected` to arrive; it can then read what the others stored before."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == expected - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def add_up(partial, column, rows, outputs, ROWS: tl.constexpr, SPLITS: tl.constexpr):
    """(ROWS, columns) totals of the partial sums, read past the L1 cache, which may hold stale values."""
    row = tl.arange(0, ROWS)[:, None]
    mask = (row < rows) & (column < outputs)[None, :]
    total = tl.zeros((ROWS, column.shape[0]), tl.float32)
    for split in tl.static_range(SPLITS):
        at = partial + (split * rows + row) * outputs + column[None, :]
        total += tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
    return total
