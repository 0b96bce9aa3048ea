"""Find the fastest launch configuration of each linear layer, for `kernels.tuned`."""

import itertools
import statistics
from collections.abc import Callable

import torch
from gpu_model import Model, kernel_calls, random_buffers
from gpu_stages import timed

from sdk.runtime.backends.gptq_cuda import kernels

ROWS, SPLITS, WARPS, STAGES = (1, 8), (1, 2, 4, 8, 16), (2, 4, 8), (2, 4, 6)


def sweep(model: Model) -> None:
    """Print one line per linear layer and number of rows."""
    llama, layer = model.llama, model.llama.layers[0]
    calls = kernel_calls(llama) | {"out": lambda k, rows, cache: k.add(rows, rows.attended, layer.out, llama.norm)}
    matrices = {"read": layer.qkv, "out": layer.out, "gate_up": layer.gate_up, "add": layer.down}
    for count, (name, linear) in itertools.product(ROWS, matrices.items()):
        rows, cache = random_buffers(model, count)
        key, found = (linear.outputs, linear.inputs, count == 1), {}
        for launch in itertools.starmap(kernels.Launch, itertools.product(SPLITS, WARPS, STAGES)):
            kernels.tuned[key] = launch
            found[launch] = _seconds(lambda n=name, r=rows, c=cache: calls[n](kernels, r, c), model.device)
        best = min(found, key=found.__getitem__)
        kernels.tuned[key] = best
        rate = linear.nbytes() / found[best] / 1e9
        print(f"{name:8} {count} rows: {1e6 * found[best]:7.1f} us, {rate:7.1f} GB/s  {key}: {best}", flush=True)


def _seconds(call: Callable[[], None], device: str) -> float:
    """Return the seconds of one launch: on a GPU the median of 20 graph replays, each after flushing the L2 cache."""
    if device == "cpu":
        return timed(call, device, 2)[0]
    flush = torch.empty(1 << 28, dtype=torch.int8, device=device)
    call()
    graph, begin, end = torch.cuda.CUDAGraph(), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.graph(graph):
        call()
    times = []
    for _ in range(20):
        flush.zero_()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times)
