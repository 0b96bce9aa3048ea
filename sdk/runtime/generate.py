"""The decode loop: token ids in, token ids out; it knows neither text nor images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event

import numpy as np

from sdk.arrays import Floats
from sdk.errors import CancelledError
from sdk.runtime.backends.interface import Decoder, KVCache


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy: the most probable token, always.
        top_p: sample from the smallest set of tokens whose probability reaches this share.
        seed: makes a sampled answer repeatable.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Generation(Iterator[int]):
    """Token ids as they are decoded, without the stop token.

    Args:
        decoder, cache: the model and the sequence so far; the cache grows as tokens are drawn.
        prompt_ids: (T,) ids that follow what the cache holds; at least one.
        stop_ids: any of them ends the answer.
        max_new_tokens: ends it otherwise, and sets `truncated`.
        cancel: once it is set, the next token raises CancelledError.

    Attributes:
        cache: the sequence so far.
        pending: ids that the decoder has yet to read; empty once the answer has ended.
        truncated: the budget ended the answer, not a stop token.
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
    ) -> None:
        self.cache, self.pending, self.truncated = cache, prompt_ids, False
        self._decoder, self._cancel = decoder, cancel
        self._stop_ids, self._left = frozenset(stop_ids), max_new_tokens
        self._choose = _Chooser(sampling or Sampling())
        self._tokens = decoder.greedy(cache, prompt_ids) if self._choose.is_greedy else None

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
        """Choose what follows `pending` by its (vocabulary,) logits; None when that ends the answer."""
        return self.take(self._choose(logits))

    def take(self, token: int) -> int | None:
        """Go on with a token; None when it, or the budget, ends the answer."""
        check_cancel(self._cancel)
        if token in self._stop_ids or not self._left:
            self.truncated = token not in self._stop_ids
            self.pending = ()
            return None
        self._left -= 1
        self.pending = (token,)
        return token


def check_cancel(cancel: Event | None) -> None:
    """Raises CancelledError once `cancel` is set."""
    if cancel and cancel.is_set():
        raise CancelledError("the analysis was cancelled")


class _Chooser:
    """Draws one token id from (vocabulary,) logits."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    @property
    def is_greedy(self) -> bool:
        return self._sampling.temperature <= 0

    def __call__(self, logits: Floats) -> int:
        if self.is_greedy:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self._sampling.temperature
        probabilities = np.exp(scaled - scaled.max())
        probabilities /= probabilities.sum()
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        nucleus = order[before < self._sampling.top_p]
        share = probabilities[nucleus] / probabilities[nucleus].sum()
        return int(self._random.choice(nucleus, p=share))
