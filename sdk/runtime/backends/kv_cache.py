"""Keys and values of sequences, in memory that the decoder's graph reads and writes in place, on the CPU or a GPU."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sdk.bundles.manifest import Geometry


class KVCache:
    """Keys and values of one sequence: one row of a pool.

    Attributes:
        pool, row: where they are.
        length: positions that are filled; set it lower to rewind, the rest is overwritten by what follows.
        capacity: positions that fit.
        calls: those that append a few rows, by their number and that of the logits they give.
    """

    def __init__(self, pool: "KVPool", row: int) -> None:
        self.pool, self.row = pool, row
        self.capacity = pool.capacity
        self.length = 0
        self.calls: dict[tuple[int, int], Any] = {}


class KVPool:
    """The caches of several sequences side by side, so that one call can step the first n of them together.

    Args:
        geometry: of the decoder.
        capacity: positions of each sequence.
        sequences: how many.
        dtype: float32 or float16, as the graph has it.
        device: "cpu", where memory is claimed as it fills, or "cuda", where it is claimed now and once.

    Attributes:
        caches: one per sequence; each can be extended by itself.
        steps: the call that steps the first n, by n.
    """

    def __init__(
        self,
        geometry: Geometry,
        capacity: int,
        sequences: int,
        dtype: "npt.DTypeLike" = np.float32,
        device: str = "cpu",
    ) -> None:
        from onnxruntime import OrtValue

        g = geometry
        memory = np.zeros((2 * g.layers, sequences, g.kv_heads, capacity, g.head_size), dtype)
        self._values = [OrtValue.ortvalue_from_numpy(part, device) for part in memory]  # on the CPU the memory itself
        self._host = memory if device == "cpu" else None
        self._device, self._row = device, memory[0, 0]
        self.capacity = capacity
        self.caches = [KVCache(self, row) for row in range(sequences)]
        self.steps: dict[int, Any] = {}

    def bind(self, binding: Any, first: int, count: int) -> None:
        """Make the same memory past and present of `count` sequences from `first` on."""
        for index, value in enumerate(self._values):
            part = f"{index // 2}.{'value' if index % 2 else 'key'}"
            pointer = value.data_ptr() + first * self._row.nbytes
            place = (self._device, 0, self._row.dtype, (count, *self._row.shape), pointer)
            binding.bind_input(f"past_key_values.{part}", *place)
            binding.bind_output(f"present.{part}", *place)

    def move(self, source: int, target: int) -> None:
        """Copy one sequence over another."""
        length = self.caches[source].length
        if self._host is not None:
            self._host[:, target, :, :length] = self._host[:, source, :, :length]
        else:  # ONNX Runtime copies whole values, through the host; a batch does it once per face that ends
            for value in self._values:
                copy = value.numpy()
                copy[target, :, :length] = copy[source, :, :length]
                value.update_inplace(copy)
        self.caches[target].length = length
