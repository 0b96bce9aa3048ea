"""Encoders and decoder on ONNX Runtime, on the CPU or CUDA. The decoder updates its KV caches in place."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.bundles.embeddings import read_embeddings
from sdk.bundles.manifest import Geometry
from sdk.errors import BackendError, DependencyError
from sdk.files import is_utf8
from sdk.runtime.backends.interface import Decoder, KVCache, KVPool
from sdk.runtime.backends.ort_pool import OrtPool

_MAX_KEPT_ROWS = 16  # calls with at most this many rows stay bound: steps, drafts, questions
_CUDA = "CUDAExecutionProvider"
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OrtEncoder:
    """A graph without state and with one output. It takes batched arrays in the order of its inputs."""

    def __init__(self, path: Path, threads: int | None = None, device: str = "cpu") -> None:
        self._session = open_session(path, threads, device)
        self._names = [i.name for i in self._session.get_inputs()]

    def __call__(self, *arrays: Floats) -> Floats:
        output: Floats = self._session.run(None, dict(zip(self._names, arrays, strict=True)))[0]
        return output


class OrtDecoder(Decoder):
    """The language model, from embedding rows to logits.

    Args:
        path: ONNX graph made by `export.graphs.decoder`.
        embeddings: `.npy` file of (vocabulary, D) token embeddings; it is memory-mapped.
        threads: threads of one operator; None leaves the choice to ONNX Runtime.
        device: "cpu" or "cuda", for computation and caches.

    Attributes:
        session: the InferenceSession.
    """

    def __init__(
        self, path: Path, embeddings: Path, geometry: Geometry, threads: int | None = None, device: str = "cpu"
    ) -> None:
        self.session = open_session(path, threads, device)
        self._geometry, self._device = geometry, device
        self._dtype = _TYPES[self.session.get_inputs()[0].type]
        self.drafts = device == "cpu" and self._dtype is np.float32  # NEAR_TIE was measured here
        super().__init__(read_embeddings(embeddings, geometry))

    def new_pool(self, capacity: int, sequences: int) -> OrtPool:
        return OrtPool(self._geometry, capacity, sequences, self._dtype, self._device)

    def extend(self, cache: KVCache, rows: Floats, last: int = 1) -> Floats:
        cache.check_room(len(rows))
        logits: Floats = self._call("extend", cache.pool, cache.row, (1, len(rows)), last)(rows, [cache.length])[0]
        cache.length += len(rows)
        return logits

    def step(self, pool: KVPool, rows: Floats) -> Floats:
        caches = pool.caches[: len(rows)]
        for cache in caches:
            cache.check_room(1)
        call = self._call("step", pool, 0, (len(rows), 1), 1)
        logits: Floats = call(rows, [cache.length for cache in caches])[:, -1]
        for cache in caches:
            cache.length += 1
        return logits

    def _call(self, kind: str, pool: KVPool, first: int, shape: tuple[int, int], last: int) -> "BoundCall":
        """The bound call for T rows of each of B sequences of a pool, from `first` on; short calls are bound once."""
        if not isinstance(pool, OrtPool):
            raise BackendError(
                "this cache belongs to another decoder; make it with new_cache or new_pool of this decoder"
            )
        key = (kind, first, *shape, last)
        call: BoundCall | None = pool.calls.get(key)
        if call is None:
            call = BoundCall(self.session, shape, last, self._geometry, self._dtype, self._device)
            pool.bind(call.binding, first, shape[0])
            if shape[1] <= _MAX_KEPT_ROWS:
                pool.calls[key] = call
        return call


class BoundCall:
    """Bound inputs and outputs for B x T rows; decoding runs the same call again and again.

    Attributes:
        binding: to be completed with the KV cache by `OrtPool.bind`.
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
        """Run (B x T, D) rows after `past` positions of each sequence; returns (B, last, vocabulary) logits."""
        self._rows[...] = rows.reshape(self._rows.shape)
        self._past[...] = past
        self._past += self._rows.shape[1] - 1  # GroupQueryAttention counts positions before the last
        self._total[...] = self._past.max() + 1
        if self._device != "cpu":  # binding copies inputs to a GPU; the CPU reads the arrays themselves
            self._bind_inputs()
        self._session.run_with_iobinding(self.binding)
        return self._logits


def check_cuda() -> None:
    """Check that the installed ONNX Runtime was built with CUDA.

    Raises:
        DependencyError: it was not; the message names the extra to install.
    """
    if not has_cuda():
        purpose = "run on an NVIDIA GPU, in place of onnxruntime (uninstall that first)"
        raise DependencyError("onnxruntime-gpu", "gpu", purpose)


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime was built with CUDA."""
    return _CUDA in _onnxruntime().get_available_providers()


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise DependencyError("onnxruntime", "cpu", "run a bundle on the CPU") from None
    return onnxruntime


def open_session(path: Path, threads: int | None = None, device: str = "cpu") -> Any:
    """Open an InferenceSession.

    Args:
        threads: threads of one operator; None leaves the choice to ONNX Runtime.
        device: "cpu" or "cuda"; there is no fallback from CUDA to the CPU.

    Raises:
        BackendError: the file cannot be opened, or CUDA cannot be started.
        DependencyError: ONNX Runtime is missing or was built without CUDA.
    """
    if device == "cuda":
        check_cuda()
    ort, name = _onnxruntime(), os.fspath(path)
    if not is_utf8(name):
        raise BackendError(f"{path}: ONNX Runtime opens only names that are UTF-8; rename the file or its folder")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    exact = (_CUDA, {"use_tf32": "0"})  # TF32 keeps 10 bits of the mantissa, too few for a float32 graph's tolerance
    providers = [*([exact] if device == "cuda" else []), "CPUExecutionProvider"]
    try:
        session = ort.InferenceSession(name, options, providers=providers)
    except Exception as error:  # the exception types of onnxruntime are not public
        raise BackendError(f"ONNX Runtime {ort.__version__} cannot open {path}: {error}") from error
    # ONNX Runtime falls back to the CPU and only logs the reason
    if device == "cuda" and _CUDA not in session.get_providers():
        raise BackendError(
            f"onnxruntime-gpu {ort.__version__} could not start CUDA: it needs an NVIDIA GPU, its driver, and the "
            "versions of CUDA and cuDNN that its log names"
        )
    return session
