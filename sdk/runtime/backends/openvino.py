"""The decoder on OpenVINO, from the same files as with ONNX Runtime. It runs on x86 CPUs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdk.arrays import Floats
from sdk.bundles.embeddings import read_embeddings
from sdk.bundles.manifest import Geometry
from sdk.errors import BackendError
from sdk.printable import one_line
from sdk.runtime.backends.interface import Decoder, KVCache, KVPool, own_pool
from sdk.runtime.backends.openvino_graph import PagedGraph, load_openvino


class OpenVinoDecoder(Decoder):
    """The language model, from embedding rows to logits.

    Args:
        path: ONNX graph made by `export.graphs.decoder`.
        embeddings: `.npy` file of (vocabulary, D) token embeddings; it is memory-mapped.
        threads: threads of one operator; None leaves the choice to OpenVINO.

    Raises:
        GraphError: the file is no decoder of this shape.
        BackendError: this OpenVINO cannot read it.
        DependencyError: OpenVINO is not installed.
    """

    drafts = True

    def __init__(self, path: Path, embeddings: Path, geometry: Geometry, threads: int | None = None) -> None:
        super().__init__(read_embeddings(embeddings, geometry))
        core = load_openvino().Core()
        self._graph = PagedGraph(core, path, geometry)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # sums in bfloat16 move logits by more than a near tie
            "KV_CACHE_PRECISION": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(self._graph.group),  # of activations, as in ONNX Runtime's kernels
            **({"INFERENCE_NUM_THREADS": str(threads)} if threads else {}),
        }
        try:
            self._compiled = core.compile_model(self._graph.model, "CPU", settings)
            self._warm_up()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot compile {path}: {one_line(error)}") from error
        self._graph.drop_pages()

    def _warm_up(self) -> None:
        """Let OpenVINO arrange the weights, which it does in the first call."""
        self.extend(self.new_cache(1), self.embed([0]))

    def new_pool(self, capacity: int, sequences: int) -> "OpenVinoPool":
        return OpenVinoPool(self._compiled, capacity, sequences)

    def extend(self, cache: KVCache, rows: Floats, last: int = 1) -> Floats:
        cache.check_room(len(rows))
        logits = own_pool(cache.pool, OpenVinoPool).run([cache.row], rows, np.arange(len(rows) - last, len(rows)))
        cache.length += len(rows)
        return logits

    def _compute_step(self, pool: KVPool, rows: Floats) -> Floats:
        return own_pool(pool, OpenVinoPool).run(range(len(rows)), rows, np.arange(len(rows)))


class OpenVinoPool(KVPool):
    """The caches of several sequences as blocks of positions; the blocks of a sequence lie together.

    Args:
        compiled: compiled model of a `PagedGraph`; its inputs define type and shape of the blocks.
    """

    def __init__(self, compiled: Any, capacity: int, sequences: int) -> None:
        super().__init__(capacity, sequences)
        blocks = {port.any_name: port.partial_shape for port in compiled.inputs if len(port.partial_shape) == 4}
        shapes = {name: [size.get_length() for size in list(shape)[1:]] for name, shape in blocks.items()}
        self._block = next(iter(shapes.values()))[1]
        self._blocks = -(-capacity // self._block)
        try:
            self._memory = {
                name: np.zeros((sequences * self._blocks, *shape), np.float32) for name, shape in shapes.items()
            }
        except (MemoryError, ValueError):
            raise BackendError(
                f"no memory for {sequences} KV caches of {capacity} positions; decode fewer faces"
            ) from None
        self._request = compiled.create_infer_request()
        for name, array in self._memory.items():
            self._request.set_tensor(name, load_openvino().Tensor(array, shared_memory=True))

    def run(self, sequences: Sequence[int], rows: Floats, wanted: "np.ndarray[Any, Any]") -> Floats:
        """Append the same number of rows to each of some sequences.

        Args:
            rows: (T, D) embeddings, the first T / len(sequences) of them for the first sequence, and so on.
            wanted: (K,) indices of the rows whose logits are returned.

        Returns:
            (K, vocabulary) logits; valid until the next call.
        """
        count = len(rows) // len(sequences)
        past = np.array([self.lengths[sequence] for sequence in sequences], np.int32)
        used = -(-(past + count) // self._block)  # blocks
        inputs = {
            "inputs_embeds": np.ascontiguousarray(rows, np.float32)[None],
            "logit_positions": wanted.astype(np.int64),
            "positions": (past[:, None] + np.arange(count, dtype=np.int32)).ravel(),
            "past_lens": past,
            "subsequence_begins": np.arange(0, len(rows) + 1, count, dtype=np.int32),
            "block_indices": self._table(sequences, used),
            "block_indices_begins": np.concatenate([[0], used.cumsum()]).astype(np.int32),
            "max_context_len": np.array(past.max() + count, np.int32),
        }
        try:
            found = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot compute the decoder: {one_line(error)}") from error
        logits: Floats = found["logits"][0]
        return logits

    def keys_and_values(self, sequence: int) -> Iterator[tuple[str, Floats]]:
        """Yield (heads, length, size) keys and values of every layer by name, `<layer>.key` or `<layer>.value`."""
        length, first = self.lengths[sequence], sequence * self._blocks
        for name, array in self._memory.items():
            blocks = array[first : first + -(-length // self._block)].swapaxes(0, 1)  # (heads, blocks, block, size)
            yield name, blocks.reshape(blocks.shape[0], -1, blocks.shape[-1])[:, :length]

    def _table(self, sequences: Sequence[int], used: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Indices of the first blocks of each sequence."""
        first = (sequence * self._blocks for sequence in sequences)
        parts = [np.arange(begin, begin + count, dtype=np.int32) for begin, count in zip(first, used, strict=True)]
        return np.concatenate(parts)

    def close(self) -> None:
        self._request = None
        self._memory.clear()

    def _copy(self, source: KVCache, row: int) -> None:
        count, pool = -(-source.length // self._block), own_pool(source.pool, OpenVinoPool)
        begin, target = source.row * pool._blocks, row * self._blocks
        for name, array in self._memory.items():
            array[target : target + count] = pool._memory[name][begin : begin + count]
