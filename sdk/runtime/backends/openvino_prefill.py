"""OpenVINO reads a face and ONNX Runtime decodes: each does what it is faster at, and both hold the weights."""

import threading
from pathlib import Path

from sdk.arrays import Floats
from sdk.bundles.manifest import Geometry
from sdk.runtime.backends.interface import KVCache, own_pool
from sdk.runtime.backends.openvino import OpenVinoDecoder, OpenVinoPool
from sdk.runtime.backends.ort import OrtDecoder
from sdk.runtime.backends.ort_pool import OrtPool


class PrefillDecoder(OrtDecoder):
    """ONNX Runtime's decoder, whose prefill OpenVINO computes. Arguments and errors are those of OpenVinoDecoder.

    Args:
        copy_bytes: memory of OpenVINO's part, see `sdk.runtime.backends.cpu_choice.prefill_bytes`.
    """

    def __init__(
        self, path: Path, embeddings: Path, geometry: Geometry, threads: int | None = None, *, copy_bytes: int
    ) -> None:
        self._reader = OpenVinoDecoder(path, embeddings, geometry, threads)
        super().__init__(path, embeddings, geometry, threads)
        self.held_bytes = copy_bytes
        self._reading = threading.Lock()  # one face at a time, which takes all cores and memory for one cache

    def prefill(self, cache: KVCache, rows: Floats) -> None:
        if cache.length:
            super().prefill(cache, rows)
            return
        cache.check_room(len(rows))
        with self._reading:
            read = self._reader.new_cache(len(rows))
            pool = own_pool(read.pool, OpenVinoPool)
            try:
                self._reader.extend(read, rows)
                own_pool(cache.pool, OrtPool).fill(cache.row, pool.keys_and_values(read.row))
            finally:
                pool.close()
