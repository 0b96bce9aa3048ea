"""Measure the ceilings of this machine, and compute from them the floor of each stage: its minimum time."""

import time
from collections.abc import Callable
from typing import Literal

import numpy as np

from sdk.bench.probe import int4_matmul
from sdk.bench.report import Ceilings, Floor
from sdk.bundles.manifest import Manifest, Variant
from sdk.onnx_session import load_onnxruntime
from sdk.runtime.memory import Memory

_MAX_WORKING_SET = 512_000_000  # bytes; larger than every cache
_REPEATS = 7


def measure_ceilings(manifest: Manifest, variant: Variant) -> Ceilings:
    """Measure each ceiling as the best of seven runs. GPUs are not measured here."""
    if variant.device != "cpu":
        return Ceilings(reason="the ceilings of a GPU are measured by benchmarks/gpu.py")
    past = len(manifest.prompt.prefix_ids) + manifest.prompt.image_rows + _question_rows(manifest)
    read = min(_MAX_WORKING_SET, round(_bytes(manifest, variant, past)))
    return Ceilings(
        bandwidth_gbs=_bandwidth(read) / 1e9,
        working_set_mb=read / 1e6,
        float32_gflops=_float32_peak() / 1e9,
        int4_gflops=_int4_peak() / 1e9 if "int4" in variant.precision else None,
    )


def fastest(action: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Seconds of the fastest of several runs, after a warm-up run."""
    action()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return min(times)


def _bandwidth(size: int) -> float:
    """Bytes per second when numpy's BLAS multiplies a matrix of that size by a vector on all its threads."""
    columns = 1024
    matrix, vector = np.ones((max(1, size // (4 * columns)), columns), np.float32), np.ones(columns, np.float32)
    repeats = max(1, 64_000_000 // size)  # one product of a small matrix is too short for the clock
    return repeats * matrix.nbytes / fastest(lambda: [matrix @ vector for _ in range(repeats)])


def _float32_peak() -> float:
    left, right = np.ones((512, 2048), np.float32), np.ones((2048, 2048), np.float32)
    return 2 * left.size * right.shape[1] / fastest(lambda: left @ right)


def _int4_peak() -> float:
    width, rows = 4096, 256
    session = load_onnxruntime().InferenceSession(int4_matmul(width, width), providers=["CPUExecutionProvider"])
    feed = {"x": np.ones((rows, width), np.float32)}
    return 2 * rows * width * width / fastest(lambda: session.run(None, feed))


def floors(manifest: Manifest, variant: Variant, ceilings: Ceilings) -> dict[str, Floor]:
    """The floor of every stage whose work follows from the manifest; empty without ceilings."""
    g, prompt = manifest.geometry, manifest.prompt
    if ceilings.bandwidth_gbs is None or ceilings.float32_gflops is None:
        return {}
    vision = manifest.files[manifest.vision].size
    # The tower's shape is not in the manifest: count one multiplication per float32 weight and row, without attention.
    work = {"vision": (2 * vision / 4 * prompt.image_rows, float(vision), ceilings.float32_gflops)}
    if g.intermediate_size:
        # The runtime may unpack int4 weights and multiply them as floats.
        peak = max(ceilings.int4_gflops or 0, ceilings.float32_gflops)
        prefix, question = len(prompt.prefix_ids) + prompt.image_rows, _question_rows(manifest)
        for name, rows, past in (
            ("prefill", prefix, 0),
            ("question", question, prefix),
            ("step", 1, prefix + question),
        ):
            flops = 2.0 * (rows * g.layer_weights + g.vocabulary * g.hidden_size)
            flops += 4 * rows * (past + rows / 2) * g.layers * g.heads * g.head_size
            work[name] = (flops, _bytes(manifest, variant, past), peak)
    return {name: _floor(*needs, ceilings.bandwidth_gbs) for name, needs in work.items()}


def _floor(flops: float, size: float, gflops: float, bandwidth_gbs: float) -> Floor:
    compute, memory = flops / gflops / 1e6, size / bandwidth_gbs / 1e6
    bound: Literal["compute", "memory"] = "compute" if compute > memory else "memory"
    return Floor(flops=flops, bytes=size, ms=max(compute, memory), bound=bound)


def _question_rows(manifest: Manifest) -> int:
    return len(next(iter(manifest.prompt.questions.values())).token_ids)


def _bytes(manifest: Manifest, variant: Variant, past: int) -> float:
    """Bytes that one decoder call reads: all weights, and the keys and values of `past` positions."""
    return manifest.decoder_bytes(variant) + past * Memory.row_bytes(manifest.geometry, variant)
