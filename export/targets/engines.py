"""Build TensorRT engines of a bundle's encoders on the machine that will run them. Needs no torch.

One code path serves TensorRT 10.3 to 11: networks are strongly typed, so that the precision is that of the ONNX graph
and the flags that version 11 removed are not needed. Each engine is compared with the reference vectors of the bundle,
and its latency is measured, before it is kept.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.targets.here import machine_name
from export.targets.latency import StageTime
from export.targets.machines import TARGETS, find_target, recognise
from export.targets.plan import encoder_weights, plan, workload_of
from sdk.arrays import Floats
from sdk.bundles.files import ENGINES, FileRecord, RelativePath, file_sha256
from sdk.bundles.manifest import Manifest, read_manifest
from sdk.errors import ExportError
from sdk.files import replacing, write_file
from sdk.runtime.backends.tensorrt import (
    RECORD,
    EngineFile,
    EngineRecord,
    TensorRTEncoder,
    engine_graphs,
    graph_files,
    load_tensorrt,
    this_platform,
)
from sdk.runtime.verify import Reference

_TOLERANCE = 2e-2  # relative error in float16, with tensor cores
_ROUNDS = 50


@dataclass(frozen=True)
class EngineOptions:
    """How to build engines.

    Attributes:
        batches: batch sizes to measure, rising; an engine takes 1 to the last and is tuned for the middle one.
        workspace: bytes that the builder may use.
        latency_factor: how many times the planned time of the vision engine is allowed.
    """

    batches: tuple[int, ...] = (1, 4)
    workspace: int = 2 << 30
    latency_factor: float = 1.5

    def __post_init__(self) -> None:
        if not self.batches or list(self.batches) != sorted(set(self.batches)) or self.batches[0] < 1:
            raise ExportError(f"batch sizes must be positive and rise, e.g. 1,4; found {self.batches}")


def build_engines(
    bundle: Path,
    options: EngineOptions,
    target: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> EngineRecord:
    """Build and measure the engines of a bundle for this machine and write them into the bundle.

    Args:
        bundle: folder of a sealed bundle.
        options: how to build.
        target: key of the target that this machine must be; None: its GPU's name tells which it is.
        report: called with one line per step.

    Returns:
        The record that is written beside the engines.

    Raises:
        DependencyError: TensorRT or cuda-python is missing; the ONNX variant works without them.
        ExportError: this machine is not the target, a graph cannot be built, or an engine does not compute what torch
            computed; nothing is kept.
    """
    manifest = read_manifest(bundle)
    here = this_platform()
    wanted = find_target(target) if target else None
    if wanted and wanted.sm != here.sm:
        raise ExportError(
            f"{wanted.title} has SM {wanted.sm}, this machine SM {here.sm}: engines are built on the machine that runs "
            "them; run this command there, or use --target auto"
        )
    with replacing(bundle / ENGINES / here.folder, folder=True) as folder:
        plans = _build_all(bundle, manifest, options, folder, report)
        time, verdict = _judge(
            bundle,
            manifest,
            plans["vision"],
            target or recognise(f"{machine_name()}, {here.gpu}"),
            options.latency_factor,
        )
        report(verdict)
        passed = time.passed if time else None
        record = EngineRecord(platform=here, plans=plans, verdict=verdict, fast_enough=passed)
        (folder / RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")
    return record


def _judge(
    bundle: Path, manifest: Manifest, vision: EngineFile, target: str | None, factor: float
) -> tuple[StageTime | None, str]:
    """The vision engine's time at its smallest batch beside the plan of a target, and this in one line."""
    if target is None:
        known = ", ".join(name for name, machine in TARGETS.items() if machine.sm)
        return None, f"latency not judged: this GPU is not a known target; name the nearest with --target ({known})"
    batch = min(vision.p50_ms)
    planned = plan(target, TARGETS[target], workload_of(manifest, encoder_weights(bundle, manifest)))
    time = StageTime("vision", vision.p50_ms[batch], vision.p95_ms[batch], batch * planned.stages_ms["vision"], factor)
    return time, f"{'within' if time.passed else 'outside'} the plan of {target}, batch {batch}: {time}"


