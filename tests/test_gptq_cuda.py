"""The GPTQ decoder for GPUs: Triton kernels against torch in Triton's interpreter, and the whole against the others."""

import os

import numpy as np
import pytest
from conftest import GOLDEN

torch = pytest.importorskip("torch")
os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

from export.build import export_bundle  # noqa: E402
from export.options import ExportOptions  # noqa: E402
from sdk.bundles.manifest import Geometry  # noqa: E402
from sdk.runtime.backends.gptq_cuda import reference  # noqa: E402
from sdk.runtime.backends.gptq_cuda.rows import Rows  # noqa: E402
from sdk.runtime.backends.gptq_cuda.weights import (  # noqa: E402
    Layer,
    Llama,
    interleave,
    pack,
    rotary_tables,
)


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


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("call", CALLS)
def test_a_kernel_computes_what_its_reference_computes(kernels, llama, call, count):
    """Every buffer within 1e-4 of its largest value for one row, 2e-3 for more, whose products are in float16.

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
        limit = tolerance * float(expected.abs().max())
        if name == "cache":
            limit += 2e-3
        worst = float((found[kernels][name].double() - expected.double()).abs().max())
        assert worst <= limit, f"{name}: differs by {worst:.1e}, at most {limit:.1e}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_dequantising_is_exact(kernels, llama, dtype):
    for linear in llama.layers[0].linears:
        found, expected = (torch.full((linear.inputs, linear.outputs), torch.nan, dtype=dtype) for _ in range(2))
        kernels.dequantise(linear, found)
        reference.dequantise(linear, expected)
        assert torch.equal(found, expected)
