"""Triton kernels against torch in Triton's interpreter, and the GPTQ folders that they support."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from export.describe import gptq_variants  # noqa: E402
from sdk.bundles.manifest import Geometry, read_manifest  # noqa: E402
from sdk.errors import BackendError, IntegrityError  # noqa: E402
from sdk.runtime.backends.gptq_cuda import reference  # noqa: E402
from sdk.runtime.backends.gptq_cuda.buffers import StepBuffers  # noqa: E402
from sdk.runtime.backends.gptq_cuda.weights import (  # noqa: E402
    Layer,
    LlamaWeights,
    interleave,
    pack,
    read_llama,
    rotary_tables,
)


def random_llama(group: int = 32, layers: int = 2, heads: int = 4, kv_heads: int = 4, size: int = 16) -> LlamaWeights:
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
    return LlamaWeights(geometry, 1e-5, table, tuple(layer() for _ in range(layers)), norm(), head, *angles)


SHAPES = {
    "group 32": {},
    "group 64": {"group": 64},
    "group 128, grouped queries": {"group": 128, "heads": 8, "kv_heads": 2},
    "wide heads": {"group": 128, "heads": 2, "kv_heads": 2, "size": 128},
}


@pytest.fixture(scope="module", params=SHAPES)
def llama(request):
    return random_llama(**SHAPES[request.param])


def made_up_rows(llama: LlamaWeights, count: int) -> StepBuffers:
    """Rows of three sequences at different lengths, one of them without a sequence."""
    rows = StepBuffers.allocate(llama).first(count)
    random = torch.Generator().manual_seed(count)
    for name in ("hidden", "weighted", "query", "attended", "product"):
        getattr(rows, name).normal_(generator=random)
    rows.squares.uniform_(1, 2, generator=random)
    rows.sequences.copy_(torch.arange(count) % 3)
    rows.positions.copy_(torch.arange(count) * 3 + 1)
    if count > 2:
        rows.sequences[1] = -1
    return rows


def made_up_cache(llama: LlamaWeights) -> torch.Tensor:
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
def test_a_kernel_computes_what_its_reference_computes(triton_kernels, llama, call, count):
    """Every buffer within 1e-4 of its largest value for one row, 2e-3 for several rows, which multiply in float16.

    Twice in a row, so that counters which are not left at zero would show.
    """
    found = {}
    for module in (reference, triton_kernels):
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
        worst = float((found[triton_kernels][name].double() - expected.double()).abs().max())
        assert worst <= limit, f"{name}: differs by {worst:.1e}, at most {limit:.1e}"


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter
def test_nan_logits_choose_a_token_of_the_vocabulary(triton_kernels):
    """The next step reads its embedding; any other id would be an address outside the table.

    64 tokens fill the blocks and their number is a power of two, so no padding is there to be chosen.
    """
    llama = random_llama()
    llama = dataclasses.replace(llama, head=llama.head[:64])
    rows, state = made_up_rows(llama, 1), torch.tensor([[5, 7], [98, 3], [0, 11]], dtype=torch.int32)
    rows.weighted.fill_(torch.nan)
    triton_kernels.head(rows, llama, state)
    assert 0 <= rows.best.item() < 64
    assert 0 <= state[rows.sequences.item(), 0].item() < 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_dequantising_is_exact(triton_kernels, llama, dtype):
    for linear in llama.layers[0].linears:
        found, expected = (torch.full((linear.inputs, linear.outputs), torch.nan, dtype=dtype) for _ in range(2))
        triton_kernels.dequantise(linear, found)
        reference.dequantise(linear, expected)
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("group", "head_size", "count"), [(32, 64, 1), (128, 128, 1), (16, 64, 0), (-1, 64, 0), (32, 80, 0), (32, 96, 0)]
)
def test_only_what_the_kernels_compute_gives_a_variant(gptq_bundle, tmp_path, group, head_size, count):
    copy = shutil.copytree(gptq_bundle / "decoder/gptq", tmp_path / "gptq")
    change("quantize_config.json", group_size=group)(copy)
    assert len(gptq_variants(copy, head_size)) == count


def test_heads_that_the_kernels_do_not_compute_are_refused(gptq_bundle):
    geometry = read_manifest(gptq_bundle).geometry.model_copy(update={"head_size": 80})
    with pytest.raises(BackendError, match="80 dimensions.*powers of two"):
        read_llama(gptq_bundle / "decoder/gptq", geometry, torch.zeros(700, 64), "cpu", torch.float32)


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
        (lambda folder: (folder / "config.json").unlink(), IntegrityError, "config.json cannot be read"),
        (change("config.json", rms_norm_eps=None), IntegrityError, "expected a GPTQ folder"),
        (lambda folder: (folder / "model-layer-001.safetensors").unlink(), IntegrityError, "qweight is missing"),
        (lambda folder: (folder / "model-rest.safetensors").write_bytes(b"short"), IntegrityError, "copy the bundle"),
    ],
)
def test_other_folders_are_refused(gptq_bundle, tmp_path, damage, error, message):
    copy = shutil.copytree(gptq_bundle / "decoder/gptq", tmp_path / "gptq")
    damage(copy)
    geometry = read_manifest(gptq_bundle).geometry
    with pytest.raises(error, match=message):
        read_llama(copy, geometry, torch.zeros(700, 64), "cpu", torch.float32)


def test_the_benchmark_runs_at_a_tiny_shape():
    """It checks every kernel and prints a table and one JSON line with every row; its times mean nothing on a CPU."""
    pytest.importorskip("triton")
    script = Path(__file__).parents[1] / "benchmarks/gpu.py"
    command = [sys.executable, str(script), "--tiny", "--device", "cpu", "--rounds", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(result.stdout.splitlines()[-1])["figures"]
    assert {f"decode step, batch {batch}" for batch in (1, 2, 4, 8)} <= set(figures)
    assert all(row["ms"] > 0 for row in figures.values())
    assert "every kernel computes what its reference computes" in result.stderr