def _build_all(
    bundle: Path, manifest: Manifest, options: EngineOptions, folder: Path, report: Callable[[str], None]
) -> dict[str, EngineFile]:
    reference = Reference.load(bundle / manifest.reference)
    inputs: dict[str, tuple[Floats, ...]] = {
        "vision": (reference.pixel_values, reference.landmark_features),
        "landmark": (reference.landmark_pixels,),
    }
    expected = {"vision": reference.rows, "landmark": reference.landmark_features}
    cache, plans = bundle / ENGINES / "timing.cache", {}
    for name, graph in engine_graphs(manifest).items():
        if not len(inputs[name][0]):
            continue  # the reference has no inputs to measure it with
        report(f"{name}: building ...")
        path = folder / f"{name}.plan"
        path.write_bytes(build_plan(bundle / graph, options, cache))
        encoder = TensorRTEncoder(path, options.batches[-1])
        plans[name] = _measure(path, encoder, inputs[name], expected[name], options, graph_files(manifest, graph))
        encoder.close()
        report(f"{name}: relative error {plans[name].relative_error:.1e}, p50 {plans[name].p50_ms} ms")
    return plans


def build_plan(graph: Path, options: EngineOptions, cache: Path) -> bytes:
    """Build a serialised engine.

    Args:
        graph: ONNX file whose inputs have one dynamic dimension, the batch.
        options: how to build.
        cache: file of the timing cache; read if it exists, and written.

    Raises:
        ExportError: TensorRT cannot read the graph or build an engine of it.
    """
    trt = load_tensorrt()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise ExportError(f"TensorRT {trt.__version__} cannot read {graph}: {reasons}; the ONNX variant still works")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    config.add_optimization_profile(_profile(builder, network, options.batches))
    timings = config.create_timing_cache(cache.read_bytes() if cache.is_file() else b"")
    config.set_timing_cache(timings, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(
            f"TensorRT {trt.__version__} found no way to build {graph.name} in {options.workspace / 1e9:.1f} GB; "
            "pass a larger --workspace; the ONNX variant still works"
        )
    write_file(cache, bytes(timings.serialize()))
    return bytes(plan)


def _profile(builder: Any, network: Any, batches: tuple[int, ...]) -> Any:
    """One optimisation profile over the batch of every input, from 1: a large batch is split and may leave one face."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        shapes = [(batch, *rest) for batch in (1, batches[len(batches) // 2], batches[-1])]
        profile.set_shape(tensor.name, *shapes)
    return profile


def _measure(
    path: Path,
    encoder: TensorRTEncoder,
    inputs: tuple[Floats, ...],
    expected: Floats,
    options: EngineOptions,
    graph: dict[RelativePath, FileRecord],
) -> EngineFile:
    """Parity, then latency for each batch size.

    Raises:
        ExportError: the engine does not compute what torch computed.
    """
    difference = encoder(*inputs).astype(np.float64) - expected
    error = float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))
    if not error <= _TOLERANCE:
        raise ExportError(
            f"the {path.stem} engine differs from torch by {error:.1e} (relative), {_TOLERANCE:.0e} is allowed; "
            "it was not kept. Try another TensorRT version; the ONNX variant still works"
        )
    times = {batch: _latency(encoder, inputs, batch) for batch in options.batches}
    return EngineFile(
        file=path.name,
        sha256=file_sha256(path),
        graph=graph,
        max_batch=options.batches[-1],
        relative_error=error,
        p50_ms={batch: round(statistics.median(found), 3) for batch, found in times.items()},
        p95_ms={batch: round(float(np.percentile(found, 95)), 3) for batch, found in times.items()},
    )


def _latency(encoder: TensorRTEncoder, inputs: tuple[Floats, ...], batch: int) -> list[float]:
    """Milliseconds of some runs, copies to and from the device included."""
    arrays = [np.resize(array, (batch, *array.shape[1:])) for array in inputs]
    times = []
    for _ in range(_ROUNDS + 5):
        begin = time.perf_counter()
        encoder(*arrays)
        times.append(1000 * (time.perf_counter() - begin))
    return times[5:]
