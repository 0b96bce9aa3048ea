"""The decode loop: token ids in, token ids out; it knows neither text nor images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sdk.runtime.backends.ort import Floats, KVCache, OrtDecoder


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

    Attributes:
        truncated: the budget ended the answer, not a stop token.
    """

    def __init__(
        self,
        decoder: OrtDecoder,
        cache: KVCache,
        prompt_ids: Sequence[int],
        *,
        stop_ids: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
    ) -> None:
        self.truncated = False
        self._decoder, self._cache = decoder, cache
        self._stop_ids, self._left = frozenset(stop_ids), max_new_tokens
        self._choose = _Chooser(sampling or Sampling())
        self._pending: Sequence[int] = prompt_ids

    def __next__(self) -> int:
        if not self._pending:
            raise StopIteration
        logits = self._decoder.extend(self._cache, self._decoder.embed(self._pending))[-1]
        token = self._choose(logits)
        if token in self._stop_ids or not self._left:
            self.truncated = token not in self._stop_ids
            self._pending = ()
            raise StopIteration
        self._left -= 1
        self._pending = (token,)
        return token


class _Chooser:
    """Draws one token id from (vocabulary,) logits."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def __call__(self, logits: Floats) -> int:
        if self._sampling.temperature <= 0:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self._sampling.temperature
        probabilities = np.exp(scaled - scaled.max())
        probabilities /= probabilities.sum()
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        nucleus = order[before < self._sampling.top_p]
        share = probabilities[nucleus] / probabilities[nucleus].sum()
        return int(self._random.choice(nucleus, p=share))
