"""The decoder on a GPU: a static KV cache, one CUDA graph per step, tokens chosen on the device."""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdk.arrays import Floats
from sdk.errors import BackendError
from sdk.runtime.backends.interface import Decoder, KVCache, KVPool, own_pool

from .buffers import MAX_ROWS, ROW_COUNTS, StepBuffers
from .prefill import Prefill
from .weights import LlamaWeights

MAX_STEPPED_ROWS = 2 * MAX_ROWS  # longest prompt that steps read faster than the dense path without CUDA graphs
MAX_DENSE_GRAPHS = 8  # of a pool; a bundle needs three: the face, and its two questions
STEPS_IN_FLIGHT = 2  # steps that the device runs while the host reads an earlier token
_RECORDING_LOCK = threading.Lock()  # recording a CUDA graph synchronises the device; all decoders share it


def is_out_of_memory(error: Exception) -> bool:
    """Whether the GPU has run out of memory, as reported by torch's allocator, the driver or cuBLAS."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn errors about GPU memory into BackendError.

    Raises:
        BackendError: the GPU is out of memory; the message says how to need less.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        sentences = str(error).partition("\n")[0].split(". ")
        found = ". ".join(sentences[:3])  # requested and free memory, without torch's advice
        raise BackendError(
            f"{found}. Decode fewer faces at once (batch_size), set a memory_limit, which also leaves out the dense "
            "weights, or stop other processes on this GPU"
        ) from None


class PoolStorage:
    """Device memory of a pool and the CUDA graphs recorded on it; the next pool of the same shape reuses both.

    Attributes:
        cache: (sequences, layers, 2, KV heads, capacity, size).
        state: (sequences, 2) int32, next token and length of each sequence, for steps that the device runs without the
            host.
        graphs: recorded steps by number of rows and whether they start from the state; None after the first run,
            which compiles the kernels.
        dense: recorded passes of the dense path by row of the cache, number of rows and first position, with their
            inputs and outputs; None after the first run, which makes the weights.
    """

    def __init__(self, llama: LlamaWeights, capacity: int, sequences: int, dtype: torch.dtype) -> None:
        g, device = llama.geometry, llama.norm.device
        shape = (sequences, g.layers, 2, g.kv_heads, capacity, g.head_size)
        self.cache = torch.zeros(shape, dtype=dtype, device=device)
        self.state = torch.zeros(sequences, 2, dtype=torch.int32, device=device)
        self.graphs: dict[tuple[int, bool], Any] = {}
        self.dense: dict[tuple[int, int, int], tuple[Any, Tensor, Tensor] | None] = {}


class GpuPool(KVPool):
    """The caches of several sequences in one block of device memory, which goes to `free` when the pool ends."""

    def __init__(self, memory: PoolStorage, free: list[PoolStorage]) -> None:
        super().__init__(memory.cache.shape[4], len(memory.cache))
        self.memory = memory
        self._give_back = weakref.finalize(self, free.append, memory)  # runs once

    def close(self) -> None:
        self.__dict__.pop("memory", None)
        self._give_back()

    def _copy(self, source: KVCache, row: int) -> None:
        found = _memory(source.pool).cache[source.row, :, :, :, : source.length]
        with torch.inference_mode():  # tensors made in inference mode can only be changed in it
            self.memory.cache[row, :, :, :, : source.length] = found


class GptqDecoder(Decoder):
    """The language model, from embedding rows to logits or greedy tokens. Threads take turns.

    Args:
        llama: weights.
        kernels: module `kernels`, or `reference` on a CPU.
        embeddings: (vocabulary, D) table in host memory.
        dtype: type of the KV cache and of the dense path.
        keep_dense: keep the weights of the dense path in `dtype`.
        graphs: record each kind of step, and with `keep_dense` each prompt at the same place, as a CUDA graph and
            replay it. Launching the kernels of a question one by one takes the host longer than the GPU computes.

    Attributes:
        held_bytes: bytes of the dense weights, which are made when first used; 0 if they are not kept.
    """

    def __init__(
        self,
        llama: LlamaWeights,
        kernels: ModuleType,
        embeddings: "npt.NDArray[np.generic]",
        *,
        dtype: torch.dtype,
        keep_dense: bool = False,
        graphs: bool = True,
    ) -> None:
        super().__init__(embeddings)
        self._llama, self._kernels, self._dtype = llama, kernels, dtype
        self._graphs, self._dense_graphs = graphs, graphs and keep_dense
        self._max_stepped = 1 if self._dense_graphs else MAX_STEPPED_ROWS
        self.held_bytes = llama.dense_bytes(dtype) if keep_dense else 0
        self._prefill = Prefill(llama, kernels, dtype, keep_dense)
        self._rows = StepBuffers.allocate(llama)
        self._device = llama.norm.device
        self._free: dict[tuple[int, int], list[PoolStorage]] = {}
        self._placed: object = None  # storage and sequences that `_rows` is set to
        self._lock = threading.RLock()

    def new_pool(self, capacity: int, sequences: int) -> GpuPool:
        """Allocate empty caches for sequences that are stepped together.

        Raises:
            BackendError: the GPU has no memory for them.
        """
        free = self._free.setdefault((capacity, sequences), [])
        try:
            memory = free.pop()
        except IndexError:
            self._give_back_others(capacity, sequences)
            with memory_errors():
                memory = PoolStorage(self._llama, capacity, sequences, self._dtype)
        return GpuPool(memory, free)

    def _give_back_others(self, capacity: int, sequences: int) -> None:
        """Free unused storage of other shapes; that of a single sequence is small and stays."""
        with self._lock:
            self._placed = None
            for shape, free in list(self._free.items()):
                if shape not in ((capacity, sequences), (capacity, 1)):
                    free.clear()

    def extend(self, cache: KVCache, rows: Floats, last: int = 1) -> Floats:
        cache.check_room(len(rows))
        with self._lock, memory_errors(), torch.inference_mode():
            memory, hidden = _memory(cache.pool), torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)
            if len(rows) > self._max_stepped:
                logits = self._read_densely(memory, cache, hidden, last)
            else:
                logits = self._read_by_steps(memory, cache, hidden)[-last:]
            cache.length += len(rows)
            return logits

    def _read_densely(self, memory: PoolStorage, cache: KVCache, hidden: Tensor, last: int) -> Floats:
        found = self._pass_densely(memory, cache, hidden)[-last:]
        logits = []
        for part in found.split(MAX_ROWS):
            rows = self._rows.first(len(part))
            rows.hidden.copy_(part)
            self._kernels.start(rows, self._llama, self._llama.norm, None)
            self._kernels.head(rows, self._llama, None)
            logits.append(rows.logits.cpu().numpy().copy())
        return np.concatenate(logits)

    def _pass_densely(self, memory: PoolStorage, cache: KVCache, hidden: Tensor) -> Tensor:
        """Run the dense path: launch it the first time, record a CUDA graph the second time, then replay it."""
        key, graphs, own = (cache.row, len(hidden), cache.length), memory.dense, memory.cache[cache.row]
        if not self._dense_graphs:
            return self._prefill(hidden, own, cache.length)
        if key not in graphs:
            found = self._prefill(hidden, own, cache.length)
            if len(graphs) == MAX_DENSE_GRAPHS:
                del graphs[next(iter(graphs))]
            graphs[key] = None  # not before all weights are made: memory may run out, and a graph must not make them
            return found
        if (recorded := graphs[key]) is None:
            inputs, graph = hidden.clone(), torch.cuda.CUDAGraph()
            with _RECORDING_LOCK, torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._prefill(inputs, own, cache.length)
            graphs[key] = recorded = graph, inputs, outputs
        graph, inputs, outputs = recorded
        inputs.copy_(hidden)
        graph.replay()
        return outputs

    def _read_by_steps(self, memory: PoolStorage, cache: KVCache, hidden: Tensor) -> Floats:
        """Read rows of one sequence, 16 per step."""
        logits, position = [], cache.length
        for part in hidden.split(MAX_ROWS):
            places = list(range(position, position + len(part)))
            logits.append(self._step(memory, part, [cache.row] * len(part), places))
            position += len(part)
        return np.concatenate(logits)

    def _compute_step(self, pool: KVPool, rows: Floats) -> Floats:
        with self._lock, memory_errors(), torch.inference_mode():
            logits = []
            for at in range(0, len(rows), MAX_ROWS):
                hidden = torch.from_numpy(rows[at : at + MAX_ROWS]).to(self._device)
                end = at + len(hidden)
                logits.append(self._step(_memory(pool), hidden, list(range(at, end)), pool.lengths[at:end]))
        return np.concatenate(logits)

    def greedy(self, cache: KVCache, token_ids: Sequence[int]) -> Iterator[int]:
        """Yield the most probable tokens, without an end.

        After the first token the device runs ahead without waiting for the host. Tokens that are never drawn are
        overwritten later.

        Args:
            cache: the sequence; grows as tokens are drawn.
            token_ids: ids to read first, at least one.
        """
        token = int(self.extend(cache, self.embed(token_ids))[-1].argmax())
        yield token
        memory = _memory(cache.pool)
        with self._lock, torch.inference_mode():
            memory.state[cache.row] = torch.tensor([token, cache.length], dtype=torch.int32)
        ahead: deque[Callable[[], int]] = deque()
        while True:
            cache.check_room(1)
            while len(ahead) < STEPS_IN_FLIGHT and cache.length + len(ahead) < cache.capacity:
                ahead.append(self._follow(memory, cache.row))
            token = ahead.popleft()()
            cache.length += 1
            yield token

    def _follow(self, memory: PoolStorage, row: int) -> Callable[[], int]:
        """Start one step of a sequence from its state; the returned function waits for the token."""
        with self._lock, memory_errors(), torch.inference_mode():
            if self._placed != (memory, row):
                self._rows.sequences[:1].fill_(row)
                self._placed = (memory, row)
            self._run(memory, 1, from_state=True)
            return _copy_to_host(memory.state[row, 0])

    def replay_steps(self, pool: KVPool, token_ids: Sequence[int], count: int) -> None:
        """Start greedy steps of every sequence of a pool and do not wait for them; the tokens stay on the device.

        This is what `greedy` replays, without the host. It is meant for timing: `pool.lengths` stay as they are, so
        each call overwrites the same positions.

        Args:
            pool: of 1, 2, 4, 8 or 16 sequences; `pool.lengths` say where each continues.
            token_ids: the id that each sequence reads first.
            count: number of steps.

        Raises:
            BackendError: a sequence would outgrow its cache.
        """
        memory, size = _memory(pool), len(pool.lengths)
        for cache in pool.caches:
            cache.check_room(count)
        with self._lock, memory_errors(), torch.inference_mode():
            state = torch.tensor([*zip(token_ids, pool.lengths, strict=True)], dtype=torch.int32)
            memory.state.copy_(state)
            self._rows.sequences[:size] = torch.arange(size)
            self._placed = None
            for _ in range(count):
                self._run(memory, size, from_state=True)

    def _step(self, memory: PoolStorage, hidden: Tensor, sequences: list[int], positions: list[int]) -> Floats:
        """Run one step of at most 16 rows from the host; returns (R, vocabulary) logits."""
        count = len(hidden)
        size = next(size for size in ROW_COUNTS if size >= count)
        padding = [0] * (size - count)
        places = torch.tensor([[*sequences, *(-1 for _ in padding)], [*positions, *padding]], dtype=torch.int32)
        rows, self._placed = self._rows, None
        rows.sequences[:size], rows.positions[:size] = places.to(self._device)
        rows.hidden[:count].copy_(hidden)
        self._run(memory, size, from_state=False)
        logits: Floats = rows.logits[:count].cpu().numpy()
        return logits.copy() if self._device.type == "cpu" else logits

    def _run(self, memory: PoolStorage, size: int, *, from_state: bool) -> None:
        """Run a step: launch its kernels the first time, record a CUDA graph the second time, then replay it."""
        key, graphs = (size, from_state), memory.graphs
        if not self._graphs or key not in graphs:
            self._launch(memory, size, from_state)
            graphs[key] = None
            return
        if graphs[key] is None:
            graph = torch.cuda.CUDAGraph()
            with _RECORDING_LOCK, torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._launch(memory, size, from_state)
            graphs[key] = graph
        graphs[key].replay()

    def _launch(self, memory: PoolStorage, size: int, from_state: bool) -> None:
        """Launch all kernels of a step: five for each layer, and two more."""
        kernels, llama, rows = self._kernels, self._llama, self._rows.first(size)
        state = memory.state if from_state else None
        norms = [*(layer.input_norm for layer in llama.layers), llama.norm]
        kernels.start(rows, llama, norms[0], state)
        for index, layer in enumerate(llama.layers):
            cache = memory.cache[:, index]
            kernels.read(rows, llama, layer, cache)
            kernels.attend(rows, llama, cache)
            kernels.add(rows, rows.attended, layer.out, layer.post_norm)
            kernels.gate_up(rows, llama, layer.gate_up)
            kernels.add(rows, rows.product, layer.down, norms[index + 1])
        kernels.head(rows, llama, state)


def _memory(pool: KVPool) -> PoolStorage:
    return own_pool(pool, GpuPool).memory


def _copy_to_host(token: Tensor) -> Callable[[], int]:
    """Queue the copy of a token to the host; the returned function waits for it."""
    if token.device.type == "cpu":
        value = int(token)
        return lambda: value
    host = torch.empty((), dtype=token.dtype, pin_memory=True)
    host.copy_(token, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> int:
        copied.synchronize()
        return int(host)

    return wait
