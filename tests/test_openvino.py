"""The decoder on OpenVINO, compared with ONNX Runtime on the same files, and when it is chosen."""

import logging
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.cli import main
from sdk.errors import BackendError, GraphError
from sdk.runtime.backends import cpu_choice, select
from sdk.runtime.backends.cpu_choice import reason_against_openvino
from sdk.runtime.backends.openvino import OpenVinoDecoder
from sdk.runtime.backends.openvino_prefill import PrefillDecoder
from sdk.runtime.backends.ort import OrtDecoder
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.memory import Memory
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference

if not find_spec("openvino"):  # its import would report to Intel
    pytest.skip("OpenVINO is not installed: pip install 'emola-edge[openvino]'", allow_module_level=True)
IDS = np.random.default_rng(0).integers(3, 250, 160).tolist()


def opened(kind, folder):
    manifest = read_manifest(folder)
    return kind(folder / manifest.variants[0].decoder, folder / manifest.embeddings, manifest.geometry, 1)


@pytest.fixture(scope="module", params=["nano", "int4", "none"])
def folder(request, bundle):
    return EMBEDDED if request.param == "nano" else bundle("trained", request.param)


@pytest.fixture(scope="module")
def decoders(folder):
    """ONNX Runtime's and OpenVINO's."""
    return opened(OrtDecoder, folder), opened(OpenVinoDecoder, folder)


def difference(found, expected) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def read(decoder):
    """Logits of a prefill, of a second question after a rewind, of a step, and of sequences of different lengths."""
    cache = decoder.new_cache(130)
    found = [decoder.extend(cache, decoder.embed(IDS[:90])).copy()]
    cache.length = 80
    found.append(decoder.extend(cache, decoder.embed(IDS[80:100]), last=5).copy())
    found.append(decoder.extend(cache, decoder.embed(IDS[100:101])).copy())
    pool = decoder.new_pool(100, 3)
    for index, each in enumerate(pool.caches):
        decoder.extend(each, decoder.embed(IDS[: 31 + 9 * index]))
    found.append(decoder.step(pool, decoder.embed(IDS[5:8])).copy())
    pool.copy(pool.caches[2], 0)
    found.append(decoder.step(pool, decoder.embed(IDS[8:10])).copy())
    return found


def test_the_logits_of_onnx_runtime(folder, decoders):
    """Within 1e-4 in float32; where both round activations to 8 bits, within 4 % as in another ONNX Runtime kernel."""
    limit = 1e-4 if read_manifest(folder).variants[0].precision == "float32" else 0.04
    expected, found = map(read, decoders)
    for theirs, ours in zip(expected, found, strict=True):
        assert ours.shape == theirs.shape
        assert difference(ours, theirs) < limit
        np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))


def test_a_sequence_of_a_pool_reads_only_its_own_rows(decoders):
    """Every sequence alone gives what it gives beside the others, and a moved one what its source gives."""
    decoder = decoders[1]
    *_, together, moved = read(decoder)
    for index in range(3):
        cache = decoder.new_cache(100)
        decoder.extend(cache, decoder.embed(IDS[: 31 + 9 * index]))
        alone = decoder.extend(cache, decoder.embed(IDS[5 + index : 6 + index])).copy()
        assert difference(together[index], alone[0]) < 1e-4
    assert difference(moved[0], decoder.extend(cache, decoder.embed(IDS[8:9]))[0]) < 1e-4


def test_several_rows_give_the_logits_of_single_ones(decoders):
    """What drafts rely on: far within a near tie."""
    decoder = decoders[1]
    assert decoder.drafts
    cache = decoder.new_cache(60)
    decoder.extend(cache, decoder.embed(IDS[:40]))
    together = decoder.extend(cache, decoder.embed(IDS[40:48]), last=8).copy()
    cache.length = 40
    alone = [decoder.extend(cache, decoder.embed([token]))[0].copy() for token in IDS[40:48]]
    assert np.abs(together - alone).max() < 0.01


def test_a_prefill_leaves_openvinos_keys_and_values_to_onnx_runtime(folder, decoders):
    """Steps after it are as near to OpenVINO's as those of ONNX Runtime, also in the second sequence of a pool."""
    manifest = read_manifest(folder)
    limit = 1e-4 if manifest.variants[0].precision == "float32" else 0.04
    decoder = opened(partial(PrefillDecoder, copy_bytes=1), folder)
    pool, expected = decoder.new_pool(130, 2), decoders[1].new_cache(130)
    cache = pool.caches[1]
    decoder.prefill(cache, decoder.embed(IDS[:90]))
    decoders[1].prefill(expected, decoders[1].embed(IDS[:90]))
    assert cache.length == 90
    decoder.prefill(cache, decoder.embed(IDS[90:95]))  # a prompt after the face
    decoders[1].prefill(expected, decoders[1].embed(IDS[90:95]))
    found = decoder.extend(cache, decoder.embed(IDS[95:100]), last=5)
    assert difference(found, decoders[1].extend(expected, decoders[1].embed(IDS[95:100]), last=5)) < limit
    with pytest.raises(BackendError, match="130"):
        decoder.prefill(pool.caches[0], decoder.embed(IDS[:131]))


@pytest.mark.parametrize("device", ["openvino", "openvino-prefill"])
def test_drafted_answers_are_the_greedy_ones(folder, device):
    manifest = read_manifest(folder)
    pipeline = Pipeline(folder, manifest, open_backend(folder, manifest, device, threads=1))
    reference = Reference.load(folder / "reference.npz")
    with pipeline.encode_rows(reference.rows[0], reference.landmark_features[0]) as face:
        for task in reference.tasks:
            plain = list(pipeline.generate(face, task, 60, drafts=False))
            assert plain
            assert list(pipeline.generate(face, task, 60)) == plain


