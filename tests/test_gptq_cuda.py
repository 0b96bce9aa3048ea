"""The GPTQ decoder for GPUs, compared with ONNX Runtime; its memory; and how a bundle opens it."""

import dataclasses
import logging
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import numpy as np
import pytest
from conftest import GOLDEN

torch = pytest.importorskip("torch")

from export.graphs.decoder import write_decoder  # noqa: E402
from export.graphs.write import llama as graph_of  # noqa: E402
from export.quantise.autogptq import GptqWeights  # noqa: E402
from export.quantise.linear import QuantizedLinear  # noqa: E402
from sdk.analyzer import Analyzer  # noqa: E402
from sdk.bundles.manifest import read_manifest  # noqa: E402
from sdk.cli import main  # noqa: E402
from sdk.errors import BackendError  # noqa: E402
from sdk.runtime.backends.gptq_cuda import decoder as decoders  # noqa: E402
from sdk.runtime.backends.gptq_cuda import open as opening  # noqa: E402
from sdk.runtime.backends.gptq_cuda import reference  # noqa: E402
from sdk.runtime.backends.gptq_cuda.decoder import GptqDecoder  # noqa: E402
from sdk.runtime.backends.gptq_cuda.weights import read_llama  # noqa: E402
from sdk.runtime.backends.ort import OrtDecoder  # noqa: E402
from sdk.runtime.backends.select import open_backend, open_variant  # noqa: E402
from sdk.runtime.memory import Memory  # noqa: E402
from sdk.runtime.pipeline import Pipeline  # noqa: E402
from sdk.runtime.verify import Reference  # noqa: E402
from trainer.checkpoint import Checkpoint  # noqa: E402


def dequantised(folder, path) -> OrtDecoder:
    """A decoder on ONNX Runtime in float32, with the dequantised weights."""
    checkpoint = Checkpoint(GOLDEN / "llava-lora-emola-trained", GOLDEN / "llava-base", GOLDEN / "clip")
    weights = GptqWeights(folder / "decoder/gptq")
    exact = {n: w.dequantize() if isinstance(w, QuantizedLinear) else w for n, w in weights.items()}
    write_decoder(dataclasses.replace(graph_of(checkpoint), weights=exact), path)
    return OrtDecoder(path, folder / "decoder/embeddings.npy", read_manifest(folder).geometry)


def on_torch(folder, kernels, dtype) -> GptqDecoder:
    return GptqDecoder(*decoder_parts(folder, kernels, dtype), dtype=dtype, graphs=False)


def decoder_parts(folder, kernels=reference, dtype=torch.float32):
    geometry, table = read_manifest(folder).geometry, np.load(folder / "decoder/embeddings.npy")
    return read_llama(folder / "decoder/gptq", geometry, torch.from_numpy(table), "cpu", dtype), kernels, table


def decode(decoder):
    """Call all methods of a decoder; returns the logits of four calls and three steps, and greedy tokens."""
    random = np.random.default_rng(0)
    prefix, question = ((0.1 * random.standard_normal((n, 64))).astype(np.float32) for n in (50, 20))
    pool = decoder.new_pool(128, 3)
    logits = [decoder.extend(cache, prefix[index:], last=5).copy() for index, cache in enumerate(pool.caches)]
    logits.append(decoder.extend(pool.caches[1], question, last=20).copy())
    for token in (5, 6, 7):
        logits.append(decoder.step(pool, decoder.embed([token] * 3)).copy())
    pool.copy(pool.caches[2], 0)
    assert [cache.length for cache in pool.caches] == [51, 72, 51]
    tokens = []
    for cache in pool.caches:
        tokens.append(list(islice(decoder.greedy(cache, [9, 10]), 8)))
        cache.length = 40
        tokens.append(list(islice(decoder.greedy(cache, [11]), 4)))
    assert [cache.length for cache in pool.caches] == [44, 44, 44]
    return logits, tokens


