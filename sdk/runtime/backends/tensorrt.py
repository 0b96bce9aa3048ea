"""The two encoders as TensorRT engines, built on this machine by `emola engines`; they combine with any decoder.

cuda-python manages memory and streams. An engine runs only with one TensorRT version and on one GPU architecture, which
`engines.json` records. On another machine it is refused with the command that rebuilds it.
"""

import importlib
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from sdk.arrays import Floats
from sdk.bundles.files import ENGINES, FileRecord, FrozenModel, RelativePath, file_sha256
from sdk.bundles.manifest import Manifest
from sdk.bundles.measured import FLOAT32_TOLERANCE
from sdk.errors import BackendError, DependencyError
from sdk.untrusted_json import read_json

RECORD = "engines.json"


class Platform(FrozenModel):
    """GPU and library versions, which decide whether an engine runs.

    Attributes:
        sm: compute capability of the GPU, e.g. "8.7".
        tensorrt: version of TensorRT, e.g. "10.3.0".
        cuda: CUDA version of the runtime, e.g. "12.6"; recorded, not compared.
        driver: CUDA version of the driver; recorded, not compared.
        gpu: its name; recorded, not compared; "" in records from before it was kept.
    """

    sm: str
    tensorrt: str
    cuda: str
    driver: str
    gpu: str = ""

    @property
    def folder(self) -> str:
        """Name of the folder in `engines` that holds the engine files."""
        return f"sm{self.sm.replace('.', '')}-trt{self.tensorrt}"


class EngineFile(FrozenModel):
    """One engine file, beside `engines.json`.

    Attributes:
        graph: the files of the bundle that it was built from; the engine is valid while they stay the same.
        max_batch: largest batch of faces.
        relative_error: parity, measured when it was built.
        p50_ms: median latency by batch size.
        p95_ms: 95th percentile of the latency by batch size.
    """

    file: RelativePath
    sha256: str
    graph: dict[RelativePath, FileRecord]
    max_batch: int
    relative_error: float
    p50_ms: dict[int, float]
    p95_ms: dict[int, float]

    @property
    def tolerance(self) -> float:
        """Largest relative error that passes: twice what was measured when the engine was built."""
        return max(2 * self.relative_error, FLOAT32_TOLERANCE)


class EngineRecord(FrozenModel):
    """`engines.json`: the machine that the engine files beside it were built for, and those files by encoder.

    Attributes:
        verdict: latency of the vision engine beside the plan of this machine; "" in records from before it was judged.
        fast_enough: whether it is within the plan; None if there is no plan of this machine.
    """

    platform: Platform
    plans: dict[str, EngineFile]
    verdict: str = ""
    fast_enough: bool | None = None


def load_tensorrt() -> Any:
    """Import the module `tensorrt`.

    Raises:
        DependencyError: it is not installed.
    """
    return _load("tensorrt", "tensorrt")


def load_cuda() -> Any:
    """Import the CUDA runtime module of cuda-python.

    Raises:
        DependencyError: it is not installed.
    """
    return _load("cuda.bindings.runtime", "cuda-python")