def test_two_answers_together_are_those_of_one_after_the_other(folder):
    manifest = read_manifest(folder).model_copy(update={"language": None, "ngrams": None})
    backend, reference = open_backend(folder, manifest, "openvino", threads=1), Reference.load(folder / "reference.npz")
    found = []
    for pairs in (True, False):
        pipeline = Pipeline(folder, manifest, backend, pairs=pairs)
        with pipeline.encode_rows(reference.rows[0], reference.landmark_features[0]) as face:
            assert len(face.rewind().pool.lengths) == 1 + pairs
            found.append(pipeline.ask_all(face, reference.tasks, Clock(), 60, None))
    assert found[0] == found[1]


def test_the_answers_of_the_torch_model(folder, capsys):
    """Every stage is within the tolerance of the bundle, which is the one of ONNX Runtime."""
    assert main(["verify", str(folder), "--device", "openvino"]) == 0
    precision = read_manifest(folder).variants[0].precision
    assert f"ok   openvino-{precision} decoder" in capsys.readouterr().out


def test_threads_do_not_disturb_each_other(decoders):
    decoder = decoders[1]
    expected = read(decoder)
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(lambda _: read(decoder), range(6)):
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_caches_have_an_end_and_an_owner(decoders):
    theirs, decoder = decoders
    cache = decoder.new_cache(8)
    with pytest.raises(BackendError, match="needs 9 positions, its cache holds 8"):
        decoder.extend(cache, decoder.embed(IDS[:9]))
    with pytest.raises(BackendError, match="belongs to another decoder"):
        decoder.extend(theirs.new_cache(8), decoder.embed(IDS[:2]))
    with pytest.raises(BackendError, match="no memory for 2 KV caches"):
        decoder.new_pool(1 << 60, 2)


def test_a_decoder_of_another_shape_is_refused():
    manifest = read_manifest(EMBEDDED)
    path, embeddings = EMBEDDED / manifest.variants[0].decoder, EMBEDDED / manifest.embeddings
    for change in ({"layers": 2}, {"heads": 3, "kv_heads": 3}, {"head_size": 64}):
        with pytest.raises(GraphError, match="its shape differs"):
            OpenVinoDecoder(path, embeddings, manifest.geometry.model_copy(update=change))


def test_damaged_files_are_refused(tmp_path):
    manifest = read_manifest(EMBEDDED)
    shutil.copytree(EMBEDDED / "decoder", tmp_path / "decoder")
    path, embeddings = tmp_path / manifest.variants[0].decoder, EMBEDDED / manifest.embeddings
    weights = path.with_name(f"{path.name}.data")
    weights.write_bytes(weights.read_bytes()[:-8192])
    with pytest.raises(BackendError, match="cannot read"):
        OpenVinoDecoder(path, embeddings, manifest.geometry)
    weights.unlink()
    with pytest.raises(GraphError, match="is missing"):
        OpenVinoDecoder(path, embeddings, manifest.geometry)


def test_auto_takes_it_where_it_was_measured_to_be_faster(monkeypatch, caplog):
    manifest = read_manifest(EMBEDDED)
    name = manifest.variants[0].name
    assert open_backend(EMBEDDED, manifest).name == name, "a small decoder is faster in ONNX Runtime"
    monkeypatch.setattr(select, "reason_for_onnxruntime", lambda manifest, variant: None)
    with caplog.at_level(logging.INFO):
        assert open_backend(EMBEDDED, manifest).name == f"openvino-{manifest.variants[0].precision}"
        assert open_backend(EMBEDDED, manifest, "cpu").name == name
        monkeypatch.setitem(sys.modules, "openvino", None)
        assert open_backend(EMBEDDED, manifest).name == name
    assert f"on openvino-{manifest.variants[0].precision}" in caplog.text
    assert f"on {name}; not on openvino-{manifest.variants[0].precision}: " in caplog.text


def test_auto_reads_faces_on_openvino_where_the_memory_limit_has_room(monkeypatch):
    """OpenVINO reads with a deep decoder faster, ONNX Runtime steps it faster; both hold weights and a face."""
    manifest = read_manifest(EMBEDDED)
    reasons = {0: None, 340: "slower steps"}
    monkeypatch.setattr(cpu_choice, "reason_against_openvino", lambda size, layers, tokens=340: reasons[tokens])
    memory = Memory.of(manifest, manifest.variants[0])
    once, size = memory.weights + memory.per_face, manifest.decoder_bytes(manifest.variants[0]) + memory.per_face
    assert open_backend(EMBEDDED, manifest).name == manifest.variants[0].name
    assert open_backend(EMBEDDED, manifest, memory_limit=once + size - 1).name == manifest.variants[0].name
    backend = open_backend(EMBEDDED, manifest, memory_limit=once + size)
    assert backend.name == f"openvino-prefill+{manifest.variants[0].name}"
    assert backend.held_bytes == size
    reasons[0] = "no bfloat16"
    assert open_backend(EMBEDDED, manifest, memory_limit=once + size).name == manifest.variants[0].name


def test_a_processor_without_bfloat16_keeps_onnx_runtime(monkeypatch):
    for capabilities, expected in ((["BF16", "FP32"], True), (["FP32", "INT8"], False)):
        core = type("Core", (), {"get_property": lambda self, device, name, found=capabilities: found})
        monkeypatch.setattr("openvino.Core", core)
        assert (reason_against_openvino(1 << 30, 4) is None) is expected


def test_without_openvino_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert reason_against_openvino(1 << 30, 4) == "OpenVINO is not installed"
    with pytest.raises(BackendError, match=r"pip install 'emola-edge\[openvino\]'"):
        open_backend(EMBEDDED, read_manifest(EMBEDDED), "openvino")
