"""The bundle on ONNX Runtime: encoder graphs and a decoder that reads and writes one KV buffer in place."""

import os
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from sdk.bundles.manifest import Geometry, Manifest, Variant
from sdk.errors import BackendError, DependencyError, IntegrityError

Floats: TypeAlias = npt.NDArray[np.float32]


class Encoder(Protocol):
    """A network without state: arrays in the order of its inputs, each of them batched, to one array."""

    def __call__(self, *arrays: Floats) -> Floats: ...


class OrtBackend:
    """Every graph of one variant, opened on the CPU.

    Attributes:
        landmark: (N, 3, 192, 192) landmark pixels -> (N, 212); None when the bundle has no landmark network.
        vision: (N, 3, S, S) CLIP pixels and (N, 212) landmark features -> (N, rows, D).
        decoder: embeddings and KV cache -> logits.
    """

    def __init__(self, bundle: Path, manifest: Manifest, variant: Variant, threads: int | None = None) -> None:
        self.variant = variant
        self.landmark = (
            self._open_encoder("landmark", bundle / manifest.landmark, threads) if manifest.landmark else None
        )
        self.vision = self._open_encoder("vision", bundle / manifest.vision, threads)
        self.decoder = OrtDecoder(bundle / variant.decoder, bundle / manifest.embeddings, manifest.geometry, threads)

    def _open_encoder(self, name: str, path: Path, threads: int | None) -> Encoder:
        return OrtEncoder(path, threads)


class OrtEncoder:
    """A graph without state and with one output; arguments in the order of its inputs, each of them batched."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._session = _open_session(path, threads)
        self._names = [i.name for i in self._session.get_inputs()]

    def __call__(self, *arrays: Floats) -> Floats:
        output: Floats = self._session.run(None, dict(zip(self._names, arrays, strict=True)))[0]
        return output


class KVCache:
    """Keys and values of one sequence, in one allocation that past and present share.

    Attributes:
        memory: (2 x layers, 1, heads, capacity, size), keys and values in turn.
        length: positions that are filled; set it lower to rewind, the rest is overwritten by what follows.
        capacity: positions that fit.
    """

    def __init__(self, memory: Floats) -> None:
        self.memory = memory
        self.values = _share(memory)
        self.capacity = memory.shape[3]
        self.length = 0
        self.step: _Call | None = None


class KVPool:
    """The caches of several sequences in one allocation, so that one call can step the first n of them together.

    Attributes:
        caches: one per sequence; each can be extended by itself.
    """

    def __init__(self, memory: Floats) -> None:
        self._memory = memory  # (2 x layers, N, heads, capacity, size)
        self.caches = [KVCache(memory[:, row : row + 1]) for row in range(memory.shape[1])]
        self._steps: dict[int, _Call] = {}

    def step(self, session: Any, geometry: Geometry, count: int) -> "_Call":
        """The call that steps the first `count` sequences."""
        if count not in self._steps:
            self._steps[count] = _Call(session, _share(self._memory[:, :count]), (count, 1), 1, geometry)
        return self._steps[count]

    def move(self, source: int, target: int) -> None:
        """Copy one sequence over another."""
        length = self.caches[source].length
        self._memory[:, target, :, :length] = self._memory[:, source, :, :length]
        self.caches[target].length = length


def _share(memory: Floats) -> list[Any]:
    """One OrtValue per key or value, on the memory of the array itself."""
    from onnxruntime import OrtValue

    return [OrtValue.ortvalue_from_numpy(part) for part in memory]


class OrtDecoder:
    """The language model from embedding rows to logits.

    Args:
        path: ONNX graph made by `export.decoder`.
        embeddings: `.npy` token embeddings (vocabulary, D), read through memory mapping.
        threads: of one operator; None leaves the choice to ONNX Runtime.
    """

    def __init__(self, path: Path, embeddings: Path, geometry: Geometry, threads: int | None = None) -> None:
        self._session = _open_session(path, threads)
        self._geometry = geometry
        self._table = np.load(embeddings, mmap_mode="r", allow_pickle=False)
        expected = (geometry.vocabulary, geometry.hidden_size)
        if self._table.shape != expected:
            raise IntegrityError(f"{embeddings}: expected a table of {expected}, found {self._table.shape}")

    def embed(self, token_ids: "npt.ArrayLike") -> Floats:
        """(T,) token ids -> (T, D)."""
        rows: Floats = self._table[np.asarray(token_ids, np.int64)].astype(np.float32)
        return rows

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache; memory is claimed as it fills."""
        return self.new_pool(capacity, 1).caches[0]

    def new_pool(self, capacity: int, sequences: int) -> KVPool:
        """Empty caches for sequences that will be stepped together."""
        g = self._geometry
        return KVPool(np.zeros((2 * g.layers, sequences, g.kv_heads, capacity, g.head_size), np.float32))

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
        count = len(rows)
        _check_room(cache, count)
        if count == 1:
            cache.step = call = cache.step or _Call(self._session, cache.values, (1, 1), 1, self._geometry)
        else:
            call = _Call(self._session, cache.values, (1, count), last, self._geometry)
        logits: Floats = call(rows, [cache.length])[0]
        cache.length += count
        return logits

    def step(self, pool: KVPool, rows: Floats) -> Floats:
        """Append one row to each of the first N sequences of a pool; they may differ in length.

        Args:
            rows: (N, D) embeddings.

        Returns:
            (N, vocabulary) float32; valid until the next call with the same pool and N.
        """
        caches = pool.caches[: len(rows)]
        for cache in caches:
            _check_room(cache, 1)
        call = pool.step(self._session, self._geometry, len(rows))
        logits: Floats = call(rows, [cache.length for cache in caches])[:, -1]
        for cache in caches:
            cache.length += 1
        return logits


