"""Speculative decoding (Leviathan et al. 2023) without a second model: drafted tokens are verified in one forward.

A token is accepted only where it is what greedy decoding would have chosen, so the answer is that of the plain loop.
One thing stands against it: kernels add in another order for many rows than for one, and where a quantised graph rounds
activations to 8 bits, the last bit of a sum can move a logit by a few hundredths. So a choice between two tokens that
close is not taken from such a forward: the answer so far is read again row by row, exactly as the plain loop reads it.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sdk.arrays import Floats
from sdk.runtime.backends.interface import Decoder, KVCache
from sdk.runtime.drafts import Drafter
from sdk.runtime.generate import Generation, check_cancel

CLOSE = 0.05  # nats between the two best tokens; docs/performance.md: the order of sums moved it by 0.018 at most


class DraftedGeneration(Generation):
    """Like `Generation`, greedy, in fewer forwards; tokens are drawn one at a time and decoded in bursts.

    Args:
        drafter: proposes tokens and learns what pays; the others are those of `Generation`.
    """

    def __init__(
        self, decoder: Decoder, cache: KVCache, prompt_ids: Sequence[int], *, drafter: Drafter, **limits: Any
    ) -> None:
        super().__init__(decoder, cache, prompt_ids, **limits)
        self._drafter, self._text = drafter, list(prompt_ids)
        self._ready: deque[int] = deque()
        self._begin = cache.length
        self._exact = cache.length + len(prompt_ids)  # so far the cache holds what the plain loop would have put there

    def __next__(self) -> int:
        check_cancel(self._cancel)
        if not self._ready and self.pending:
            if self.cache.length >= self._exact:
                self._burst()
            else:  # the question, read as ever
                self._keep(super().__next__())
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def _burst(self) -> None:
        """Read the pending token and a draft; keep what the logits confirm and the token that follows it."""
        draft = self._drafter.propose(self._text, self._left)
        begin = time.perf_counter()
        rows = self._decoder.embed([*self.pending, *(guess.token for guess in draft)])
        logits = self._decoder.extend(self.cache, rows, last=len(rows))
        seconds = time.perf_counter() - begin
        right = self._confirm(logits, [guess.token for guess in draft])
        self._drafter.learn(draft, right, seconds)

    def _confirm(self, logits: Floats, draft: Sequence[int]) -> int:
        """Accept tokens as far as the draft was right; how many of its tokens that were."""
        start = self.cache.length - len(logits)
        if not draft and self._exact == start:
            self._exact = self.cache.length
        for index, (token, close) in enumerate(_choose(logits)):
            self.cache.length = start + index + 1
            if close and self.cache.length > self._exact:
                token, draft = self._read_again(), draft[:index]
            if self.take(token) is None:
                break
            self._keep(token)
            if index == len(draft) or token != draft[index]:
                break
        return index

    def _keep(self, token: int) -> None:
        self._text.append(token)
        self._ready.append(token)

    def _read_again(self) -> int:
        """The token that follows the text so far, as the plain loop finds it."""
        self.cache.length = self._exact
        for token in self._text[self._exact - self._begin :]:
            logits = self._decoder.extend(self.cache, self._decoder.embed([token]))[-1]
        self._exact = self.cache.length
        return int(logits.argmax())


def _choose(logits: Floats) -> Iterator[tuple[int, bool]]:
    """The best token of each row of (n, vocabulary) logits, and whether another order of sums could change it."""
    rows, best = np.arange(len(logits)), logits.argmax(-1)
    value = logits[rows, best]
    logits[rows, best] = -np.inf
    close = value - logits.max(-1) < CLOSE
    logits[rows, best] = value
    return zip(best.tolist(), close.tolist(), strict=True)
