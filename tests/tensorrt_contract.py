"""`python tests/tensorrt_contract.py BUNDLE`: build, load and run engines against the real bindings' classes.

With more words it runs them as one command of `emola` on the same stand-ins.

Every class is an autospec of the real class and every other name is the real one, so names that do not exist in this
version fail. ONNX Runtime computes the results, and host memory stands in for device memory, so wrong addresses, shapes
and copies fail too.
"""

import ctypes
import gc
import json
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import onnxruntime
import pytest
import tensorrt_bindings as real
from cuda.bindings import runtime as real_cuda

MEMORY: dict[int, ctypes.Array] = {}
STREAMS: list[int] = []
SUCCESS = real_cuda.cudaError_t.cudaSuccess


class Names(types.ModuleType):
    """A module with the given stand-ins; every other name must exist in the real one."""

    def __init__(self, name, module, stand_ins):
        super().__init__(name)
        missing = [each for each in stand_ins if not hasattr(module, each)]
        assert not missing, f"{missing} do not exist in {module.__name__}"
        vars(self).update(stand_ins)
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)


def builder(logger):
    made = create_autospec(real.Builder, instance=True)
    made.create_network.side_effect = network
    made.create_builder_config.side_effect = config
    made.create_optimization_profile.side_effect = profile
    made.build_serialized_network.side_effect = lambda net, conf: bytes(net.graph, "utf-8")
    return made


