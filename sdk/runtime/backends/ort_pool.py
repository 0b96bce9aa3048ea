"""KV caches that a decoder's graph reads and writes in place, on the CPU or a GPU."""

import math
import mmap
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.bundles.manifest import Geometry
from sdk.errors import BackendError
from sdk.onnx_session import load_onnxruntime
from sdk.runtime.backends.interface import KVCache, KVPool


class OrtPool(KVPool):
    """The caches of several sequences as OrtValues.

    Args:
        geometry: shape of the decoder.
        capacity: positions of each sequence.
        sequences: number of sequences.
        dtype: float32 or float16, as in the graph.
        device: "cpu", where the system allocates memory as it fills, or "cuda", where all of it is allocated now.

    Attributes:
        calls: bound calls by kind, first sequence, number of sequences, rows of each, and rows with logits.
    """

    def __init__(
        self,
        geometry: Geometry,
        capacity: int,
        sequences: int,
        dtype: "npt.DTypeLike" = np.float32,
        device: str = "cpu",
    ) -> None:
        super().__init__(capacity, sequences)
        g = geometry
        shape = (2 * g.layers, sequences, g.kv_heads, capacity, g.head_size)
        try:
            memory = _zeros(shape, np.dtype(dtype))
        except (MemoryError, OSError, OverflowError, ValueError):
            raise BackendError(f"no memory for a KV cache of shape {shape}; decode fewer faces at once") from None
        create = load_onnxruntime().OrtValue.ortvalue_from_numpy
        self._values = [create(part, device) for part in memory]  # on the CPU without a copy
        self._host = memory if device == "cpu" else None
        self._device, self._dtype, self._shape = device, memory.dtype, memory.shape[2:]
        self._bytes = memory[0, 0].nbytes
        self.calls: dict[tuple[str, int, int, int, int], Any] = {}

    def bind(self, binding: Any, first: int, count: int) -> None:
        """Bind the memory of `count` sequences, from `first` on, as both the past and the present of a call."""
        for index, value in enumerate(self._values):
            part = f"{index // 2}.{'value' if index % 2 else 'key'}"
            pointer = value.data_ptr() + first * self._bytes
            place = (self._device, 0, self._dtype, (count, *self._shape), pointer)
            binding.bind_input(f"past_key_values.{part}", *place)
            binding.bind_output(f"present.{part}", *place)

    def fill(self, row: int, parts: Iterable[tuple[str, Floats]]) -> None:
        """Write the first positions of a sequence on the CPU.

        Args:
            parts: name, `<layer>.key` or `<layer>.value`, and (heads, T, size) of each.
        """
        assert self._host is not None
        for name, part in parts:
            layer, kind = name.split(".")
            self._host[2 * int(layer) + (kind == "value"), row, :, : part.shape[1]] = part
            self.lengths[row] = part.shape[1]

    def close(self) -> None:
        self.calls.clear()
        self._values.clear()
        self._host = None

    def _copy(self, source: KVCache, row: int) -> None:
        pool, length = source.pool, source.length
        assert isinstance(pool, OrtPool)
        if self._host is not None and pool._host is not None:
            self._host[:, row, :, :length] = pool._host[:, source.row, :, :length]
            return
        for value, other in zip(self._values, pool._values, strict=True):
            copy = value.numpy()  # ONNX Runtime copies only whole values; a batch needs it once per face
            copy[row, :, :length] = other.numpy()[source.row, :, :length]
            value.update_inplace(copy)


def _zeros(shape: tuple[int, ...], dtype: "np.dtype[Any]") -> "npt.NDArray[Any]":
    """An array whose pages take memory when they are first written.

    numpy asks Linux for huge pages of 2 MB. The positions of a head lie together, so huge pages would hold the free
    ones too: 1.3 GB instead of 0.8 GB for a short answer at 7B.
    """
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)
