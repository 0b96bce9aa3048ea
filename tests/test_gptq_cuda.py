"""The GPTQ decoder for GPUs: Triton kernels against torch in Triton's interpreter, and the whole against the others."""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN

torch = pytest.importorskip("torch")
os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

from export.autogptq import GptqWeights  # noqa: E402
from export.build import export_bundle  # noqa: E402
from export.calibrate import CalibrationSet  # noqa: E402
from export.decoder import write_decoder  # noqa: E402
from export.gptq import GptqOptions  # noqa: E402
from export.graphs import llama as graph_of  # noqa: E402
from export.int4 import QuantizedLinear  # noqa: E402
from export.options import ExportOptions  # noqa: E402
from sdk.analyzer import open_backend  # noqa: E402
from sdk.bundles.manifest import Geometry, read_manifest  # noqa: E402
from sdk.cli import main  # noqa: E402
from sdk.errors import BackendError, IntegrityError  # noqa: E402
from sdk.runtime.backends.gptq_cuda import reference  # noqa: E402
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
    geometry, table = read_manifest(folder).geometry, np.load(folder / "decoder/embeddings.npy")
    model = read_llama(folder / "decoder/gptq", geometry, torch.from_numpy(table), "cpu", dtype)
    return GptqDecoder(model, kernels, table, dtype=dtype, graphs=False)


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