def _check_room(cache: KVCache, count: int) -> None:
    if cache.length + count > cache.capacity:
        raise BackendError(
            f"the sequence needs {cache.length + count} positions, its cache holds {cache.capacity}: "
            "ask for fewer tokens"
        )


class _Call:
    """Bound inputs and outputs for B x T rows; decoding runs the same one over and over without allocating."""

    def __init__(
        self, session: Any, cache_values: list[Any], shape: tuple[int, int], last: int, geometry: Geometry
    ) -> None:
        from onnxruntime import OrtValue

        self._session = session
        batch, count = shape
        self._rows = np.empty((batch, count, geometry.hidden_size), np.float32)
        self._past = np.empty(batch, np.int32)
        self._total = np.empty((), np.int32)
        self._logits = np.empty((batch, last, geometry.vocabulary), np.float32)
        inputs = {
            "inputs_embeds": self._rows,
            "seqlens_k": self._past,
            "total_sequence_length": self._total,
            "logit_positions": np.arange(count - last, count, dtype=np.int64),
        }
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        self._binding.bind_ortvalue_output("logits", OrtValue.ortvalue_from_numpy(self._logits))
        for index, value in enumerate(cache_values):
            part = f"{index // 2}.{'value' if index % 2 else 'key'}"
            self._binding.bind_ortvalue_input(f"past_key_values.{part}", value)
            self._binding.bind_ortvalue_output(f"present.{part}", value)
        self._keep = inputs

    def __call__(self, rows: Floats, past: list[int]) -> Floats:
        """(B x T, D) rows after `past` positions each -> (B, last, vocabulary)."""
        self._rows[...] = rows.reshape(self._rows.shape)
        self._past[...] = past
        self._past += self._rows.shape[1] - 1  # GroupQueryAttention counts positions before the last
        self._total[...] = self._past.max() + 1
        self._session.run_with_iobinding(self._binding)
        return self._logits


def _open_session(path: Path, threads: int | None) -> Any:
    try:
        import onnxruntime as ort
    except ImportError:
        raise DependencyError("onnxruntime", "cpu", "run a bundle on the CPU") from None
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    try:
        return ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception types are not public
        raise BackendError(f"ONNX Runtime {ort.__version__} cannot open {path}: {error}") from error
