"""What a backend is: two encoders, and a decoder with its KV caches. No runtime is imported here."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.bundles.manifest import Variant
from sdk.errors import BackendError


class Encoder(Protocol):
    """A network without state: arrays in the order of its inputs, each of them batched, to one array."""

    def __call__(self, *arrays: Floats) -> Floats: ...


class KVPool(ABC):
    """Keys and values of several sequences side by side, so that one call can step the first n of them together.

    Args:
        capacity: positions of each sequence.
        sequences: how many.

    Attributes:
        lengths: positions that are filled, by sequence.
    """

    def __init__(self, capacity: int, sequences: int) -> None:
        self.capacity = capacity
        self.lengths = [0] * sequences

    @property
    def caches(self) -> tuple["KVCache", ...]:
        """One per sequence; each can be extended by itself."""
        return tuple(KVCache(self, row) for row in range(len(self.lengths)))

    def move(self, source: int, target: int) -> None:
        """Copy one sequence over another."""
        self._copy(source, target, self.lengths[source])
        self.lengths[target] = self.lengths[source]

    @abstractmethod
    def _copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one sequence over those of another."""


class KVCache:
    """Keys and values of one sequence: a view of one row of a pool."""

    def __init__(self, pool: KVPool, row: int) -> None:
        self.pool, self.row = pool, row

    @property
    def length(self) -> int:
        """Positions that are filled; set it lower to rewind, later positions are overwritten by what follows."""
        return self.pool.lengths[self.row]

    @length.setter
    def length(self, length: int) -> None:
        self.pool.lengths[self.row] = length

    @property
    def capacity(self) -> int:
        """Positions that fit."""
        return self.pool.capacity

    def check_room(self, count: int) -> None:
        """Raises BackendError if `count` more positions do not fit."""
        if self.length + count > self.capacity:
            raise BackendError(
                f"the sequence needs {self.length + count} positions, its cache holds {self.capacity}: "
                "ask for fewer tokens"
            )


class Decoder(ABC):
    """A language model from embedding rows to logits, with KV caches of its own.

    Args:
        table: (vocabulary, D) token embeddings.

    Attributes:
        drafts: whether a call with several rows gives the greedy tokens of as many calls with one row, up to near
            ties, so that drafted tokens can be verified in one call.
        held_bytes: memory that it takes beside its files' bytes.
    """

    drafts = False
    held_bytes = 0

    def __init__(self, table: "npt.NDArray[np.generic]") -> None:
        self._table = table

    def embed(self, token_ids: "npt.ArrayLike") -> Floats:
        """(T,) token ids -> (T, D)."""
        rows: Floats = self._table[np.asarray(token_ids, np.int64)].astype(np.float32)
        return rows

    @abstractmethod
    def new_pool(self, capacity: int, sequences: int) -> KVPool:
        """Empty caches for sequences that will be stepped together.

        Raises:
            BackendError: the device has no memory for them.
        """

    @abstractmethod
    def extend(self, cache: KVCache, rows: Floats, last: int = 1) -> Floats:
        """Append rows to a sequence.

        Args:
            cache: its past; grows by T positions.
            rows: (T, D) embeddings.
            last: for how many of the last rows logits are wanted.

        Returns:
            (last, vocabulary) float32; valid until the next call with the same cache.

        Raises:
            BackendError: the sequence would outgrow its cache.
        """

    @abstractmethod
    def step(self, pool: KVPool, rows: Floats) -> Floats:
        """Append one row to each of the first N sequences of a pool; they may differ in length.

        Args:
            rows: (N, D) embeddings.

        Returns:
            (N, vocabulary) float32; valid until the next call with the same pool and N.
        """

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache."""
        return self.new_pool(capacity, 1).caches[0]

    def greedy(self, cache: KVCache, token_ids: Sequence[int]) -> Iterator[int]:
        """Most probable tokens, one after the other, without an end.

        Args:
            cache: grows as tokens are drawn.
            token_ids: at least one, to be read first.
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
        variant: the variant that the decoder belongs to.
        held_bytes: memory beside the weights as they lie in the variant's files.
        engine_tolerances: for each encoder that is a TensorRT engine, the relative error that it may have.
    """

    landmark: Encoder | None
    vision: Encoder
    decoder: Decoder
    variant: Variant
    held_bytes: int = 0
    engine_tolerances: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the variant, after "tensorrt+" where the encoders are engines."""
        return f"tensorrt+{self.variant.name}" if self.engine_tolerances else self.variant.name
