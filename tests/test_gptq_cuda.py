"""The GPTQ decoder for GPUs: Triton kernels against torch in Triton's interpreter, and the whole against the others."""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN

torch = pytest.importorskip("torch")
os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

from export.build import export_bundle  # noqa: E402
from export.describe import gptq_variants  # noqa: E402
from export.graphs.decoder import write_decoder  # noqa: E402
from export.graphs.write import llama as graph_of  # noqa: E402
from export.options import ExportOptions  # noqa: E402
from export.quantise.autogptq import GptqWeights  # noqa: E402
from export.quantise.calibrate import CalibrationSet  # noqa: E402
from export.quantise.gptq import GptqOptions  # noqa: E402
from export.quantise.linear import QuantizedLinear  # noqa: E402
from sdk.analyzer import Analyzer, open_backend  # noqa: E402
from sdk.bundles.manifest import Geometry, read_manifest  # noqa: E402
from sdk.cli import main  # noqa: E402
from sdk.errors import BackendError, IntegrityError  # noqa: E402
from sdk.runtime.backends.gptq_cuda import backend, reference  # noqa: E402
from sdk.runtime.backends.gptq_cuda import decoder as decoders  # noqa: E402
from sdk.runtime.backends.gptq_cuda.backend import GptqBackend  # noqa: E402
from sdk.runtime.backends.gptq_cuda.decoder import GptqDecoder  # noqa: E402
from sdk.runtime.backends.gptq_cuda.rows import Rows  # noqa: E402
from sdk.runtime.backends.gptq_cuda.weights import (  # noqa: E402
    Layer,
    Llama,
    interleave,
    pack,
    read_llama,
    rotary_tables,
)
from sdk.runtime.backends.ort import OrtBackend, OrtDecoder  # noqa: E402
from sdk.runtime.memory import Memory  # noqa: E402
from sdk.runtime.pipeline import Pipeline  # noqa: E402
from sdk.runtime.verify import Reference  # noqa: E402
from trainer.checkpoint import Checkpoint  # noqa: E402


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("triton", reason="Triton is not installed; its interpreter checks the GPU kernels")
    from sdk.runtime.backends.gptq_cuda import kernels

    return kernels