@pytest.mark.parametrize(("name", "tolerance"), [("gptq-reference", 1e-4), ("gptq-triton", 0.01), ("ort-int4", 0.04)])
def test_every_decoder_computes_the_same(gptq_bundle, tmp_path, request, name, tolerance):
    """Logits by a relative error of 1e-4 in float32, 1 % in float16, 4 % with 8-bit activations and an 8-bit head,
    against ONNX Runtime in float32 on the dequantised weights; greedy tokens are equal except with 8 bits."""
    if name == "ort-int4":
        table = gptq_bundle / "decoder/embeddings.npy"
        decoder = OrtDecoder(gptq_bundle / "decoder/gptq-int4.onnx", table, read_manifest(gptq_bundle).geometry)
    elif name == "gptq-triton":
        decoder = on_torch(gptq_bundle, request.getfixturevalue("triton_kernels"), torch.float16)
    else:
        decoder = on_torch(gptq_bundle, reference, torch.float32)
    expected_logits, expected_tokens = decode(dequantised(gptq_bundle, tmp_path / "exact.onnx"))
    logits, tokens = decode(decoder)
    for index, (found, expected) in enumerate(zip(logits, expected_logits, strict=True)):
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error <= tolerance, f"call {index}: relative error {error:.1e}, at most {tolerance:.0e}"
    if name != "ort-int4":
        assert tokens == expected_tokens


def test_the_pipeline_answers_as_on_onnx_runtime(gptq_bundle, tmp_path):
    """Both answers about each golden face, 40 tokens each, against ONNX Runtime in float32 on the same weights."""
    manifest, golden = read_manifest(gptq_bundle), Reference.load(gptq_bundle / "reference.npz")
    gptq, ort = manifest.variants
    exact = Pipeline(gptq_bundle, manifest, open_variant(gptq_bundle, manifest, ort))
    exact.backend = dataclasses.replace(exact.backend, decoder=dequantised(gptq_bundle, tmp_path / "exact.onnx"))
    answers = []
    for pipeline in (exact, Pipeline(gptq_bundle, manifest, open_variant(gptq_bundle, manifest, gptq, device="cpu"))):
        for rows, features in zip(golden.rows, golden.landmark_features, strict=True):
            with pipeline.encode_rows(rows, features) as face:
                answers += [list(pipeline.generate(face, task, max_new_tokens=40)) for task in golden.tasks]
    half = len(answers) // 2
    assert sum(map(len, answers[:half])) > 100, "the answers should be long"
    assert answers[:half] == answers[half:]


def test_replayed_steps_choose_the_tokens_of_greedy(gptq_bundle):
    """Two sequences of different lengths; the lengths that the host knows stay as they were."""
    decoder = on_torch(gptq_bundle, reference, torch.float32)
    pool = decoder.new_pool(64, 2)
    for cache, prompt in zip(pool.caches, ([5, 6], [7, 8, 9]), strict=True):
        decoder.extend(cache, decoder.embed(prompt))
    decoder.replay_steps(pool, [10, 11], 4)
    found = pool.memory.state.tolist()
    assert pool.lengths == [2, 3]
    for cache, token, state in zip(pool.caches, (10, 11), found, strict=True):
        assert state == [list(islice(decoder.greedy(cache, [token]), 4))[-1], cache.length]
    with pytest.raises(BackendError, match="needs 67 positions, its cache holds 64"):
        decoder.replay_steps(pool, [10, 11], 61)


def test_memory_and_graphs_of_a_pool_are_used_again(gptq_bundle):
    decoder = on_torch(gptq_bundle, reference, torch.float32)
    pool, other = decoder.new_pool(64, 2), decoder.new_pool(64, 2)
    memory = pool.memory
    assert other.memory is not memory
    del pool
    assert decoder.new_pool(64, 2).memory is memory


def test_new_storage_is_made_when_another_thread_takes_the_free_one(gptq_bundle):
    decoder = on_torch(gptq_bundle, reference, torch.float32)
    decoder._free[64, 2] = type("Taken", (list,), {"__bool__": lambda self: True})()
    assert len(decoder.new_pool(64, 2).caches) == 2


