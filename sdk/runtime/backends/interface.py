"""The interface of a backend: two encoders, and a decoder with its KV caches. No runtime is imported here."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.bundles.manifest import Variant
from sdk.bundles.watch import WatchedFiles
from sdk.errors import BackendError

Pool = TypeVar("Pool", bound="KVPool")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy: always the most probable token.
        top_p: sample from the smallest set of tokens whose probabilities sum to at least this, in 0..1.
        seed: makes a sampled answer repeatable.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= 0


class Encoder(Protocol):
    """A network without state. It takes batched arrays in the order of its inputs and returns one array."""

    def __call__(self, *arrays: Floats) -> Floats: ...


class KVPool(ABC):
    """Keys and values of several sequences in one allocation, so that one call can step the first N of them.

    Args:
        capacity: positions of each sequence.
        sequences: number of sequences.

    Attributes:
        lengths: filled positions of each sequence.
    """

    def __init__(self, capacity: int, sequences: int) -> None:
        self.capacity = capacity
        self.lengths = [0] * sequences

    @property
    def caches(self) -> tuple["KVCache", ...]:
        """One cache per sequence; each can be extended separately."""
        return tuple(KVCache(self, row) for row in range(len(self.lengths)))

    def copy(self, source: "KVCache", row: int) -> None:
        """Copy a sequence of this pool, or of another one of the same decoder and capacity, over one of this pool."""
        self._copy(source, row)
        self.lengths[row] = source.length

    @abstractmethod
    def close(self) -> None:
        """Give back the memory now, even if a cache of the pool is still referred to; it cannot be used afterwards."""

    @abstractmethod
    def _copy(self, source: "KVCache", row: int) -> None:
        """Copy the filled positions of a sequence to sequence `row`."""


class KVCache:
    """Keys and values of one sequence: a view of one row of a pool."""

    def __init__(self, pool: KVPool, row: int) -> None:
        self.pool, self.row = pool, row

    @property
    def length(self) -> int:
        """Number of filled positions. Set it lower to rewind; the positions after it are overwritten later."""
        return self.pool.lengths[self.row]

    @length.setter
    def length(self, length: int) -> None:
        self.pool.lengths[self.row] = length

    @property
    def capacity(self) -> int:
        """Number of positions."""
        return self.pool.capacity

    def check_room(self, count: int) -> None:
        """Check that `count` more positions fit.

        Raises:
            BackendError: they do not.
        """
        if self.length + count > self.capacity:
            raise BackendError(
                f"the sequence needs {self.length + count} positions, its cache holds {self.capacity}: "
                "ask for fewer tokens"
            )


def own_pool(pool: KVPool, kind: type[Pool]) -> Pool:
    """The pool, as the kind that a decoder makes itself.

    Raises:
        BackendError: it belongs to another decoder.
    """
    if not isinstance(pool, kind):
        raise BackendError("this cache belongs to another decoder; make it with new_cache or new_pool of this decoder")
    return pool


class Decoder(ABC):
    """A language model from embedding rows to logits, with its own kind of KV cache.

    Args:
        table: (vocabulary, D) token embeddings.

    Attributes:
        drafts: whether one call with several rows gives the same greedy tokens as one call per row, except for near
            ties; drafted tokens can then be verified in one call.
        held_bytes: memory in addition to the size of its files.
        position_bytes: memory of one position of a cache; None if the cache holds keys and values.
        batches: whether answers that are drawn from several threads at once are decoded together.
        scores: whether `extend` and `step` give logits.
    """

    drafts = False
    held_bytes = 0
    position_bytes: int | None = None
    batches = False
    scores = True

    def __init__(self, table: "npt.NDArray[np.generic]") -> None:
        self._table = table

    def embed(self, token_ids: "npt.ArrayLike") -> Floats:
        """Look up the (T, D) embeddings of (T,) token ids."""
        rows: Floats = self._table[np.asarray(token_ids, np.int64)].astype(np.float32)
        return rows

    @abstractmethod
    def new_pool(self, capacity: int, sequences: int) -> KVPool:
        """Allocate empty caches for sequences that are stepped together.

        Raises:
            BackendError: the device has no memory for them.
        """

    @abstractmethod
    def extend(self, cache: KVCache, rows: Floats, last: int = 1) -> Floats:
        """Append rows to a sequence.

        Args:
            cache: the sequence so far; grows by T positions.
            rows: (T, D) embeddings.
            last: number of rows at the end for which logits are returned.

        Returns:
            (last, vocabulary) float32; valid until the next call with the same cache.

        Raises:
            BackendError: the sequence would outgrow its cache.
        """

    def step(self, pool: KVPool, rows: Floats) -> Floats:
        """Append one row to each of the first N sequences of a pool, which may differ in length.

        Args:
            rows: (N, D) embeddings.

        Returns:
            (N, vocabulary) float32; valid until the next call with the same pool.

        Raises:
            BackendError: a sequence would outgrow its cache.
        """
        caches = pool.caches[: len(rows)]
        for cache in caches:
            cache.check_room(1)
        logits = self._compute_step(pool, rows)
        for cache in caches:
            cache.length += 1
        return logits

    @abstractmethod
    def _compute_step(self, pool: KVPool, rows: Floats) -> Floats:
        """The logits of `step`, for which there is room; it counts the positions itself."""

    def new_cache(self, capacity: int) -> KVCache:
        """Allocate an empty cache."""
        return self.new_pool(capacity, 1).caches[0]

    def prefill(self, cache: KVCache, rows: Floats) -> None:
        """Append (T, D) rows to a sequence; no logits are needed.

        Raises:
            BackendError: the sequence would outgrow its cache.
        """
        self.extend(cache, rows)

    def draw(
        self, cache: KVCache, token_ids: Sequence[int], sampling: Sampling, stop_ids: Sequence[int], limit: int
    ) -> Iterator[int] | None:
        """Draw the tokens of an answer.

        Args:
            cache: the sequence so far.
            token_ids: ids to read first, at least one.
            sampling: how to choose each token.
            stop_ids: tokens after which the caller asks for no more.
            limit: number of tokens that the caller asks for at most.

        Returns:
            Tokens; None if the caller has to choose each of them from the logits of `extend`.
        """
        return self.greedy(cache, token_ids) if sampling.is_greedy else None

    def close(self) -> None:  # noqa: B027  # most decoders hold nothing but memory
        """Stop what the decoder runs beside this object, such as other processes."""

    def greedy(self, cache: KVCache, token_ids: Sequence[int]) -> Iterator[int]:
        """Yield the most probable tokens, without an end.

        Args:
            cache: the sequence so far; grows as tokens are drawn.
            token_ids: ids to read first, at least one.
        """
        while True:
            token = int(self.extend(cache, self.embed(token_ids))[-1].argmax())
            yield token
            token_ids = (token,)


@dataclass(frozen=True)
class Backend:
    """An opened variant of a bundle.

    Attributes:
        landmark: (N, 3, 192, 192) landmark pixels -> (N, 212); None when the bundle has no landmark network.
        vision: (N, 3, S, S) CLIP pixels and (N, 212) landmark features -> (N, rows, D).
        decoder: embeddings and KV cache -> logits.
        variant: the variant of the decoder.
        held_bytes: memory in addition to the weights in the variant's files.
        name: what results and reports call it: the variant, and what else was chosen.
        tolerances: relative error that a stage may have, where it is not the one that the manifest records.
        on_gpu: whether a GPU computes some of it.
        files: the files of the bundle as they were opened.
    """

    landmark: Encoder | None
    vision: Encoder
    decoder: Decoder
    variant: Variant
    held_bytes: int = 0
    name: str = ""
    tolerances: Mapping[str, float] = field(default_factory=dict)
    on_gpu: bool = False
    files: WatchedFiles = field(default_factory=lambda: WatchedFiles(Path(), {}))
