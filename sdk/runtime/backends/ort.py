"""Encoders and decoder on ONNX Runtime, on the CPU or CUDA. The decoder updates its KV caches in place."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.bundles.embeddings import read_embeddings
from sdk.bundles.files import AGAIN
from sdk.bundles.manifest import Geometry
from sdk.errors import BackendError, GraphError
from sdk.mapped_pages import drop_pages
from sdk.onnx_session import load_onnxruntime, open_session
from sdk.printable import one_line
from sdk.runtime.backends.interface import Decoder, KVCache, KVPool, own_pool
from sdk.runtime.backends.ort_pool import OrtPool

_MAX_KEPT_ROWS = 16  # calls with at most this many rows stay bound: steps, drafts, questions
Shape: TypeAlias = tuple[int | None, ...]  # None is any size
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OrtEncoder:
    """A graph without state and with one output. It takes batched arrays in the order of its inputs.

    Args:
        path: ONNX file.
        threads, device: as in `open_session`.
        inputs, output: shapes without the batch dimension that the graph must have; None checks nothing.

    Raises:
        GraphError: the file is damaged, or has other inputs or outputs.
    """

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        device: str = "cpu",
        *,
        inputs: Sequence[Shape] | None = None,
        output: Shape | None = None,
    ) -> None:
        self._session = open_session(path, threads, device, mapped=True)
        self._data = path.with_name(f"{path.name}.data")  # of a large encoder, see `export.graphs.write`
        self._is_mapped = device == "cpu" and self._data.is_file()
        given, made = self._session.get_inputs(), self._session.get_outputs()
        self._names = [i.name for i in given]
        self._path, self._output = path, output
        if inputs is not None:
            _check_shapes(path, "inputs", given, [(None, *shape) for shape in inputs])
        if output is not None:
            _check_shapes(path, "outputs", made, [(None, *output)])

    def __call__(self, *arrays: Floats) -> Floats:
        with _computing(self._path):
            output: Floats = self._session.run(None, dict(zip(self._names, arrays, strict=True)))[0]
        if self._is_mapped:
            drop_pages(self._data)  # the next call may be minutes away, and the decoder's memory is at its peak before
        if self._output not in (None, output.shape[1:]):
            raise GraphError(f"{self._path}: expected outputs of {self._output}, found {output.shape[1:]}; {AGAIN}")
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
        _check_decoder(path, self.session, geometry)
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

    def _compute_step(self, pool: KVPool, rows: Floats) -> Floats:
        logits: Floats = self._call("step", pool, 0, (len(rows), 1), 1)(rows, pool.lengths[: len(rows)])[:, -1]
        return logits

    def _call(self, kind: str, pool: KVPool, first: int, shape: tuple[int, int], last: int) -> "BoundCall":
        """The bound call for T rows of each of B sequences of a pool, from `first` on; short calls are bound once."""
        own, key = own_pool(pool, OrtPool), (kind, first, *shape, last)
        call: BoundCall | None = own.calls.get(key)
        if call is None:
            call = BoundCall(self.session, shape, last, self._geometry, self._dtype, self._device)
            own.bind(call.binding, first, shape[0])
            if shape[1] <= _MAX_KEPT_ROWS:
                own.calls[key] = call
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
        self.binding.bind_ortvalue_output("logits", load_onnxruntime().OrtValue.ortvalue_from_numpy(self._logits))

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
        with _computing("the decoder"):
            self._session.run_with_iobinding(self.binding)
        return self._logits


@contextmanager
def _computing(what: "Path | str") -> Iterator[None]:
    """Turn errors of a call into BackendError; the exception types of onnxruntime are not public."""
    try:
        yield
    except Exception as error:
        raise BackendError(f"ONNX Runtime cannot compute {what}: {one_line(error)}") from error


def _check_decoder(path: Path, session: Any, geometry: Geometry) -> None:
    """Check that a graph has the inputs and outputs of a decoder of this shape."""
    g = geometry
    caches = [f"{index}.{part}" for index in range(g.layers) for part in ("key", "value")]
    cache = (None, g.kv_heads, None, g.head_size)
    inputs: dict[str, Shape] = {
        "inputs_embeds": (None, None, g.hidden_size),
        "seqlens_k": (None,),
        "total_sequence_length": (),
        "logit_positions": (None,),
    }
    inputs |= {f"past_key_values.{name}": cache for name in caches}
    outputs = {"logits": (None, None, g.vocabulary), **{f"present.{name}": cache for name in caches}}
    for what, found, expected in (
        ("inputs", session.get_inputs(), inputs),
        ("outputs", session.get_outputs(), outputs),
    ):
        if {value.name for value in found} != set(expected):
            raise GraphError(f"{path}: expected a decoder of {g.layers} layers; its {what} differ; {AGAIN}")
        _check_shapes(path, what, found, [expected[value.name] for value in found])
    if session.get_inputs()[0].name != "inputs_embeds" or session.get_inputs()[0].type not in _TYPES:
        raise GraphError(f"{path}: expected embeddings in float16 or float32 as its first input; {AGAIN}")


def _check_shapes(path: Path, what: str, found: Sequence[Any], expected: Sequence[Shape]) -> None:
    """Compare the sizes that a graph states with those that it must have; names of sizes fit any."""
    shapes = [tuple(size if isinstance(size, int) else None for size in value.shape) for value in found]
    fits = len(shapes) == len(expected) and all(map(_fits, shapes, expected))
    if not fits:
        raise GraphError(f"{path}: expected {what} of {list(expected)}, found {shapes} (None: any size); {AGAIN}")


def _fits(shape: Shape, expected: Shape) -> bool:
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(None in pair or pair[0] == pair[1] for pair in pairs)
