"""The decoder on a GPU: static KV cache, one CUDA graph for a whole step, tokens chosen where they are used."""

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
from sdk.runtime.backends.interface import Decoder, KVCache, KVPool

from .prefill import Prefill
from .rows import MOST, SIZES, Rows
from .weights import Llama

BY_STEPS = 2 * MOST  # rows up to which steps are quicker than the dense path
AHEAD = 2  # steps that are under way while the host looks at the token before them
_RECORDING = threading.Lock()  # of a CUDA graph, which synchronises the whole device; shared by all decoders


def is_full(error: Exception) -> bool:
    """Whether a GPU without memory is the reason: torch's allocator, the driver and cuBLAS each say it in their way."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


@contextmanager
def memory_errors() -> Iterator[None]:
    """Make a complaint about GPU memory one of ours.

    Raises:
        BackendError: says how to need less.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_full(error):
            raise
        found = ". ".join(str(error).partition("\n")[0].split(". ")[:3])  # asked for, there is; then advice
        raise BackendError(
            f"{found}. Decode fewer faces at once (batch_size), set a memory_limit, with which dense weights are left "
            "out too, or free the GPU of other processes"
        ) from None


class _Memory:
    """Device memory of a pool, and the graphs that were recorded on it; both are used again by the next pool.

    Attributes:
        cache: (sequences, layers, 2, KV heads, capacity, size).
        state: (sequences, 2) int32, next token and length of each sequence, for steps that follow each other on the
            device.
        graphs: by number of rows and whether they begin with the state; None after the first run, which compiled.
    """

    def __init__(self, llama: Llama, capacity: int, sequences: int, dtype: torch.dtype) -> None:
        g, device = llama.geometry, llama.norm.device
        shape = (sequences, g.layers, 2, g.kv_heads, capacity, g.head_size)
        self.cache = torch.zeros(shape, dtype=dtype, device=device)
        self.state = torch.zeros(sequences, 2, dtype=torch.int32, device=device)
        self.graphs: dict[tuple[int, bool], Any] = {}


class GpuPool(KVPool):
    """The caches of several sequences in one piece of device memory."""

    def __init__(self, memory: _Memory) -> None:
        super().__init__(memory.cache.shape[4], len(memory.cache))
        self.memory = memory

    def _copy(self, source: int, target: int, length: int) -> None:
        cache = self.memory.cache
        with torch.inference_mode():  # memory made while a caller was in that mode can be changed in it alone
            cache[target, :, :, :, :length] = cache[source, :, :, :, :length]


