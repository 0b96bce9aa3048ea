"""Decode two answers about one face together: a step of both reads the weights once, which is what a step costs.

Both sequences begin with the rows of the face. The tokens are those of one answer after the other: near ties are read
again, as in `sdk.runtime.speculate`. A step of both and a draft for one of them compete by the rule of
`sdk.runtime.drafts`, so little is lost where a second row is slow or near ties are frequent.
"""

import time
from itertools import islice
from typing import TypeAlias

from sdk.runtime.backends.interface import Decoder
from sdk.runtime.clock import Clock
from sdk.runtime.drafts import Drafter
from sdk.runtime.speculate import DraftedGeneration, step_together

Both: TypeAlias = tuple[DraftedGeneration, DraftedGeneration]


def draw_together(decoder: Decoder, drafter: Drafter, both: Both, clock: Clock) -> list[list[int]]:
    """Draw all tokens of two answers.

    Args:
        drafter: of both.
        both: new answers, in the first two sequences of one pool.
        clock: gets the times of the stages `question` (up to the first tokens) and `decode` (all others).
    """
    with clock("question"):
        tokens = [list(islice(generation, 1)) for generation in both]
    with clock("decode"):
        while all(generation.pending for generation in both):
            gains = [drafter.gain(generation.propose()) for generation in both]
            if drafter.pair_gain() > max(gains):
                _step(decoder, drafter, both)
            else:
                both[gains.index(max(gains))].decode_draft()
        return [[*first, *generation] for first, generation in zip(tokens, both, strict=True)]


def _step(decoder: Decoder, drafter: Drafter, both: Both) -> None:
    """Read the pending tokens of both answers in one step."""
    begin, before = time.perf_counter(), sum(generation.rows_again for generation in both)
    logits = step_together(decoder, both[0].cache.pool, both)
    seconds = time.perf_counter() - begin
    for generation, row in zip(both, logits, strict=True):
        generation.accept_shared(row)
    drafter.learn_pair(seconds, sum(generation.rows_again for generation in both) - before)
