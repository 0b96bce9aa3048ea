"""ONNX Runtime on CPU and CUDA: which variant opens on which device, and float16 compared with float32."""

import json
import logging
import mmap
import re
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import GOLDEN
from onnx import helper, numpy_helper

from export.build import export_bundle
from export.options import ExportOptions
from sdk.bundles.manifest import read_manifest
from sdk.cli import main
from sdk.errors import BackendError, GraphError
from sdk.mapped_pages import drop_pages
from sdk.onnx_session import open_session
from sdk.runtime.backends.ort import OrtEncoder
from sdk.runtime.backends.ort_pool import OrtPool
from sdk.runtime.backends.select import open_backend, open_variant
from sdk.runtime.generate import Generation
from sdk.runtime.memory import Memory
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference

CUDA = "CUDAExecutionProvider"


@pytest.fixture(scope="module", params=["int4", "none"])
def folder(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("cuda") / request.param
    adapter, base, clip = (str(GOLDEN / name) for name in ("llava-lora-emola-trained", "llava-base", "clip"))
    export_bundle(ExportOptions(adapter, base, folder, clip, quantize=request.param, cuda=True))
    return folder


def pipelines(folder):
    """The float16 and the float32 variant, both on the CPU."""
    manifest = read_manifest(folder)
    return [Pipeline(folder, manifest, open_variant(folder, manifest, v, device="cpu")) for v in manifest.variants]


def test_both_variants_share_every_weight(folder):
    """The half graph has no data of its own: quantised values are the same bytes, and only logits are float32."""
    variants = read_manifest(folder).variants
    assert variants[0].external == variants[1].external
    half, whole = (onnx.load(folder / variant.decoder).graph for variant in variants)
    stored = [{t.name.removesuffix(".float32"): numpy_helper.to_array(t) for t in g.initializer} for g in (half, whole)]
    assert stored[0].keys() == stored[1].keys()
    for name, expected in stored[1].items():
        np.testing.assert_array_equal(stored[0][name], expected, err_msg=name)
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*half.input, *half.output)}
    assert [name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT] == ["logits"]
    assert kinds["inputs_embeds"] == kinds["present.0.key"] == onnx.TensorProto.FLOAT16


def test_float16_computes_what_float32_computes(folder):
    """Logits of 12 answer tokens on each golden face within 1 %, or 4 % if float32 rounds activations to 8 bits.

    The most probable token is the same in 19 of 20 places. ONNX Runtime's CPU kernels take float16 for every operator
    of the graph, so this runs anywhere.
    """
    half, whole = pipelines(folder)
    reference, equal = Reference.load(folder / "reference.npz"), []
    limit = 0.01 if whole.backend.variant.precision == "float32" else 0.04
    for rows, features in zip(reference.rows, reference.landmark_features, strict=True):
        ids = list(whole.question_ids("emotion"))
        ids += answer(whole, rows, features)[:-1]
        found, expected = (read(pipeline, rows, features, ids) for pipeline in (half, whole))
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert 0 < error < limit, f"relative error {error:.2e}, at most {limit:.0e}"
        equal.append(found.argmax(-1) == expected.argmax(-1))
    assert np.mean(equal) >= 0.95, f"{100 * np.mean(equal):.0f} % of {np.size(equal)} tokens are equal"


def answer(pipeline, rows, features) -> list[int]:
    with pipeline.encode_rows(rows, features) as face:
        ids = pipeline.question_ids("emotion")
        return list(Generation(pipeline.backend.decoder, face.rewind(), ids, stop_ids=(), max_new_tokens=12))


def read(pipeline, rows, features, ids):
    """(12, vocabulary) logits after the last 12 of some ids."""
    decoder = pipeline.backend.decoder
    with pipeline.encode_rows(rows, features) as face:
        return decoder.extend(face.rewind(), decoder.embed(ids), last=12).copy()


