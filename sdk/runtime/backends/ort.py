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
        length: positions that are filled; set it lower to rewind, the rest is overwritten by what follows.
        capacity: positions that fit.
    """

    def __init__(self, geometry: Geometry, capacity: int) -> None:
        from onnxruntime import OrtValue

        shape = (2 * geometry.layers, 1, geometry.kv_heads, capacity, geometry.head_size)
        self._memory = np.zeros(shape, np.float32)
        self.values = [OrtValue.ortvalue_from_numpy(part) for part in self._memory]
        self.capacity = capacity
        self.length = 0
        self.step: _Call | None = None


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
        return KVCache(self._geometry, capacity)

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
        if cache.length + count > cache.capacity:
            raise BackendError(
                f"the sequence needs {cache.length + count} positions, its cache holds {cache.capacity}: "
                "ask for fewer tokens"
            )
        if count == 1:
            cache.step = call = cache.step or _Call(self._session, cache, 1, 1, self._geometry)
        else:
            call = _Call(self._session, cache, count, last, self._geometry)
        logits = call(rows, cache.length)
        cache.length += count
        return logits


class _Call:
    """Bound inputs and outputs for T rows; decoding runs the same one over and over without allocating."""

    def __init__(self, session: Any, cache: KVCache, count: int, last: int, geometry: Geometry) -> None:
        from onnxruntime import OrtValue

        self._session = session
        self._rows = np.empty((1, count, geometry.hidden_size), np.float32)
        self._past = np.empty(1, np.int32)
        self._total = np.empty((), np.int32)
        self._logits = np.empty((1, last, geometry.vocabulary), np.float32)
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
        for index, value in enumerate(cache.values):
            part = f"{index // 2}.{'value' if index % 2 else 'key'}"
            self._binding.bind_ortvalue_input(f"past_key_values.{part}", value)
            self._binding.bind_ortvalue_output(f"present.{part}", value)
        self._keep = inputs

    def __call__(self, rows: Floats, past: int) -> Floats:
        self._rows[0] = rows
        self._total[...] = past + len(rows)
        self._past[0] = past + len(rows) - 1  # GroupQueryAttention counts positions before the last
        self._session.run_with_iobinding(self._binding)
        logits: Floats = self._logits[0]
        return logits


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
