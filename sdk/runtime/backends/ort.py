"""The bundle on ONNX Runtime, CPU or CUDA: encoder graphs, and a decoder that updates one KV buffer in place."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.bundles.damage import reading
from sdk.bundles.manifest import Geometry, Manifest, Variant
from sdk.errors import BackendError, DependencyError, IntegrityError
from sdk.runtime.backends.kv_cache import KVCache, KVPool

_SHORT = 16  # rows up to which a call is kept: steps, drafts, questions
_CUDA = "CUDAExecutionProvider"
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Encoder(Protocol):
    """A network without state: arrays in the order of its inputs, each of them batched, to one array."""

    def __call__(self, *arrays: Floats) -> Floats: ...


class Decoder(Protocol):
    """A language model with caches of its own: four methods, those of `OrtDecoder`, and two that follow from them."""

    def embed(self, token_ids: "npt.ArrayLike") -> Floats: ...
    def new_pool(self, capacity: int, sequences: int) -> KVPool: ...
    def extend(self, cache: KVCache, rows: Floats, last: int = 1) -> Floats: ...
    def step(self, pool: KVPool, rows: Floats) -> Floats: ...

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


class OrtBackend:
    """Every graph of one variant.

    Args:
        device: "cpu" or "cuda"; None is what the variant was made for.

    Attributes:
        landmark: (N, 3, 192, 192) landmark pixels -> (N, 212); None when the bundle has no landmark network.
        vision: (N, 3, S, S) CLIP pixels and (N, 212) landmark features -> (N, rows, D).
        decoder: embeddings and KV cache -> logits.
        held_bytes: of memory, beside the weights as they lie in the variant's files.
    """

    held_bytes = 0

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        variant: Variant,
        threads: int | None = None,
        device: str | None = None,
    ) -> None:
        self.variant = variant
        where: dict[str, Any] = {"threads": threads, "device": device or variant.device}
        self.landmark = (
            self._open_encoder("landmark", bundle / manifest.landmark, **where) if manifest.landmark else None
        )
        self.vision = self._open_encoder("vision", bundle / manifest.vision, **where)
        self.decoder = self._open_decoder(bundle, manifest, variant, **where)

    def _open_encoder(self, name: str, path: Path, **where: Any) -> Encoder:
        return OrtEncoder(path, **where)

    def _open_decoder(self, bundle: Path, manifest: Manifest, variant: Variant, **where: Any) -> Decoder:
        return OrtDecoder(bundle / variant.decoder, bundle / manifest.embeddings, manifest.geometry, **where)


class OrtEncoder:
    """A graph without state and with one output; arguments in the order of its inputs, each of them batched."""

    def __init__(self, path: Path, threads: int | None = None, device: str = "cpu") -> None:
        self._session = _open_session(path, threads, device)
        self._names = [i.name for i in self._session.get_inputs()]

    def __call__(self, *arrays: Floats) -> Floats:
        output: Floats = self._session.run(None, dict(zip(self._names, arrays, strict=True)))[0]
        return output


class OrtDecoder(Decoder):
    """The language model from embedding rows to logits.

    Args:
        path: ONNX graph made by `export.graphs.decoder`.
        embeddings: `.npy` token embeddings (vocabulary, D), read through memory mapping.
        threads: of one operator; None leaves the choice to ONNX Runtime.
        device: "cpu" or "cuda": where it computes and where its caches are.
    """

    def __init__(
        self, path: Path, embeddings: Path, geometry: Geometry, threads: int | None = None, device: str = "cpu"
    ) -> None:
        self._session = _open_session(path, threads, device)
        self._geometry, self._device = geometry, device
        self._dtype = _TYPES[self._session.get_inputs()[0].type]
        self._table = load_embeddings(embeddings, geometry)

    def embed(self, token_ids: "npt.ArrayLike") -> Floats:
        """(T,) token ids -> (T, D)."""
        rows: Floats = self._table[np.asarray(token_ids, np.int64)].astype(np.float32)
        return rows

    def new_pool(self, capacity: int, sequences: int) -> KVPool:
        """Empty caches for sequences that will be stepped together."""
        return KVPool(self._geometry, capacity, sequences, self._dtype, self._device)

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
        check_room(cache, count)
        call = cache.calls.get((count, last)) or self._call(cache.pool, cache.row, (1, count), last)
        if count <= _SHORT:
            cache.calls[count, last] = call
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
            check_room(cache, 1)
        if len(rows) not in pool.steps:
            pool.steps[len(rows)] = self._call(pool, 0, (len(rows), 1), 1)
        call = pool.steps[len(rows)]
        logits: Floats = call(rows, [cache.length for cache in caches])[:, -1]
        for cache in caches:
            cache.length += 1
        return logits

    def _call(self, pool: KVPool, first: int, shape: tuple[int, int], last: int) -> "_Call":
        """For B x T rows of the B sequences of a pool that start at `first`."""
        call = _Call(self._session, shape, last, self._geometry, self._dtype, self._device)
        pool.bind(call.binding, first, shape[0])
        return call


def load_embeddings(path: Path, geometry: Geometry) -> "npt.NDArray[np.generic]":
    """The token embeddings (vocabulary, D) of a bundle, read through memory mapping."""
    with reading(path, "a table of embeddings"):
        table: npt.NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    expected = (geometry.vocabulary, geometry.hidden_size)
    if table.shape != expected:
        raise IntegrityError(f"{path}: expected a table of {expected}, found {table.shape}")
    return table


def check_room(cache: KVCache, count: int) -> None:
    """Raises BackendError if so many more positions do not fit."""
    if cache.length + count > cache.capacity:
        raise BackendError(
            f"the sequence needs {cache.length + count} positions, its cache holds {cache.capacity}: "
            "ask for fewer tokens"
        )


class _Call:
    """Bound inputs and outputs for B x T rows; decoding runs the same one over and over.

    Attributes:
        binding: still lacks the KV cache.
    """

    def __init__(
        self,
        session: Any,
        shape: tuple[int, int],
        last: int,
        geometry: Geometry,
        dtype: "npt.DTypeLike",
        device: str,
    ) -> None:
        from onnxruntime import OrtValue

        self._session, self.binding, self._device = session, session.io_binding(), device
        batch, count = shape
        self._rows = np.empty((batch, count, geometry.hidden_size), dtype)
        self._past = np.empty(batch, np.int32)
        self._total = np.empty((), np.int32)
        self._logits = np.empty((batch, last, geometry.vocabulary), np.float32)
        self._inputs = {
            "inputs_embeds": self._rows,
            "seqlens_k": self._past,
            "total_sequence_length": self._total,
            "logit_positions": np.arange(count - last, count, dtype=np.int64),
        }
        self._bind_inputs()
        self.binding.bind_ortvalue_output("logits", OrtValue.ortvalue_from_numpy(self._logits))

    def _bind_inputs(self) -> None:
        for name, array in self._inputs.items():
            self.binding.bind_cpu_input(name, array)

    def __call__(self, rows: Floats, past: list[int]) -> Floats:
        """(B x T, D) rows after `past` positions each -> (B, last, vocabulary)."""
        self._rows[...] = rows.reshape(self._rows.shape)
        self._past[...] = past
        self._past += self._rows.shape[1] - 1  # GroupQueryAttention counts positions before the last
        self._total[...] = self._past.max() + 1
        if self._device != "cpu":  # a GPU got a copy when they were bound, the CPU the arrays themselves
            self._bind_inputs()
        self._session.run_with_iobinding(self.binding)
        return self._logits


def check_device(device: str) -> None:
    """Refuse a device that the installed ONNX Runtime cannot compute on, before anything is opened.

    Raises:
        DependencyError: names the extra to install.
    """
    if device == "cuda" and not has_cuda():
        purpose = "run on an NVIDIA GPU, in place of onnxruntime (uninstall that first)"
        raise DependencyError("onnxruntime-gpu", "gpu", purpose)


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime was built for CUDA."""
    return _CUDA in _onnxruntime().get_available_providers()


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise DependencyError("onnxruntime", "cpu", "run a bundle on the CPU") from None
    return onnxruntime


def _open_session(path: Path, threads: int | None, device: str) -> Any:
    check_device(device)
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    exact = (_CUDA, {"use_tf32": "0"})  # 10 bits of a float32 graph's mantissa are too few for its tolerance
    providers = [*([exact] if device == "cuda" else []), "CPUExecutionProvider"]
    try:
        session = ort.InferenceSession(os.fspath(path), options, providers=providers)
    except Exception as error:  # onnxruntime's own exception types are not public
        raise BackendError(f"ONNX Runtime {ort.__version__} cannot open {path}: {error}") from error
    if device == "cuda" and _CUDA not in session.get_providers():  # it goes on with the CPU and only logs why
        raise BackendError(
            f"onnxruntime-gpu {ort.__version__} could not start CUDA: it needs an NVIDIA GPU, its driver, and the "
            "versions of CUDA and cuDNN that its log names"
        )
    return session
