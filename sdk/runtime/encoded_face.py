"""A face that the decoder has read, ready for questions."""

from types import TracebackType

from sdk.arrays import Floats
from sdk.errors import BackendError
from sdk.runtime.backends.interface import KVCache
from sdk.runtime.language import TokenRule


class EncodedFace:
    """A face that the decoder has read: a KV cache with system text, image rows and landmark row.

    Each question rewinds the cache to this prefix. Two at once have a copy of it in the second sequence of its pool. As
    a context manager it returns the cache on exit.

    Attributes:
        features: (212,) outputs of the landmark network.
        prefix: number of cache positions that belong to the face.
        list_rule: of its list of action units, once that was asked for in a bundle with an answer language.
    """

    def __init__(self, features: Floats, cache: KVCache, free_caches: list[KVCache]) -> None:
        self.features = features
        self.prefix = cache.length
        self.list_rule: TokenRule | None = None
        self._cache: KVCache | None = cache
        self._free_caches = free_caches

    def rewind(self) -> KVCache:
        """Rewind the cache to the face and return it.

        Raises:
            BackendError: the face was closed.
        """
        if self._cache is None:
            raise BackendError("this face was closed; encode it again")
        self._cache.length = self.prefix
        return self._cache

    def copy(self) -> KVCache:
        """Copy the face to the second sequence of its pool, and return that."""
        cache = self.rewind()
        cache.pool.copy(cache, 1)
        return cache.pool.caches[1]

    def move_to(self, cache: KVCache) -> None:
        """Use another cache, which holds a copy of this one, from now on."""
        self._cache = cache

    def close(self) -> None:
        """Return the cache to its pipeline."""
        if self._cache is not None:
            self._free_caches.append(self._cache)
            self._cache = None

    def __enter__(self) -> "EncodedFace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
