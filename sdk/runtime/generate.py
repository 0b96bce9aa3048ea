"""The decode loop: token ids in, token ids out, without text or images."""

from collections.abc import Iterator, Sequence
from threading import Event

import numpy as np

from sdk.arrays import Floats
from sdk.errors import CancelledError
from sdk.runtime.backends.interface import Decoder, KVCache, Sampling
from sdk.runtime.language import TokenRule


class Generation(Iterator[int]):
    """Token ids as they are decoded, without the stop token.

    Args:
        decoder: the language model.
        cache: the sequence so far; grows as tokens are drawn.
        prompt_ids: (T,) ids to read after the sequence so far; at least one.
        stop_ids: tokens that end the answer.
        max_new_tokens: length after which the answer ends; `truncated` is then set.
        sampling: None is greedy.
        cancel: once it is set, drawing the next token raises CancelledError.
        rule: which tokens may come next; None allows all of them.

    Attributes:
        cache: the sequence so far.
        pending: ids that the decoder has not read yet; empty after the end of the answer.
        truncated: the answer ended at `max_new_tokens`, not at a stop token.
        rule: as given.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        prompt_ids: Sequence[int],
        *,
        stop_ids: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        cancel: Event | None = None,
        rule: TokenRule | None = None,
    ) -> None:
        self.cache, self.pending, self.truncated = cache, prompt_ids, False
        self.rule = rule
        self._decoder, self._cancel = decoder, cancel
        self._stop_ids, self._left = frozenset(stop_ids), max_new_tokens
        self._sampling = sampling or Sampling()
        self._sample = _Sampler(self._sampling)
        self._tokens = None if rule else decoder.draw(cache, prompt_ids, self._sampling, stop_ids, max_new_tokens + 1)

    def __next__(self) -> int:
        if not self.pending:
            raise StopIteration
        if self._tokens:
            check_cancel(self._cancel)
            token = self.take(next(self._tokens))
        else:
            token = self.accept(self._decoder.extend(self.cache, self._decoder.embed(self.pending))[-1])
        if token is None:
            raise StopIteration
        return token

    def accept(self, logits: Floats) -> int | None:
        """Choose the token after `pending` from (vocabulary,) logits; None if it ends the answer."""
        return self.take(self.choose(logits), logits)

    def choose(self, logits: Floats) -> int:
        """Choose a token from (vocabulary,) logits."""
        if not self.rule:
            return self._sample(logits)
        return self.rule.choose(logits) if self._sampling.is_greedy else self._sample(self.rule.mask(logits))

    def take(self, token: int, logits: Floats | None = None) -> int | None:
        """Continue with a token; None if the token or `max_new_tokens` ends the answer.

        Args:
            logits: (vocabulary,) from which it was chosen; a rule needs them.
        """
        check_cancel(self._cancel)
        is_end = token in self._stop_ids
        if self.rule and logits is not None and (is_end or self._left):
            self.rule.advance(token, logits)
        if is_end or not self._left:
            self.truncated = not is_end
            self.pending = ()
            return None
        self._left -= 1
        self.pending = (token,)
        return token


def check_cancel(cancel: Event | None) -> None:
    """Raise CancelledError if `cancel` is set."""
    if cancel and cancel.is_set():
        raise CancelledError("the analysis was cancelled")


class _Sampler:
    """Draws one token id from (vocabulary,) logits."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = None if sampling.is_greedy else np.random.default_rng(sampling.seed)  # slow to import

    def __call__(self, logits: Floats) -> int:
        if self._random is None:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self._sampling.temperature
        probabilities = np.exp(scaled - scaled.max())
        probabilities /= probabilities.sum()
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        nucleus = order[before < self._sampling.top_p]
        share = probabilities[nucleus] / probabilities[nucleus].sum()
        return int(self._random.choice(nucleus, p=share))