def test_the_half_cache_takes_half_the_memory(folder):
    manifest = read_manifest(folder)
    half, whole = (Memory.of(manifest, variant).per_face for variant in manifest.variants)
    assert whole == 2 * half


@pytest.fixture
def providers(monkeypatch):
    """Pretend that ONNX Runtime has CUDA: it computes on the CPU and records the arguments of each session."""
    asked = []

    class Session(onnxruntime.InferenceSession):
        starts = True

        def __init__(self, path, options, providers):
            asked.append(providers)
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return [CUDA] if self.starts else ["CPUExecutionProvider"]

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setattr(OrtPool, "__init__", partialmethod(_on_the_cpu, OrtPool.__init__))
    return asked


def _on_the_cpu(pool, initialise, geometry, capacity, sequences, dtype, device) -> None:
    assert dtype == np.float16 or device == "cpu"
    initialise(pool, geometry, capacity, sequences, dtype, "cpu")


def test_auto_takes_cuda_where_it_runs(folder, providers):
    manifest = read_manifest(folder)
    for device in ("auto", "cuda"):
        backend = open_backend(folder, manifest, device)
        assert backend.variant.device == "cuda"
        assert [p[0] for p in providers] == [(CUDA, {"use_tf32": "0"})] * 2, "the vision encoder and the decoder"
        providers.clear()
    assert open_backend(folder, manifest, "cpu").variant.device == "cpu"
    assert providers == [["CPUExecutionProvider"]] * 2


def test_inputs_reach_a_device_that_copies_them_when_they_are_bound(folder, providers, monkeypatch):
    """As on CUDA: every call must bind its inputs again, or it would read those of the first call."""
    manifest, reference = read_manifest(folder), Reference.load(folder / "reference.npz")
    face = reference.rows[0], reference.landmark_features[0]
    expected = answer(pipelines(folder)[0], *face)
    bind = onnxruntime.IOBinding.bind_cpu_input
    monkeypatch.setattr("onnxruntime.IOBinding.bind_cpu_input", lambda self, name, a: bind(self, name, a.copy()))
    assert answer(Pipeline(folder, manifest, open_backend(folder, manifest, "cuda")), *face) == expected


@pytest.mark.parametrize("installed", [False, True])
def test_without_cuda_auto_says_so_and_an_explicit_device_is_refused(folder, providers, monkeypatch, caplog, installed):
    """The provider is missing, or it cannot start, which ONNX Runtime itself only logs."""
    if installed:
        monkeypatch.setattr(onnxruntime.InferenceSession, "starts", False)
        reason = r"ort-cuda-\S+: onnxruntime-gpu .* could not start CUDA: it needs an NVIDIA GPU"
    else:
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
        reason = r"ort-cuda-\S+: onnxruntime-gpu is needed to run on an NVIDIA GPU.*emola-edge\[gpu\]"
    manifest = read_manifest(folder)
    with pytest.raises(BackendError, match=reason):
        open_backend(folder, manifest, "cuda")
    with caplog.at_level(logging.INFO, "sdk"):
        name = open_backend(folder, manifest).variant.name
    assert re.search(f"on {name}; not on {reason}", caplog.text)


