"""Speculative decoding (Leviathan et al. 2023) without a second model: drafted tokens are verified in one forward.

A token is accepted only if greedy decoding would have chosen it, so the answer is the same as that of the plain loop.
Rounding alone could change it: kernels add in a different order for several rows than for one, and if a quantised graph
rounds activations to 8 bits, the last bit of a sum can move a logit by a few hundredths. So a near tie between the two
best tokens is not decided by such a forward: the answer so far is read again row by row, as the plain loop reads it.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sdk.arrays import Floats
from sdk.runtime.backends.interface import Decoder, KVCache, KVPool
from sdk.runtime.drafts import Drafter, DraftToken
from sdk.runtime.generate import Generation, check_cancel

# Nats between the two best tokens. The order of sums moves it by 0.018 at most: docs/performance-how.md, "Drafts".
NEAR_TIE = 0.05


class DraftedGeneration(Generation):
    """A greedy `Generation` in fewer forwards: tokens are drawn one at a time and decoded several at a time.

    Args:
        drafter: proposes tokens and learns which were accepted; the other arguments are those of `Generation`.

    Attributes:
        ready: tokens that are decoded and not drawn yet.
        rows_again: rows that were read again for near ties.
    """

    def __init__(
        self, decoder: Decoder, cache: KVCache, prompt_ids: Sequence[int], *, drafter: Drafter, **limits: Any
    ) -> None:
        super().__init__(decoder, cache, prompt_ids, **limits)
        self._drafter, self._text = drafter, list(prompt_ids)
        self.ready: deque[int] = deque()
        self.rows_again = 0
        self._begin = cache.length
        self._exact = cache.length + len(prompt_ids)  # up to this length the cache equals that of the plain loop

    def __next__(self) -> int:
        check_cancel(self._cancel)
        if not self.ready and self.pending:
            if self.cache.length >= self._exact:
                self.decode_draft()
            else:  # read the question as the plain loop does
                self._append(super().__next__())
        if not self.ready:
            raise StopIteration
        return self.ready.popleft()

    def propose(self) -> list[DraftToken]:
        """Draft what follows the pending token; empty if no draft is worth its time."""
        return self._drafter.propose(self._text, self._left)

    def decode_draft(self) -> None:
        """Read the pending token and a draft; keep the accepted tokens and the one that follows them."""
        draft = self.propose()
        begin, start = time.perf_counter(), self.cache.length
        rows = self._decoder.embed([*self.pending, *(drafted.token for drafted in draft)])
        logits = self._decoder.extend(self.cache, rows, last=len(rows))
        seconds = time.perf_counter() - begin
        if not draft and self._exact == start:
            self._exact = self.cache.length
        accepted = self._verify(logits, [drafted.token for drafted in draft])
        self._drafter.learn(draft, accepted, seconds)

    def accept_shared(self, logits: Floats) -> None:
        """Keep the token after the pending one, from the (vocabulary,) logits of a step with other sequences."""
        self._verify(logits[None], ())

    def _verify(self, logits: Floats, draft: Sequence[int]) -> int:
        """Accept the draft up to the first token that is not the greedy choice; returns how many were accepted."""
        start = self.cache.length - len(logits)
        for index, (token, is_near_tie) in enumerate(_greedy_choices(logits)):
            self.cache.length = start + index + 1
            row = logits[index]
            if self.rule and not self.rule.allows(token):
                token, *rivals = self.rule.candidates(row, NEAR_TIE)
                is_near_tie = bool(rivals)
            if is_near_tie and self.cache.length > self._exact:
                row, draft = self._read_again(), draft[:index]
                token = self.choose(row)
            if self.take(token, row) is None:
                break
            self._append(token)
            if index == len(draft) or token != draft[index]:
                break
        return index

    def _append(self, token: int) -> None:
        self._text.append(token)
        self.ready.append(token)

    def _read_again(self) -> Floats:
        """The (vocabulary,) logits after the text so far, computed row by row as in the plain loop."""
        self.cache.length = self._exact
        again = self._text[self._exact - self._begin :]
        self.rows_again += len(again)
        for token in again:
            logits: Floats = self._decoder.extend(self.cache, self._decoder.embed([token]))[-1]
        self._exact = self.cache.length
        return logits


def step_together(decoder: Decoder, pool: KVPool, generations: Sequence[DraftedGeneration]) -> Floats:
    """Read the pending tokens of the answers in the first sequences of a pool, in one step.

    Returns:
        (N, vocabulary) logits, one row for `accept_shared` of each answer. They are a copy, because a near tie of one
        answer calls the decoder again.
    """
    return decoder.step(pool, decoder.embed([generation.pending[0] for generation in generations])).copy()


def _greedy_choices(logits: Floats) -> Iterator[tuple[int, bool]]:
    """The best token of each row of (n, vocabulary) logits, and whether it is a near tie with the second best."""
    rows, best = np.arange(len(logits)), logits.argmax(-1)
    value = logits[rows, best]
    logits[rows, best] = -np.inf
    is_near_tie = value - logits.max(-1) < NEAR_TIE
    logits[rows, best] = value
    return zip(best.tolist(), is_near_tie.tolist(), strict=True)