def _load(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        purpose = "run engines (the ONNX variant of the bundle works without it)"
        raise DependencyError(package, "tensorrt", purpose) from None


def this_platform() -> Platform:
    """Find the GPU and the library versions of this machine.

    Raises:
        BackendError: there is no GPU.
    """
    cuda, tensorrt = load_cuda(), load_tensorrt()
    attribute = cuda.cudaDeviceAttr
    major = check(cuda, cuda.cudaDeviceGetAttribute(attribute.cudaDevAttrComputeCapabilityMajor, 0))
    minor = check(cuda, cuda.cudaDeviceGetAttribute(attribute.cudaDevAttrComputeCapabilityMinor, 0))
    versions = (check(cuda, call()) for call in (cuda.cudaRuntimeGetVersion, cuda.cudaDriverGetVersion))
    runtime, driver = (f"{number // 1000}.{number % 1000 // 10}" for number in versions)
    gpu = check(cuda, cuda.cudaGetDeviceProperties(0)).name.decode(errors="replace").strip("\0 ")
    return Platform(sm=f"{major}.{minor}", tensorrt=tensorrt.__version__, cuda=runtime, driver=driver, gpu=gpu)


def check(cuda: Any, result: Any) -> Any:
    """Return the value of a CUDA call, whose result is an error code and a value.

    Raises:
        BackendError: the call failed.
    """
    error, *values = result
    if error != cuda.cudaError_t.cudaSuccess:
        raise BackendError(f"CUDA: {error.name}; is there an NVIDIA GPU with a driver, and memory left on it?")
    return values[0] if values else None


class TensorRTEncoder:
    """One engine. It takes batched float32 arrays in the order of its inputs and returns one float32 array.

    Threads take turns, because all calls share one execution context and its device memory.

    Args:
        plan: serialised engine with one optimisation profile.
        max_batch: largest batch of that profile; larger batches run in parts.
    """

    def __init__(self, plan: Path, max_batch: int) -> None:
        trt, self._cuda = load_tensorrt(), load_cuda()
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise BackendError(f"TensorRT {trt.__version__} cannot load {plan}; build it again with `emola engines`")
        self._context = self._engine.create_execution_context()
        self._max_batch = max_batch
        self._stream = check(self._cuda, self._cuda.cudaStreamCreate())
        self._memory: dict[str, tuple[int, int]] = {}
        self._free = weakref.finalize(self, _free, self._cuda, self._memory, self._stream)
        self._free.atexit = False  # the end of the process frees everything
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        (self._output,) = (name for name in names if name not in self._inputs)
        self._running = threading.Lock()

    def __call__(self, *arrays: Floats) -> Floats:
        count = self._max_batch
        with self._running:
            pieces = [self._run([a[at : at + count] for a in arrays]) for at in range(0, len(arrays[0]), count)]
        return np.concatenate(pieces)

    def _run(self, arrays: list[Floats]) -> Floats:
        """Run one batch that fits the profile."""
        cuda, kind = self._cuda, self._cuda.cudaMemcpyKind
        for name, given in zip(self._inputs, arrays, strict=True):
            array = np.ascontiguousarray(given, np.float32)
            address = self._bind(name, array.nbytes)
            if not self._context.set_input_shape(name, array.shape):
                raise BackendError(f"the engine takes no {name} of shape {array.shape}; build it with `emola engines`")
            copy = (address, array.ctypes.data, array.nbytes, kind.cudaMemcpyHostToDevice, self._stream)
            check(cuda, cuda.cudaMemcpyAsync(*copy))
        result = np.empty(tuple(self._context.get_tensor_shape(self._output)), np.float32)
        address = self._bind(self._output, result.nbytes)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError("TensorRT could not run the engine; build it again with `emola engines`")
        copy = (result.ctypes.data, address, result.nbytes, kind.cudaMemcpyDeviceToHost, self._stream)
        check(cuda, cuda.cudaMemcpyAsync(*copy))
        check(cuda, cuda.cudaStreamSynchronize(self._stream))
        return result

    def _bind(self, name: str, size: int) -> int:
        """Bind a tensor to device memory, which is kept until more is needed; returns its address."""
        address, room = self._memory.get(name, (0, 0))
        if size > room:
            if address:
                del self._memory[name]
                check(self._cuda, self._cuda.cudaFree(address))
            address = int(check(self._cuda, self._cuda.cudaMalloc(size)))
            self._memory[name] = (address, size)
        self._context.set_tensor_address(name, address)
        return address

    def close(self) -> None:
        """Free device memory and stream. The encoder cannot run afterwards."""
        self._free()


def _free(cuda: Any, memory: dict[str, tuple[int, int]], stream: Any) -> None:
    while memory:
        _, (address, _) = memory.popitem()
        check(cuda, cuda.cudaFree(address))
    check(cuda, cuda.cudaStreamDestroy(stream))


def engine_graphs(manifest: Manifest) -> dict[str, RelativePath]:
    """The ONNX file of each encoder, from which its engine is built."""
    graphs = {"vision": manifest.vision_half or manifest.vision}
    return {**graphs, "landmark": manifest.landmark} if manifest.landmark else graphs


def graph_files(manifest: Manifest, graph: RelativePath) -> dict[RelativePath, FileRecord]:
    """Records of an ONNX file and of the file beside it that holds its weights, if there is one."""
    return {name: manifest.files[name] for name in (graph, f"{graph}.data") if name in manifest.files}


@dataclass(frozen=True)
class Engines:
    """The opened engines of a bundle and their largest relative errors, by encoder."""

    encoders: Mapping[str, TensorRTEncoder]
    tolerances: Mapping[str, float]


def open_engines(bundle: Path, manifest: Manifest) -> Engines:
    """Open the engines of a bundle for this machine.

    Raises:
        BackendError: there are none, or they are for another machine, TensorRT version or graph.
    """
    here, rebuild = this_platform(), f"build them here: emola engines {bundle}"
    known = sorted(path.parent.name for path in (bundle / ENGINES).glob(f"*/{RECORD}"))
    folder = bundle / ENGINES / here.folder
    if folder.name not in known:
        raise BackendError(
            f"no engines for SM {here.sm} and TensorRT {here.tensorrt} (there are: {', '.join(known) or 'none'}); "
            f"{rebuild}"
        )
    try:
        record = EngineRecord.model_validate(read_json(folder / RECORD, BackendError, advice=rebuild))
    except ValidationError:
        raise BackendError(f"{folder / RECORD} is damaged or of another version; {rebuild}") from None
    if (record.platform.sm, record.platform.tensorrt) != (here.sm, here.tensorrt):
        raise BackendError(
            f"the engines in {folder} are for SM {record.platform.sm} and TensorRT {record.platform.tensorrt}, this "
            f"machine has SM {here.sm} and TensorRT {here.tensorrt}; {rebuild}"
        )
    graphs = engine_graphs(manifest)
    for name, plan in record.plans.items():
        if name not in graphs or plan.graph != graph_files(manifest, graphs[name]):
            raise BackendError(f"the {name} engine in {folder} was built from another graph; {rebuild}")
        if not (folder / plan.file).is_file() or file_sha256(folder / plan.file) != plan.sha256:
            raise BackendError(f"{folder / plan.file} is missing or was changed since it was built; {rebuild}")
    return Engines(
        {name: TensorRTEncoder(folder / plan.file, plan.max_batch) for name, plan in record.plans.items()},
        {name: plan.tolerance for name, plan in record.plans.items()},
    )