def test_memory_of_another_batch_size_is_given_back_and_that_of_one_face_stays(gptq_bundle):
    decoder = on_torch(gptq_bundle, reference, torch.float32)
    pool, one = decoder.new_pool(64, 4), decoder.new_cache(64)
    assert len(list(islice(decoder.greedy(pool.caches[0], [5]), 3))) == 3
    batch, single = weakref.ref(pool.memory), weakref.ref(one.pool.memory)
    del pool, one
    decoder.new_pool(64, 2)
    assert batch() is None
    assert decoder.new_cache(64).pool.memory is single()


class Full:
    def __init__(self, *_, **options):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.00 GiB "
            "is free. Process 1 has 78.11 GiB memory in use. See documentation for Memory Management."
        )


def none_left(*_):
    """Raise what a launch raises if other processes fill the GPU: the driver runs out, not torch's allocator."""
    raise torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`.")


def no_handle(*_):
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def test_a_full_gpu_raises_an_error_that_says_how_to_need_less(gptq_bundle, monkeypatch):
    decoder = on_torch(gptq_bundle, reference, torch.float32)
    cache = decoder.new_cache(128)
    monkeypatch.setattr(decoder, "_prefill", Full)
    monkeypatch.setattr(decoder, "_step", Full)
    monkeypatch.setattr(decoder, "_run", Full)
    monkeypatch.setattr(decoders, "PoolStorage", Full)
    calls = {
        "new_pool": lambda: decoder.new_pool(128, 8),
        "a long prompt": lambda: decoder.extend(cache, np.zeros((60, 64), np.float32)),
        "step": lambda: decoder.step(cache.pool, np.zeros((1, 64), np.float32)),
        "greedy": lambda: decoder._follow(cache.pool.memory, 0),
    }
    advice = "Tried to allocate 2.00 GiB.* 1.00 GiB is free. Decode fewer faces .*memory_limit"
    for name, call in calls.items():
        with pytest.raises(BackendError, match=advice) as found:
            call()
        assert "Process" not in str(found.value), name
    manifest = read_manifest(gptq_bundle)
    for fails in (Full, none_left, no_handle):
        monkeypatch.setattr(reference, "dequantise", fails)
        with pytest.raises(BackendError, match="^CUDA .*(out of memory|ALLOC_FAILED).* Decode fewer faces"):
            open_variant(gptq_bundle, manifest, manifest.variants[0], device="cpu")


def test_a_pool_made_in_inference_mode_works_outside_it(gptq_bundle):
    decoder = on_torch(gptq_bundle, reference, torch.float32)
    with torch.inference_mode():
        pool = decoder.new_pool(64, 2)
        decoder.extend(pool.caches[0], np.zeros((3, 64), np.float32))
    pool.copy(pool.caches[0], 1)
    assert list(islice(decoder.greedy(pool.caches[0], [5]), 4)) == list(islice(decoder.greedy(pool.caches[1], [5]), 4))


def test_two_decoders_never_record_graphs_at_once(gptq_bundle, monkeypatch):
    """Recording synchronises the whole device, which would break the recording of another decoder."""
    recording, most = [], []

    class Graph:
        def replay(self):
            pass

    @contextmanager
    def record(graph, capture_error_mode):
        recording.append(graph)
        most.append(len(recording))
        time.sleep(0.05)
        yield
        recording.remove(graph)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    together = threading.Barrier(2)

    def steps():
        decoder = GptqDecoder(*decoder_parts(gptq_bundle), dtype=torch.float32, graphs=True)
        cache = decoder.new_cache(64)
        decoder.extend(cache, decoder.embed([5]))
        together.wait()
        return decoder.extend(cache, decoder.embed([6])).argmax()

    with ThreadPoolExecutor(2) as threads:
        first, second = (future.result() for future in [threads.submit(steps) for _ in range(2)])
    assert first == second
    assert most == [1, 1]


def test_limits_of_a_cache(gptq_bundle):
    decoder = on_torch(gptq_bundle, reference, torch.float32)
    cache = decoder.new_cache(8)
    with pytest.raises(BackendError, match="needs 9 positions, its cache holds 8"):
        decoder.extend(cache, np.zeros((9, 64), np.float32))
    assert len(list(islice(decoder.greedy(cache, [5, 6]), 7))) == 7
    assert cache.length == 8
    files = (gptq_bundle / "decoder/gptq-int4.onnx", gptq_bundle / "decoder/embeddings.npy")
    foreign = OrtDecoder(*files, read_manifest(gptq_bundle).geometry).new_cache(8)
    with pytest.raises(BackendError, match="belongs to another decoder"):
        decoder.extend(foreign, np.zeros((1, 64), np.float32))


def test_the_manifest_names_the_variant_and_a_machine_without_a_gpu_says_why_not(gptq_bundle, capsys, caplog):
    manifest = read_manifest(gptq_bundle)
    variant, ort = manifest.variants
    assert (variant.name, variant.backend, variant.device) == ("gptq-cuda-int4", "gptq_cuda", "cuda")
    assert {variant.decoder, *variant.external} <= set(manifest.files)
    assert Memory.of(manifest, variant).per_face == Memory.of(manifest, ort).per_face / 2
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "not measured" in manifest.environment[variant.name]
    with pytest.raises(BackendError, match="gptq-cuda-int4: .*(triton is needed|finds no CUDA)"):
        open_backend(gptq_bundle, manifest, "cuda")
    with caplog.at_level(logging.INFO, "sdk"):
        assert open_backend(gptq_bundle, manifest).variant.name == ort.name
    assert "not on gptq-cuda-int4: " in caplog.text
    assert main(["verify", str(gptq_bundle)]) == 0
    assert ort.name in capsys.readouterr().out


def with_gptq_on_cpu(folder):
    """The manifest with its GPTQ variant marked as one for the CPU, where the reference kernels run it."""
    manifest = read_manifest(folder)
    gptq, ort = manifest.variants
    return manifest.model_copy(update={"variants": (gptq.model_copy(update={"device": "cpu"}), ort)})


def test_if_no_kernel_can_be_launched_another_variant_is_opened(gptq_bundle, monkeypatch, caplog):
    """Triton detects a missing C compiler at the first launch, so one kernel is launched when a bundle is opened."""

    def launch(linear, out):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    manifest = with_gptq_on_cpu(gptq_bundle)
    assert open_backend(gptq_bundle, manifest).variant.backend == "gptq_cuda"
    monkeypatch.setattr(reference, "dequantise", launch)
    with caplog.at_level(logging.INFO, "sdk"):
        assert open_backend(gptq_bundle, manifest).variant.backend == "ort"
    assert "Failed to find C compiler. Please specify" in caplog.text
    alone = manifest.model_copy(update={"variants": manifest.variants[:1]})
    with pytest.raises(BackendError, match="RuntimeError: Failed to find.*install gcc and python3-dev"):
        open_backend(gptq_bundle, alone, "cpu")


def test_dense_weights_are_kept_only_within_the_memory_limit(gptq_bundle, monkeypatch):
    manifest = with_gptq_on_cpu(gptq_bundle)
    gptq = manifest.variants[0]
    assert open_backend(gptq_bundle, manifest).held_bytes == 0, "a CPU keeps none"
    monkeypatch.setattr(opening, "_free_bytes", lambda device: 1 << 40)
    opened = open_backend(gptq_bundle, manifest)
    dense, memory = opened.held_bytes, Memory.of(manifest, gptq)
    opened.decoder.extend(opened.decoder.new_cache(64), np.zeros((60, 64), np.float32))
    assert dense == sum(weight.nbytes for weight in opened.decoder._prefill._dense.values()) > 0
    monkeypatch.setattr("sdk.analyzer.read_manifest", lambda folder: manifest)
    least = memory.weights + dense + memory.per_face
    for limit, held in ((least, dense), (least - 1, 0)):
        with Analyzer(gptq_bundle, memory_limit=limit) as analyzer:
            assert analyzer.info()["memory"]["weights"] == memory.weights + held
            assert analyzer._slots == (limit - memory.weights - held) // memory.per_face