class GptqDecoder(Decoder):
    """The language model from embedding rows to logits or to greedy tokens; threads take turns.

    Args:
        llama: the model.
        kernels: module `kernels`, or `reference` for a CPU.
        embeddings: (vocabulary, D) table on the host.
        dtype: of the KV cache and of the dense path.
        keep_dense: keep weights in `dtype` for the dense path.
        graphs: record each kind of step once and replay it.

    Attributes:
        held_bytes: what the weights for the dense path take once they are made; 0 where they are not kept.
    """

    def __init__(
        self,
        llama: Llama,
        kernels: ModuleType,
        embeddings: "npt.NDArray[np.generic]",
        *,
        dtype: torch.dtype,
        keep_dense: bool = False,
        graphs: bool = True,
    ) -> None:
        super().__init__(embeddings)
        self._llama, self._kernels, self._dtype = llama, kernels, dtype
        self._graphs = graphs
        self.held_bytes = llama.dense_bytes(dtype) if keep_dense else 0
        self._prefill = Prefill(llama, kernels, dtype, keep_dense)
        self._rows = Rows.allocate(llama)
        self._device = llama.norm.device
        self._free: dict[tuple[int, int], list[_Memory]] = {}
        self._placed: object = None  # whose sequences `_rows` names
        self._lock = threading.RLock()

    def new_pool(self, capacity: int, sequences: int) -> GpuPool:
        """Empty caches for sequences that will be stepped together.

        Raises:
            BackendError: the GPU has no memory for them.
        """
        free = self._free.setdefault((capacity, sequences), [])
        try:
            memory = free.pop()
        except IndexError:
            self._give_back_others(capacity, sequences)
            with memory_errors():
                memory = _Memory(self._llama, capacity, sequences, self._dtype)
        pool = GpuPool(memory)
        weakref.finalize(pool, free.append, memory)
        return pool

    def _give_back_others(self, capacity: int, sequences: int) -> None:
        """Let go of memory that no pool uses and none of this shape will; a single sequence's is small and stays."""
        with self._lock:
            self._placed = None
            for shape, free in list(self._free.items()):
                if shape not in ((capacity, sequences), (capacity, 1)):
                    free.clear()

    def extend(self, cache: KVCache, rows: Floats, last: int = 1) -> Floats:
        cache.check_room(len(rows))
        with self._lock, memory_errors(), torch.inference_mode():
            memory, hidden = _memory(cache.pool), torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)
            if len(rows) > BY_STEPS:
                logits = self._read_densely(memory, cache, hidden, last)
            else:
                logits = self._read_by_steps(memory, cache, hidden)[-last:]
            cache.length += len(rows)
            return logits

    def _read_densely(self, memory: _Memory, cache: KVCache, hidden: Tensor, last: int) -> Floats:
        found = self._prefill(hidden, memory.cache[cache.row], cache.length)[-last:]
        logits = []
        for part in found.split(MOST):
            rows = self._rows.first(len(part))
            rows.hidden.copy_(part)
            self._kernels.start(rows, self._llama, self._llama.norm, None)
            self._kernels.head(rows, self._llama, None)
            logits.append(rows.logits.cpu().numpy().copy())
        return np.concatenate(logits)

    def _read_by_steps(self, memory: _Memory, cache: KVCache, hidden: Tensor) -> Floats:
        """Rows of one sequence, 16 at a time."""
        logits, position = [], cache.length
        for part in hidden.split(MOST):
            places = list(range(position, position + len(part)))
            logits.append(self._step(memory, part, [cache.row] * len(part), places))
            position += len(part)
        return np.concatenate(logits)

    def step(self, pool: KVPool, rows: Floats) -> Floats:
        caches = pool.caches[: len(rows)]
        for cache in caches:
            cache.check_room(1)
        with self._lock, memory_errors(), torch.inference_mode():
            logits = []
            for at in range(0, len(rows), MOST):
                hidden = torch.from_numpy(rows[at : at + MOST]).to(self._device)
                some = caches[at : at + MOST]
                logits.append(self._step(_memory(pool), hidden, [c.row for c in some], [c.length for c in some]))
        for cache in caches:
            cache.length += 1
        return np.concatenate(logits)

    def greedy(self, cache: KVCache, token_ids: Sequence[int]) -> Iterator[int]:
        """Most probable tokens, one after the other, without an end.

        From the second one on the device goes ahead by itself: the host is never waited for, and what it does not ask
        for any more is overwritten later.

        Args:
            cache: grows as tokens are drawn.
            token_ids: at least one, to be read first.
        """
        token = int(self.extend(cache, self.embed(token_ids))[-1].argmax())
        yield token
        memory = _memory(cache.pool)
        with self._lock, torch.inference_mode():
            memory.state[cache.row] = torch.tensor([token, cache.length], dtype=torch.int32)
        ahead: deque[Callable[[], int]] = deque()
        while True:
            cache.check_room(1)
            while len(ahead) < AHEAD and cache.length + len(ahead) < cache.capacity:
                ahead.append(self._follow(memory, cache.row))
            token = ahead.popleft()()
            cache.length += 1
            yield token

    def _follow(self, memory: _Memory, row: int) -> Callable[[], int]:
        """Start one step of a sequence from its state; what is returned waits for the token."""
        with self._lock, memory_errors(), torch.inference_mode():
            if self._placed != (memory, row):
                self._rows.sequences[:1].fill_(row)
                self._placed = (memory, row)
            self._run(memory, 1, from_state=True)
            return _later(memory.state[row, 0])

    def _step(self, memory: _Memory, hidden: Tensor, sequences: list[int], positions: list[int]) -> Floats:
        """One step of at most 16 rows that come from the host -> (R, vocabulary)."""
        count = len(hidden)
        size = next(size for size in SIZES if size >= count)
        padding = [0] * (size - count)
        places = torch.tensor([[*sequences, *(-1 for _ in padding)], [*positions, *padding]], dtype=torch.int32)
        rows, self._placed = self._rows, None
        rows.sequences[:size], rows.positions[:size] = places.to(self._device)
        rows.hidden[:count].copy_(hidden)
        self._run(memory, size, from_state=False)
        logits: Floats = rows.logits[:count].cpu().numpy()
        return logits.copy() if self._device.type == "cpu" else logits

    def _run(self, memory: _Memory, size: int, *, from_state: bool) -> None:
        """Launch a step: by hand the first time, recorded the second, from then on in one piece."""
        key, graphs = (size, from_state), memory.graphs
        if not self._graphs or key not in graphs:
            self._launch(memory, size, from_state)
            graphs[key] = None
            return
        if graphs[key] is None:
            graph = torch.cuda.CUDAGraph()
            with _RECORDING, torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._launch(memory, size, from_state)
            graphs[key] = graph
        graphs[key].replay()

    def _launch(self, memory: _Memory, size: int, from_state: bool) -> None:
        """Every kernel of a step: five for each layer, and two."""
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


def _memory(pool: KVPool) -> _Memory:
    if not isinstance(pool, GpuPool):
        raise BackendError("this cache belongs to another decoder; make it with new_cache or new_pool of this one")
    return pool.memory


def _later(token: Tensor) -> Callable[[], int]:
    """Copy a token to the host behind the work that is under way; the result waits for it."""
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