def test_verify_measures_the_variant_of_a_device(folder, providers, capsys):
    """The measurements of the export are repeated; here the CPU's kernels stand in for CUDA."""
    assert main(["verify", str(folder), "--device", "cuda", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["parity"]
    sealed = [p for p in read_manifest(folder).parity if p.variant.startswith("ort-cuda-")]
    assert [row["relative_error"] for row in found] == [pytest.approx(p.relative_error, rel=1e-3) for p in sealed]


def test_a_bundle_without_the_variant(bundle):
    with pytest.raises(BackendError, match="ort-float32: no variant for device 'cuda'; `emola export` adds one"):
        open_backend(bundle(), read_manifest(bundle()), "cuda")


def test_a_sequence_moves_through_the_host_where_memory_is_on_a_device(bundle):
    """The result is the same as in place. Past and present of a row share one address, after that of the row before."""
    geometry = read_manifest(bundle()).geometry
    pools = [OrtPool(geometry, 8, 3, np.float16) for _ in range(2)]
    pools[1]._host, held = None, pools[1]._host
    for pool, memory in zip(pools, (pools[0]._host, held), strict=True):
        memory[...] = np.arange(memory.size).reshape(memory.shape) % 2000
        pool.caches[2].length = 5
        pool.copy(pool.caches[2], 0)
        assert pool.caches[0].length == 5
    np.testing.assert_array_equal(held, pools[0]._host)
    np.testing.assert_array_equal(held[:, 0, :, :5], held[:, 2, :, :5])
    bound = {}
    binding = SimpleNamespace(
        bind_input=lambda name, *place: bound.update({name: place}),
        bind_output=lambda name, *place: bound.update({name: place}),
    )
    pools[1].bind(binding, 1, 2)
    row = held[0, 0]
    assert bound["past_key_values.0.key"] == ("cpu", 0, np.float16, (2, *row.shape), held.ctypes.data + row.nbytes)
    for name, place in bound.items():
        assert bound[name.replace("past_key_values", "present")] == place


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of anonymous memory")
def test_a_large_encoder_stays_mapped_in_float16(tmp_path):
    """Its weights take no memory of the process, and the result is that of the weights widened at the start."""
    half, width = np.random.default_rng(5).standard_normal((4096, 8192)).astype(np.float16), 128_000_000
    nodes = [helper.make_node("Cast", ["w.half"], ["w"], to=1), helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [[helper.make_tensor_value_info(name, 1, ["batch", size])] for name, size in (("x", 4096), ("y", 8192))]
    graph = helper.make_graph(nodes, "encoder", *ends, [numpy_helper.from_array(half, "w.half")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "v.onnx", save_as_external_data=True, location="v.onnx.data")
    x = np.random.default_rng(6).standard_normal((3, 4096)).astype(np.float32)
    before, rows, grown = _anonymous(), {}, {}
    for mapped in (True, False):
        session = open_session(tmp_path / "v.onnx", mapped=mapped)
        grown[mapped] = _anonymous() - before
        rows[mapped] = session.run(None, {"x": x})[0]
        del session
    assert grown[True] < width / 4 < width / 2 < grown[False]
    np.testing.assert_allclose(rows[True], rows[False], rtol=1e-4, atol=1e-2)
    encoder = OrtEncoder(tmp_path / "v.onnx")
    for _ in range(2):
        np.testing.assert_array_equal(encoder(x), rows[True])
        assert _resident(tmp_path / "v.onnx.data") == 0, "the pages of the file are given back after a call"


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's list of mappings")
def test_pages_that_were_changed_are_kept(tmp_path):
    """A private mapping is a copy of the file from the first write on: giving it back would lose what was written."""
    path = tmp_path / "a"
    path.write_bytes(bytes(8 * mmap.PAGESIZE))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as pages:
        assert sum(pages[:: mmap.PAGESIZE]) == 0
        drop_pages(path)
        assert _resident(path) == 0
        pages[5] = 7
        drop_pages(path)
        assert pages[5] == 7


def _resident(path):
    """Bytes of a file that are mapped and in memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    sizes = [next(each for each in lines if each.startswith("Rss:")) for line in lines if line.endswith(f" {path}")]
    assert sizes, "the file is not mapped"
    return sum(1024 * int(size.split()[1]) for size in sizes)


def _anonymous():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


def test_a_name_that_is_no_text_is_a_broken_graph(landmark_network, tmp_path):
    """One flipped bit in a name: ONNX Runtime opens the file, and fails when the name is asked for."""
    path = tmp_path / "network.onnx"
    path.write_bytes(landmark_network.read_bytes().replace(b"fc1", b"fc\xff"))
    with pytest.raises(GraphError, match=r"network\.onnx: a name of an input, an output or a size is not UTF-8"):
        open_session(path)