def network(flags):
    assert flags == 1 << int(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return create_autospec(real.INetworkDefinition, instance=True)


def parser(net, logger):
    made = create_autospec(real.OnnxParser, instance=True)

    def parse_from_file(path):
        net.graph = path
        tensors = []
        for given in onnxruntime.InferenceSession(path).get_inputs():
            tensor = create_autospec(real.ITensor, instance=True)
            tensor.name, tensor.shape = given.name, (-1, *given.shape[1:])
            tensors.append(tensor)
        net.num_inputs, net.get_input.side_effect = len(tensors), tensors.__getitem__
        return True

    made.parse_from_file.side_effect = parse_from_file
    return made


def config():
    made = create_autospec(real.IBuilderConfig, instance=True)
    cache = create_autospec(real.ITimingCache, instance=True)
    cache.serialize.return_value = b"timings"
    made.create_timing_cache.side_effect = lambda content: cache if content in (b"", b"timings") else None
    made.set_timing_cache.side_effect = lambda given, ignore: given is cache
    made.add_optimization_profile.return_value = 0
    return made


def profile():
    made = create_autospec(real.IOptimizationProfile, instance=True)

    def set_shape(name, least, usual, most):
        assert all(len(shape) in (2, 4) and -1 not in shape for shape in (least, usual, most)), name
        assert 1 == least[0] <= usual[0] <= most[0], "a picture may hold one face"

    made.set_shape.side_effect = set_shape
    return made


def runtime(logger):
    made = create_autospec(real.Runtime, instance=True)
    made.deserialize_cuda_engine.side_effect = engine
    return made


def engine(plan):
    session = onnxruntime.InferenceSession(bytes(plan).decode())
    inputs, outputs = ([v.name for v in part] for part in (session.get_inputs(), session.get_outputs()))
    made = create_autospec(real.ICudaEngine, instance=True)
    names = [*inputs, *outputs]
    made.num_io_tensors, made.get_tensor_name.side_effect = len(names), names.__getitem__
    mode = real.TensorIOMode
    made.get_tensor_mode.side_effect = lambda name: mode.INPUT if name in inputs else mode.OUTPUT
    made.create_execution_context.side_effect = lambda: context(session, inputs, outputs[0])
    return made


def context(session, inputs, output):
    made = create_autospec(real.IExecutionContext, instance=True)
    shapes, addresses = {}, {}
    made.set_input_shape.side_effect = lambda name, shape: shapes.update({name: shape}) or True
    made.set_tensor_address.side_effect = lambda name, address: addresses.update({name: address}) or True

    def read(name):
        count = int(np.prod(shapes[name]))
        floats = ctypes.cast(addresses[name], ctypes.POINTER(ctypes.c_float * count)).contents
        return np.array(floats, np.float32).reshape(shapes[name])

    def result_shape(name):
        assert name == output
        return session.run(None, {each: np.zeros(shapes[each], np.float32) for each in inputs})[0].shape

    def execute(stream):
        assert stream == 7
        result = np.ascontiguousarray(session.run(None, {name: read(name) for name in inputs})[0])
        ctypes.memmove(addresses[output], result.ctypes.data, result.nbytes)
        return True

    made.get_tensor_shape.side_effect = result_shape
    made.execute_async_v3.side_effect = execute
    return made


def malloc(size):
    buffer = ctypes.create_string_buffer(size)
    MEMORY[ctypes.addressof(buffer)] = buffer
    return SUCCESS, ctypes.addressof(buffer)


def copy(target, source, size, kind, stream):
    kinds = real_cuda.cudaMemcpyKind
    assert stream == 7
    assert kind in (kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost)
    assert (target if kind == kinds.cudaMemcpyHostToDevice else source) in MEMORY
    ctypes.memmove(target, source, size)
    return (SUCCESS,)


def attribute(which, device):
    names = real_cuda.cudaDeviceAttr
    return SUCCESS, {names.cudaDevAttrComputeCapabilityMajor: 8, names.cudaDevAttrComputeCapabilityMinor: 7}[which]


def properties(device):
    found = real_cuda.cudaDeviceProp()
    found.name = b"Orin".ljust(256, b"\0")  # that of every Jetson Orin: the name of the board tells them apart
    return SUCCESS, found


def pretend() -> types.ModuleType:
    """Install the stand-ins in `sys.modules`, where the code under test imports them."""
    tensorrt = Names(
        "tensorrt", real, {"Builder": builder, "OnnxParser": parser, "Runtime": runtime, "Logger": logger_class()}
    )
    cuda = Names(
        "runtime",
        real_cuda,
        {
            "cudaMalloc": malloc,
            "cudaFree": lambda address: (SUCCESS, MEMORY.pop(address))[:1],
            "cudaMemcpyAsync": copy,
            "cudaStreamCreate": lambda: (SUCCESS, STREAMS.append(7) or 7),
            "cudaStreamDestroy": lambda stream: (SUCCESS, STREAMS.remove(stream))[:1],
            "cudaStreamSynchronize": lambda stream: (SUCCESS,),
            "cudaDeviceGetAttribute": attribute,
            "cudaGetDeviceProperties": properties,
            "cudaRuntimeGetVersion": lambda: (SUCCESS, 12060),
            "cudaDriverGetVersion": lambda: (SUCCESS, 12080),
        },
    )
    tensorrt.__version__ = real.__version__
    sys.modules["tensorrt"] = tensorrt
    sys.modules["cuda.bindings.runtime"] = cuda
    return tensorrt


def logger_class():
    made = create_autospec(real.Logger)
    made.WARNING, made.ERROR = real.Logger.WARNING, real.Logger.ERROR
    return made


def check_bound_to_graphs(bundle: Path, folder: Path) -> None:
    """New measurements in a bundle leave its engines valid; other graphs, files and paths do not."""
    from sdk.bundles.manifest import read_manifest
    from sdk.errors import BackendError
    from sdk.runtime.backends.tensorrt import open_engines

    manifest, text = read_manifest(bundle), (folder / "engines.json").read_text()
    judged = manifest.model_copy(update={"gate": None, "calibration": (), "digest": "judged again"})
    assert sorted(open_engines(bundle, judged).encoders) == ["landmark", "vision"]
    other = manifest.files[manifest.vision].model_copy(update={"sha256": "0" * 64})
    for changed, record, message in (
        (manifest.model_copy(update={"files": {**manifest.files, manifest.vision: other}}), text, "another graph"),
        (manifest, text.replace("vision.plan", "../vision.plan"), "damaged"),
        (manifest, text.replace("vision.plan", "no.plan"), "is missing or was changed"),
        (manifest, text.replace('"landmark": {', '"decoder": {'), "another graph"),
    ):
        (folder / "engines.json").write_text(record)
        with pytest.raises(BackendError, match=message):
            open_engines(bundle, changed)
    (folder / "engines.json").write_text(text)
    gc.collect()


def check_judged(bundle: Path, folder: Path) -> None:
    """The record says how the time of the vision engine compares with the plan; what has no plan is not judged."""
    from export.targets.engines import EngineOptions, build_engines

    record = json.loads((folder / "engines.json").read_text())
    assert record["platform"]["gpu"] == "Orin"
    assert record["fast_enough"] is None
    assert "this GPU is not a known target" in record["verdict"]
    for factor, expected in ((1e9, True), (1e-9, False)):
        judged = build_engines(bundle, EngineOptions((2, 3), latency_factor=factor), "agx-orin-64")
        assert judged.fast_enough is expected
        assert f"at most {factor:g} times is allowed" in judged.verdict
    gc.collect()


def check_whole_analysis(bundle: Path, picture: np.ndarray) -> None:
    """`Analyzer.analyze` with engines gives the answers of ONNX Runtime, and the result names what ran."""
    from sdk import Analyzer

    readings = {}
    for device in ("cpu", "tensorrt", "auto"):
        with Analyzer(bundle, device=device) as analyzer:
            readings[device] = analyzer.analyze(picture, faces="aligned", color="rgb")
    names = {device: analysis.model.backend for device, analysis in readings.items()}
    assert names == {"cpu": "ort-float32", "tensorrt": "tensorrt+ort-float32", "auto": "tensorrt+ort-float32"}, names
    cpu, engines, auto = (readings[device].faces[0] for device in ("cpu", "tensorrt", "auto"))
    assert cpu.emotion == engines.emotion == auto.emotion
    assert cpu.action_units_text == engines.action_units_text == auto.action_units_text
    assert cpu.emotion.description, "nothing was answered"
    gc.collect()


def check_gptq(bundle: Path) -> None:
    """Engines for the encoders and the GPTQ decoder open together and answer; its kernels run as their reference."""
    import torch  # noqa: F401  the one part of the contract that needs it

    from sdk import Analyzer
    from sdk.runtime.backends import select

    pretend()
    assert command("engines", str(bundle)) == 0
    features = np.zeros(212, np.float32)
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    open_decoder = select.open_decoder

    def on_cpu(folder, embeddings, geometry, device, room):
        assert device == "cuda"
        return open_decoder(folder, embeddings, geometry, "cpu", room)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "check_gpu", lambda: None)
        patch.setattr(select, "open_decoder", on_cpu)
        for device in ("tensorrt", "auto"):
            with Analyzer(bundle, device=device) as analyzer:
                found = analyzer.analyze(picture, faces="aligned", color="rgb", landmark_features=features)
            assert found.model.backend == "tensorrt+gptq-cuda-int4"
            assert found.faces[0].emotion.description, "nothing was answered"


