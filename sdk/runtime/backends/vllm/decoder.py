"""A decoder whose work is done by a running vLLM. A cache holds the rows of a prompt; vLLM holds keys and values.

Each answer is one request with all rows of its prompt. vLLM finds the keys and values of the rows that it has seen
before in its prefix cache, and decodes all requests of a moment together.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.errors import BackendError
from sdk.runtime.backends.interface import Decoder, KVCache, KVPool, Sampling


class Engine(Protocol):
    """A running vLLM with a decoder. Several threads may use it at once.

    Attributes:
        scores: whether it gives the log probabilities of all tokens.
    """

    scores: bool

    def tokens(self, rows: Floats, sampling: Sampling, stop_ids: Sequence[int], limit: int) -> Iterator[int]:
        """Draw up to `limit` tokens after (R, D) rows, up to a stop token, which is included.

        Closing the iterator stops the work.
        """

    def log_probabilities(self, rows: Floats) -> Floats:
        """The (vocabulary,) log probabilities of the token after (R, D) rows."""

    def close(self) -> None:
        """Stop what the engine runs in this process."""


class RowPool(KVPool):
    """The rows of several sequences."""

    def __init__(self, capacity: int, sequences: int, width: int) -> None:
        super().__init__(capacity, sequences)
        self.rows = np.empty((sequences, capacity, width), np.float32)

    def close(self) -> None:
        self.rows = self.rows[:, :0]

    def _copy(self, source: KVCache, row: int) -> None:
        self.rows[row, : source.length] = _rows_of(source)[: source.length]


class VllmDecoder(Decoder):
    """The decoder of a bundle in vLLM.

    Args:
        table: (vocabulary, D) token embeddings.
        engine: runs the same decoder.
    """

    batches = True

    def __init__(self, table: "npt.NDArray[np.generic]", engine: Engine) -> None:
        super().__init__(table)
        self._engine = engine
        self.scores = engine.scores
        self.position_bytes = 4 * table.shape[1]

    def new_pool(self, capacity: int, sequences: int) -> KVPool:
        # vLLM ends a sequence that fills its positions, and one more token tells whether an answer is complete
        return RowPool(capacity - 1, sequences, self._table.shape[1])

    def prefill(self, cache: KVCache, rows: Floats) -> None:
        """Append rows; vLLM reads them with the first question."""
        cache.check_room(len(rows))
        _rows_of(cache)[cache.length : cache.length + len(rows)] = rows
        cache.length += len(rows)

    def extend(self, cache: KVCache, rows: Floats, last: int = 1) -> Floats:
        if last != 1:
            raise BackendError(f"vLLM gives the probabilities after the last row only, not after the last {last}")
        self.prefill(cache, rows)
        return self._engine.log_probabilities(_rows_of(cache)[: cache.length])[None]

    def _compute_step(self, pool: KVPool, rows: Floats) -> Floats:
        def read(cache: KVCache, row: Floats) -> Floats:
            _rows_of(cache)[cache.length] = row
            return self._engine.log_probabilities(_rows_of(cache)[: cache.length + 1])

        with ThreadPoolExecutor(len(rows)) as threads:
            return np.stack(list(threads.map(read, pool.caches[: len(rows)], rows)))

    def draw(
        self, cache: KVCache, token_ids: Sequence[int], sampling: Sampling, stop_ids: Sequence[int], limit: int
    ) -> Iterator[int]:
        """Draw the tokens of an answer, up to a stop token; the cache does not grow with them.

        Raises:
            BackendError: vLLM failed, or ended the answer early.
        """
        self.prefill(cache, self.embed(token_ids))
        count = 0
        for token in self._engine.tokens(_rows_of(cache)[: cache.length], sampling, stop_ids, limit):
            if not 0 <= token < len(self._table):
                raise BackendError(f"vLLM drew token {token}; this bundle has {len(self._table)}")
            count += 1
            yield token
        raise BackendError(f"vLLM ended an answer after {count} tokens, without a stop token")

    def close(self) -> None:
        self._engine.close()


def _rows_of(cache: KVCache) -> Floats:
    """The (capacity, D) rows of a cache."""
    assert isinstance(cache.pool, RowPool)
    rows: Floats = cache.pool.rows[cache.row]
    return rows