def random_llama(group: int = 32, layers: int = 2, heads: int = 4, kv_heads: int = 4, size: int = 16) -> Llama:
    """A decoder of a tiny shape whose last panels are padded."""
    random = torch.Generator().manual_seed(0)
    width, inner, vocabulary = heads * size, 5 * 32 if group == 32 else 256, 99

    def linear(inputs: int, outputs: int):
        values = torch.randint(-(2**31), 2**31 - 1, (inputs // 8, outputs), dtype=torch.int32, generator=random)
        scales = 0.02 + 0.02 * torch.rand(inputs // group, outputs, generator=random)
        return pack(values, scales.half())

    def norm():
        return 1 + 0.1 * torch.randn(width, generator=random)

    def layer():
        both = interleave(linear(width, inner), linear(width, inner))
        attention = linear(width, (heads + 2 * kv_heads) * size), linear(width, width)
        return Layer(norm(), *attention, norm(), both, linear(inner, width))

    geometry = Geometry(
        layers=layers,
        hidden_size=width,
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        vocabulary=vocabulary,
        context=64,
    )
    table, head = (torch.randn(vocabulary, width, generator=random) for _ in range(2))
    angles = rotary_tables(10000.0, geometry, "cpu")
    return Llama(geometry, 1e-5, table, tuple(layer() for _ in range(layers)), norm(), head, *angles)


SHAPES = {
    "group 32": {},
    "group 64": {"group": 64},
    "group 128, grouped queries": {"group": 128, "heads": 8, "kv_heads": 2},
    "wide heads": {"group": 128, "heads": 2, "kv_heads": 2, "size": 128},
}


@pytest.fixture(scope="module", params=SHAPES)
def llama(request):
    return random_llama(**SHAPES[request.param])


def made_up_rows(llama: Llama, count: int) -> Rows:
    """Rows of three sequences at different lengths, one of them without a sequence."""
    rows = Rows.allocate(llama).first(count)
    random = torch.Generator().manual_seed(count)
    for name in ("hidden", "weighted", "query", "attended", "product"):
        getattr(rows, name).normal_(generator=random)
    rows.squares.uniform_(1, 2, generator=random)
    rows.sequences.copy_(torch.arange(count) % 3)
    rows.positions.copy_(torch.arange(count) * 3 + 1)
    if count > 2:
        rows.sequences[1] = -1
    return rows


def made_up_cache(llama: Llama) -> torch.Tensor:
    g = llama.geometry
    return torch.randn(3, 2, g.kv_heads, 50, g.head_size, generator=torch.Generator().manual_seed(7)).half()


CALLS = {
    "start": lambda k, rows, llama, cache, state: k.start(rows, llama, llama.norm, None),
    "start from state": lambda k, rows, llama, cache, state: k.start(rows, llama, llama.norm, state),
    "read": lambda k, rows, llama, cache, state: k.read(rows, llama, llama.layers[0], cache),
    "attend": lambda k, rows, llama, cache, state: k.attend(rows, llama, cache),
    "add": lambda k, rows, llama, cache, state: k.add(rows, rows.product, llama.layers[0].down, llama.norm),
    "gate_up": lambda k, rows, llama, cache, state: k.gate_up(rows, llama, llama.layers[0].gate_up),
    "head": lambda k, rows, llama, cache, state: k.head(rows, llama, state),
}


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("call", CALLS)
def test_a_kernel_computes_what_its_reference_computes(kernels, llama, call, count):
    """Every buffer within 1e-4 of its largest value for one row; 2e-3 for more, whose products are in float16.

    Twice in a row, so that counters which are not left at zero would show.
    """
    found = {}
    for module in (reference, kernels):
        rows, cache = made_up_rows(llama, count), made_up_cache(llama)
        state = torch.tensor([[5, 7], [98, 3], [0, 11]], dtype=torch.int32)
        for _ in range(2):
            CALLS[call](module, rows, llama, cache, state)
        assert not rows.counters.any()
        scale = rows.factor(llama.epsilon)[:, None]
        kept = {**vars(rows), "factor": scale, "cache": cache, "state": state}
        found[module] = {k: v for k, v in kept.items() if k not in ("partial", "counters", "squares")}
    tolerance = 1e-4 if count == 1 else 2e-3
    for name, expected in found[reference].items():
        limit = max(tolerance, 1e-3 * (name == "cache")) * float(expected.abs().max())  # one step of float16
        worst = float((found[kernels][name].double() - expected.double()).abs().max())
        assert worst <= limit, f"{name}: differs by {worst:.1e}, at most {limit:.1e}"


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter
def test_logits_that_are_not_numbers_choose_a_token_of_the_vocabulary(kernels):
    """The next step reads its embedding; any other number would be an address outside the table.

    64 tokens fill the blocks and their number is a power of two, so no padding is there to be chosen.
    """
    llama = random_llama()
    llama = dataclasses.replace(llama, head=llama.head[:64])
    rows, state = made_up_rows(llama, 1), torch.tensor([[5, 7], [98, 3], [0, 11]], dtype=torch.int32)
    rows.weighted.fill_(torch.nan)
    kernels.head(rows, llama, state)
    assert 0 <= rows.best.item() < 64
    assert 0 <= state[rows.sequences.item(), 0].item() < 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_dequantising_is_exact(kernels, llama, dtype):
    for linear in llama.layers[0].linears:
        found, expected = (torch.full((linear.inputs, linear.outputs), torch.nan, dtype=dtype) for _ in range(2))
        kernels.dequantise(linear, found)
        reference.dequantise(linear, expected)
        assert torch.equal(found, expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The golden checkpoint, quantised to 4 bits in groups of 32, with its AutoGPTQ folder."""
    folder = tmp_path_factory.mktemp("gptq") / "bundle"
    adapter, base, clip = (str(GOLDEN / name) for name in ("llava-lora-emola-trained", "llava-base", "clip"))
    calibrated = {
        "quantize": "gptq",
        "calibration": CalibrationSet(GOLDEN / "data/FABAInstruct/train/train_anno.json", 12),
        "gptq": GptqOptions(4, 32),
    }
    export_bundle(ExportOptions(adapter, base, folder, clip, keep_gptq=True, **calibrated))
    return folder


def dequantised(folder, path) -> OrtDecoder:
    """ONNX Runtime in float32 on the numbers that the 4 bits stand for."""
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
    """Everything that the runtime asks of a decoder: (logits of four calls and three steps, greedy tokens)."""
    random = np.random.default_rng(0)
    prefix, question = ((0.1 * random.standard_normal((n, 64))).astype(np.float32) for n in (50, 20))
    pool = decoder.new_pool(128, 3)
    logits = [decoder.extend(cache, prefix[index:], last=5).copy() for index, cache in enumerate(pool.caches)]
    logits.append(decoder.extend(pool.caches[1], question, last=20).copy())
    for token in (5, 6, 7):
        logits.append(decoder.step(pool, decoder.embed([token] * 3)).copy())
    pool.move(2, 0)
    assert [cache.length for cache in pool.caches] == [51, 72, 51]
    tokens = []
    for cache in pool.caches:
        tokens.append(list(islice(decoder.greedy(cache, [9, 10]), 8)))
        cache.length = 40
        tokens.append(list(islice(decoder.greedy(cache, [11]), 4)))
    assert [cache.length for cache in pool.caches] == [44, 44, 44]
    return logits, tokens


@pytest.mark.parametrize(("name", "tolerance"), [("gptq-reference", 1e-4), ("gptq-triton", 0.01), ("ort-int4", 0.04)])
def test_every_decoder_computes_the_same(folder, tmp_path, request, name, tolerance):
    """Logits by a relative error of 1e-4 in float32, 1 % in float16, 4 % with 8-bit activations and an 8-bit head,
    against ONNX Runtime in float32 on the dequantised weights; greedy tokens equal, but for the 8-bit ones."""
    if name == "ort-int4":
        table = folder / "decoder/embeddings.npy"
        decoder = OrtDecoder(folder / "decoder/gptq-int4.onnx", table, read_manifest(folder).geometry)
    elif name == "gptq-triton":
        decoder = on_torch(folder, request.getfixturevalue("kernels"), torch.float16)
    else:
        decoder = on_torch(folder, reference, torch.float32)
    expected_logits, expected_tokens = decode(dequantised(folder, tmp_path / "exact.onnx"))
    logits, tokens = decode(decoder)
    for index, (found, expected) in enumerate(zip(logits, expected_logits, strict=True)):
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error <= tolerance, f"call {index}: relative error {error:.1e}, at most {tolerance:.0e}"
    if name != "ort-int4":
        assert tokens == expected_tokens


def test_the_pipeline_answers_as_on_onnx_runtime(folder, tmp_path):
    """Both answers about each golden face, 40 tokens each, against ONNX Runtime in float32 on the same weights."""
    manifest, golden = read_manifest(folder), Reference.load(folder / "reference.npz")
    gptq, ort = manifest.variants
    exact = Pipeline(folder, manifest, OrtBackend(folder, manifest, ort))
    exact.backend.decoder = dequantised(folder, tmp_path / "exact.onnx")
    answers = []
    for pipeline in (exact, Pipeline(folder, manifest, GptqBackend(folder, manifest, gptq, device="cpu"))):
        for rows, features in zip(golden.rows, golden.landmark_features, strict=True):
            with pipeline.encode_rows(rows, features) as face:
                answers += [list(pipeline.generate(face, task, max_new_tokens=40)) for task in golden.tasks]
    half = len(answers) // 2
    assert sum(map(len, answers[:half])) > 100, "the answers should be long"
    assert answers[:half] == answers[half:]


def test_memory_and_graphs_of_a_pool_are_used_again(folder):
    decoder = on_torch(folder, reference, torch.float32)
    pool, other = decoder.new_pool(64, 2), decoder.new_pool(64, 2)
    memory = pool.memory
    assert other.memory is not memory
    del pool
    assert decoder.new_pool(64, 2).memory is memory


def test_a_pool_that_another_thread_took_between_look_and_grasp_is_made_anew(folder):
    decoder = on_torch(folder, reference, torch.float32)
    decoder._free[64, 2] = type("Taken", (list,), {"__bool__": lambda self: True})()
    assert len(decoder.new_pool(64, 2).caches) == 2


def test_memory_of_another_batch_size_is_given_back_and_that_of_one_face_stays(folder):
    decoder = on_torch(folder, reference, torch.float32)
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
    """What a launch raises where other processes fill the GPU: the driver, not torch's allocator, runs out."""
    raise torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`.")


def no_handle(*_):
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def test_a_gpu_that_is_full_says_how_to_need_less(folder, monkeypatch):
    decoder = on_torch(folder, reference, torch.float32)
    cache = decoder.new_cache(128)
    monkeypatch.setattr(decoder, "_prefill", Full)
    monkeypatch.setattr(decoder, "_step", Full)
    monkeypatch.setattr(decoder, "_run", Full)
    monkeypatch.setattr(decoders, "_Memory", Full)
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
    manifest = read_manifest(folder)
    for fails in (Full, none_left, no_handle):
        monkeypatch.setattr(reference, "dequantise", fails)
        with pytest.raises(BackendError, match="^CUDA .*(out of memory|ALLOC_FAILED).* Decode fewer faces"):
            GptqBackend(folder, manifest, manifest.variants[0], device="cpu")


def test_a_pool_that_was_made_in_inference_mode_works_outside_of_it(folder):
    decoder = on_torch(folder, reference, torch.float32)
    with torch.inference_mode():
        pool = decoder.new_pool(64, 2)
        decoder.extend(pool.caches[0], np.zeros((3, 64), np.float32))
    pool.move(0, 1)
    assert list(islice(decoder.greedy(pool.caches[0], [5]), 4)) == list(islice(decoder.greedy(pool.caches[1], [5]), 4))


def test_two_decoders_never_record_graphs_at_once(folder, monkeypatch):
    """Recording synchronises the whole device, which would spoil what another decoder records."""
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
        decoder = GptqDecoder(*decoder_parts(folder), dtype=torch.float32, graphs=True)
        cache = decoder.new_cache(64)
        decoder.extend(cache, decoder.embed([5]))
        together.wait()
        return decoder.extend(cache, decoder.embed([6])).argmax()

    with ThreadPoolExecutor(2) as threads:
        first, second = (future.result() for future in [threads.submit(steps) for _ in range(2)])
    assert first == second
    assert most == [1, 1]


def test_limits_of_a_cache(folder):
    decoder = on_torch(folder, reference, torch.float32)
    cache = decoder.new_cache(8)
    with pytest.raises(BackendError, match="needs 9 positions, its cache holds 8"):
        decoder.extend(cache, np.zeros((9, 64), np.float32))
    assert len(list(islice(decoder.greedy(cache, [5, 6]), 7))) == 7
    assert cache.length == 8
    files = (folder / "decoder/gptq-int4.onnx", folder / "decoder/embeddings.npy")
    foreign = OrtDecoder(*files, read_manifest(folder).geometry).new_cache(8)
    with pytest.raises(BackendError, match="belongs to another decoder"):
        decoder.extend(foreign, np.zeros((1, 64), np.float32))


def test_the_manifest_names_the_variant_and_a_machine_without_a_gpu_says_why_not(folder, capsys, caplog):
    manifest = read_manifest(folder)
    variant, ort = manifest.variants
    assert (variant.name, variant.backend, variant.device) == ("gptq-cuda-int4", "gptq_cuda", "cuda")
    assert {variant.decoder, *variant.external} <= set(manifest.files)
    assert Memory.of(manifest, variant).per_face == Memory.of(manifest, ort).per_face / 2
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "not measured" in manifest.environment[variant.name]
    with pytest.raises(BackendError, match="gptq-cuda-int4: .*(triton is needed|finds no CUDA)"):
        open_backend(folder, manifest, "cuda")
    with caplog.at_level(logging.INFO, "sdk.analyzer"):
        assert open_backend(folder, manifest).variant.name == ort.name
    assert "not on gptq-cuda-int4: " in caplog.text
    assert main(["verify", str(folder)]) == 0
    assert ort.name in capsys.readouterr().out


def on_this_processor(folder):
    """The manifest with its GPTQ variant said to be for the CPU, where the reference kernels open it."""
    manifest = read_manifest(folder)
    gptq, ort = manifest.variants
    return manifest.model_copy(update={"variants": (gptq.model_copy(update={"device": "cpu"}), ort)})


def test_a_machine_where_no_kernel_can_be_launched_goes_on_with_another_variant(folder, monkeypatch, caplog):
    """Triton finds out that there is no C compiler when the first kernel is launched: that is done on opening."""

    def launch(linear, out):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    manifest = on_this_processor(folder)
    assert open_backend(folder, manifest).variant.backend == "gptq_cuda"
    monkeypatch.setattr(reference, "dequantise", launch)
    with caplog.at_level(logging.INFO, "sdk.analyzer"):
        assert open_backend(folder, manifest).variant.backend == "ort"
    assert "Failed to find C compiler. Please specify" in caplog.text
    with pytest.raises(BackendError, match="RuntimeError: Failed to find.*install gcc and python3-dev"):
        open_backend(folder, manifest, "cuda")


def test_dense_weights_and_a_face_stay_within_the_memory_limit_or_the_dense_weights_are_not_kept(folder, monkeypatch):
    manifest = on_this_processor(folder)
    gptq = manifest.variants[0]
    assert open_backend(folder, manifest).held_bytes == 0, "a CPU keeps none"
    monkeypatch.setattr(backend, "_free_bytes", lambda device: 1 << 40)
    opened = open_backend(folder, manifest)
    dense, memory = opened.held_bytes, Memory.of(manifest, gptq)
    opened.decoder.extend(opened.decoder.new_cache(64), np.zeros((60, 64), np.float32))
    assert dense == sum(weight.nbytes for weight in opened.decoder._prefill._dense.values()) > 0
    monkeypatch.setattr("sdk.analyzer.read_manifest", lambda folder: manifest)
    least = memory.weights + dense + memory.per_face
    for limit, held in ((least, dense), (least - 1, 0)):
        with Analyzer(folder, memory_limit=limit) as analyzer:
            assert analyzer.info()["memory"]["weights"] == memory.weights + held
            assert analyzer._seats == (limit - memory.weights - held) // memory.per_face


@pytest.mark.parametrize(
    ("group", "head_size", "count"), [(32, 64, 1), (128, 128, 1), (16, 64, 0), (-1, 64, 0), (32, 80, 0), (32, 96, 0)]
)
def test_only_what_the_kernels_compute_gives_a_variant(folder, tmp_path, group, head_size, count):
    copy = shutil.copytree(folder / "decoder/gptq", tmp_path / "gptq")
    change("quantize_config.json", group_size=group)(copy)
    assert len(gptq_variants(copy, head_size)) == count


def test_heads_that_the_kernels_do_not_compute_are_refused(folder):
    geometry = read_manifest(folder).geometry.model_copy(update={"head_size": 80})
    with pytest.raises(BackendError, match="80 dimensions.*powers of two"):
        read_llama(folder / "decoder/gptq", geometry, torch.zeros(700, 64), "cpu", torch.float32)


def change(name, **changes):
    """A change to a JSON file of a GPTQ folder; a value of None removes the key."""

    def apply(folder):
        content = json.loads((folder / name).read_text())
        content.update(changes)
        (folder / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return apply


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (change("quantize_config.json", bits=8), BackendError, "symmetric GPTQ in 4 bits"),
        (change("quantize_config.json", sym=False), BackendError, "symmetric GPTQ in 4 bits"),
        (change("quantize_config.json", checkpoint_format="gptq_v2"), BackendError, "checkpoint_format gptq"),
        (change("quantize_config.json", bits=None), IntegrityError, "expected a GPTQ folder"),
        (lambda folder: (folder / "quantize_config.json").write_text("[]"), IntegrityError, "expected a GPTQ folder"),
        (lambda folder: (folder / "config.json").unlink(), IntegrityError, "expected a GPTQ folder"),
        (change("config.json", rms_norm_eps=None), IntegrityError, "expected a GPTQ folder"),
        (lambda folder: (folder / "model-layer-001.safetensors").unlink(), IntegrityError, "qweight is missing"),
        (lambda folder: (folder / "model-rest.safetensors").write_bytes(b"short"), IntegrityError, "copy the bundle"),
    ],
)
def test_other_folders_are_refused(folder, tmp_path, damage, error, message):
    copy = shutil.copytree(folder / "decoder/gptq", tmp_path / "gptq")
    damage(copy)
    geometry = read_manifest(folder).geometry
    with pytest.raises(error, match=message):
        read_llama(copy, geometry, torch.zeros(700, 64), "cpu", torch.float32)


def test_the_benchmark_runs_at_a_tiny_shape():
    """It checks every kernel and prints a table and one JSON line with every row; its times mean nothing here."""
    pytest.importorskip("triton")
    script = Path(__file__).parents[1] / "benchmarks/gpu.py"
    command = [sys.executable, str(script), "--tiny", "--device", "cpu", "--rounds", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(result.stdout.splitlines()[-1])["figures"]
    assert {f"decode step, batch {batch}" for batch in (1, 2, 4, 8)} <= set(figures)
    assert all(row["ms"] > 0 for row in figures.values())
    assert "every kernel computes what its reference computes" in result.stderr