def run(bundle: Path) -> None:
    from sdk.bundles.manifest import read_manifest
    from sdk.cli import main
    from sdk.errors import BackendError
    from sdk.runtime.backends.select import open_backend
    from sdk.runtime.pipeline import Pipeline
    from sdk.runtime.verify import Reference, measure_parity

    tensorrt = pretend()
    manifest = read_manifest(bundle)
    assert main(["engines", str(bundle), "--batch", "2,3"]) == 0
    folder = bundle / "engines" / f"sm87-trt{real.__version__}"
    check_judged(bundle, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["engines.json", "landmark.plan", "vision.plan"]
    assert (folder.parent / "timing.cache").read_bytes() == b"timings"
    assert not list(folder.parent.glob("*.partial")), "something was not renamed into place"
    assert not [*MEMORY, *STREAMS], "device memory or streams were not given back"
    backend = open_backend(bundle, manifest, "tensorrt")
    assert backend.name.startswith("tensorrt+")
    reference = Reference.load(bundle / manifest.reference)
    for parity in measure_parity(Pipeline(bundle, manifest, backend), reference):
        assert parity.passed, parity
    pixels, features = (np.resize(a, (7, *a.shape[1:])) for a in (reference.pixel_values, reference.landmark_features))
    expected = open_backend(bundle, manifest, "cpu").vision(pixels, features)
    np.testing.assert_allclose(backend.vision(pixels, features), expected, atol=1e-4)
    parts = [(pixels[at : at + 1], features[at : at + 1]) for at in range(7)] * 20
    with ThreadPoolExecutor(4) as pool:  # each thread gets the rows of its own picture
        together = np.concatenate(list(pool.map(lambda part, vision=backend.vision: vision(*part), parts)))
    np.testing.assert_allclose(together, np.tile(expected, (20, 1, 1)), atol=1e-4)
    assert main(["verify", str(bundle)]) == 0, "engines beside a bundle change nothing of what was sealed"
    assert main(["verify", str(bundle), "--device", "tensorrt"]) == 0
    del backend
    check_whole_analysis(bundle, np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    gc.collect()
    assert not [*MEMORY, *STREAMS], "device memory or streams outlived their backend"
    check_bound_to_graphs(bundle, folder)
    tensorrt.__version__ = "9.9.9"
    with pytest.raises(BackendError, match="SM 8.7 and TensorRT 9.9.9") as refused:
        open_backend(bundle, manifest, "tensorrt")
    assert f"emola engines {bundle}" in str(refused.value)
    assert "tensorrt" not in open_backend(bundle, manifest).name, "auto goes on with ONNX Runtime"
    assert "torch" not in sys.modules


def command(*words: str) -> int:
    """Run one command of `emola` on the stand-ins."""
    from sdk.cli import main

    pretend()
    return main(words)


if __name__ == "__main__":
    if sys.argv[1] == "--gptq":
        check_gptq(Path(sys.argv[2]))
        sys.exit(sys.stdout.write("contract holds") == 0)
    if len(sys.argv) > 2:
        sys.exit(command(*sys.argv[1:]))
    run(Path(sys.argv[1]))
    sys.stdout.write("contract holds")
