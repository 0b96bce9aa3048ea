"""The other kernels of a step: its first rows, attention, and the output head with the choice of the next token.

Attention and the head are spread over several thread blocks, each of which stores a partial result in `partial`. The
block that arrives last combines them.
"""

import triton
import triton.language as tl

from .triton_multiply import arrive, factor_of

_LOWEST = tl.constexpr(-1e30)


@triton.jit
def start_kernel(
    state,
    sequences,
    positions,
    table,
    norm,
    hidden,
    weighted,
    squares,
    width,
    FROM_STATE: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Load one block of one row, multiply it by the first norm's weight and sum its squares.

    FROM_STATE: the row is the embedding of its sequence's next token; otherwise `hidden` already holds it.
    """
    row, block = tl.program_id(0), tl.program_id(1)
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    if FROM_STATE:
        sequence = tl.maximum(tl.load(sequences + row), 0)
        token = tl.load(state + 2 * sequence).to(tl.int64)
        if block == 0:
            tl.store(positions + row, tl.load(state + 2 * sequence + 1))
        found = tl.load(table + token * width + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(hidden + at, found, mask=inside)
    else:
        found = tl.load(hidden + at, mask=inside, other=0.0)
    tl.store(weighted + at, found * tl.load(norm + column, mask=inside, other=0.0), mask=inside)
    tl.store(squares + row * BLOCKS + block, tl.sum(found * found, axis=0))


@triton.jit
def attend_kernel(
    query,
    cache,
    sequences,
    positions,
    partial,
    counters,
    attended,
    sequence_stride,
    capacity,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Attend with one head of one row to one of SPLITS parts of its context.

    Args:
        scale: of the scores, times log2 e.
    """
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence = tl.load(sequences + row)
    length = tl.where(sequence < 0, 0, tl.load(positions + row) + 1)
    each = (length + SPLITS * BLOCK - 1) // (SPLITS * BLOCK) * BLOCK
    begin, end = split * each, tl.minimum(split * each + each, length)
    dim = tl.arange(0, SIZE)
    q = tl.load(query + (row * HEADS + head) * SIZE + dim) * scale
    keys = cache + tl.maximum(sequence, 0).to(tl.int64) * sequence_stride
    keys += head // (HEADS // KV_HEADS) * capacity * SIZE
    values = keys + KV_HEADS * capacity * SIZE
    highest, weight, total = _attend_part(q, keys, values, begin, end, SIZE, BLOCK)
    part = partial + ((row * HEADS + head) * SPLITS + split) * (SIZE + 2)
    tl.store(part + dim, total)
    tl.store(part + SIZE, highest)
    tl.store(part + SIZE + 1, weight)
    if arrive(counters + row * HEADS + head, SPLITS):
        result = _combine_parts(partial + (row * HEADS + head) * SPLITS * (SIZE + 2), SIZE, SPLITS)
        tl.store(attended + (row * HEADS + head) * SIZE + dim, result)


@triton.jit
def _attend_part(q, keys, values, begin, end, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Softmax-weighted sum of the values at the positions begin..end, not yet divided by its weight.

    Each place in a block of positions has its own running softmax, so that threads exchange nothing before the end.

    Returns:
        The highest score, the sum of the weights relative to it, and the (SIZE,) weighted sum of the values.
    """
    place, dim = tl.arange(0, BLOCK), tl.arange(0, SIZE)
    highest = tl.full((BLOCK,), _LOWEST, tl.float32)
    weight = tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK, SIZE), tl.float32)
    for at in range(begin, end, BLOCK):
        inside = at + place < end
        offset = (at + place)[:, None] * SIZE + dim[None, :]
        key = tl.load(keys + offset, mask=inside[:, None], other=0.0).to(tl.float32)
        value = tl.load(values + offset, mask=inside[:, None], other=0.0).to(tl.float32)
        score = tl.where(inside, tl.sum(key * q[None, :], axis=1), _LOWEST)
        higher = tl.maximum(highest, score)
        keep = tl.exp2(highest - higher)
        share = tl.where(inside, tl.exp2(score - higher), 0.0)
        weight = weight * keep + share
        total = total * keep[:, None] + value * share[:, None]
        highest = higher
    top = tl.max(highest, axis=0)
    keep = tl.exp2(highest - top)
    return top, tl.sum(weight * keep, axis=0), tl.sum(total * keep[:, None], axis=0)


@triton.jit
def _combine_parts(partial, SIZE: tl.constexpr, SPLITS: tl.constexpr):
    """(SIZE,) attention of one head of one row from its parts; zeros for a row without a sequence."""
    parts = partial + tl.arange(0, SPLITS) * (SIZE + 2)
    tops = tl.load(parts + SIZE, cache_modifier=".cg")
    share = tl.exp2(tops - tl.max(tops, axis=0))
    sums = tl.load(parts[:, None] + tl.arange(0, SIZE)[None, :], cache_modifier=".cg") * share[:, None]
    divisor = tl.sum(tl.load(parts + SIZE + 1, cache_modifier=".cg") * share, axis=0)
    return tl.sum(sums, axis=0) / tl.where(divisor > 0, divisor, 1.0)


@triton.jit
def head_kernel(
    weighted,
    squares,
    head,
    logits,
    partial,
    counters,
    best,
    sequences,
    positions,
    state,
    rows,
    width,
    vocabulary,
    epsilon,
    HAS_STATE: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCKS_UP: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS_UP: tl.constexpr,
):
    """Logits of TOKENS tokens and the best of them; the last block chooses the best of all.

    PARTS_UP is the number of blocks, rounded up to a power of two. If the logits are NaN, some token of the vocabulary
    is chosen.
    """
    block, blocks = tl.program_id(0), tl.num_programs(0)
    row, token = tl.arange(0, ROWS), block * TOKENS + tl.arange(0, TOKENS)
    known = token < vocabulary
    factor = factor_of(squares, rows, width, epsilon, ROWS, BLOCKS, BLOCKS_UP)
    lines = head + token.to(tl.int64)[:, None] * width
    if ROWS == 1:
        found = _logits_of_one(weighted, lines, known, width, TOKENS, BLOCK)[None, :] * factor[:, None]
    else:
        found = _logits_of_many(weighted, factor, lines, known, rows, width, ROWS, TOKENS, BLOCK)
    there = (row < rows)[:, None] & known[None, :]
    tl.store(logits + row[:, None] * vocabulary + token[None, :], found, mask=there)
    found = tl.where(there, found, _LOWEST)
    top = tl.max(found, axis=1)
    first = tl.min(tl.where(found == top[:, None], token[None, :], vocabulary), axis=1)
    at = partial + (row * blocks + block) * 2
    tl.store(at, top, mask=row < rows)
    tl.store(at + 1, first.to(tl.float32), mask=row < rows)  # exact below 2^24
    if arrive(counters, blocks):
        for index in range(rows):
            chosen = _best_of_blocks(partial + index * blocks * 2, blocks, vocabulary, PARTS_UP)
            tl.store(best + index, chosen)
            if HAS_STATE:
                sequence = tl.load(sequences + index)
                if sequence >= 0:
                    tl.store(state + 2 * sequence, chosen)
                    tl.store(state + 2 * sequence + 1, tl.load(positions + index) + 1)


@triton.jit
def _logits_of_one(weighted, lines, known, width, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """(TOKENS,) products of one row and the lines of the head, before the norm's factor."""
    sums = tl.zeros((TOKENS, BLOCK), tl.float32)
    for at in tl.range(0, width, BLOCK, num_stages=3):
        column = at + tl.arange(0, BLOCK)
        mask = known[:, None] & (column < width)[None, :]
        x = tl.load(weighted + column, mask=column < width, other=0.0)
        sums += tl.load(lines + column[None, :], mask=mask, other=0.0).to(tl.float32) * x[None, :]
    return tl.sum(sums, axis=1)


@triton.jit
def _logits_of_many(
    weighted, factor, lines, known, rows, width, ROWS: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr
):
    """(ROWS, TOKENS) products in float16 on tensor cores; the norm's factor comes first, so that float16 suffices."""
    row = tl.arange(0, ROWS)
    found = tl.zeros((ROWS, TOKENS), tl.float32)
    for at in tl.range(0, width, BLOCK, num_stages=3):
        column = at + tl.arange(0, BLOCK)
        inside = (column < width)[None, :]
        weight = tl.load(lines + column[None, :], mask=known[:, None] & inside, other=0.0)
        there = (row < rows)[:, None] & inside
        x = tl.load(weighted + row[:, None] * width + column[None, :], mask=there, other=0.0) * factor[:, None]
        found = tl.dot(x.to(tl.float16), tl.trans(weight.to(tl.float16)), found)
    return found


@triton.jit
def _best_of_blocks(partial, blocks, vocabulary, PARTS_UP: tl.constexpr):
    """The most probable token of one row, from the best one of each block; the lowest of equals."""
    part = tl.arange(0, PARTS_UP)
    tops = tl.load(partial + part * 2, mask=part < blocks, other=_LOWEST, cache_modifier=".cg")
    tokens = tl.load(partial + part * 2 + 1, mask=part < blocks, other=0.0, cache_modifier=".cg").to(tl.int32)
    chosen = tl.min(tl.where(tops == tl.max(tops, axis=0), tokens, vocabulary), axis=0)
    return tl.minimum(chosen, vocabulary - 1)  # the next step reads its embedding
