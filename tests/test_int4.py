"""Quantised layers mean the same to numpy and to ONNX Runtime's MatMulNBits."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.quantise.linear import QuantizedLinear, fitting_group, round_to_nearest
from sdk.errors import ExportError

WEIGHT = np.random.default_rng(0).standard_normal((48, 256)).astype(np.float32)


@pytest.mark.parametrize(("bits", "limit"), [(4, 0.12), (8, 0.008)])
def test_round_to_nearest(bits, limit):
    """The largest value of each group is met exactly; the error of Gaussian weights is below 12 % and 0.8 %."""
    quantized = round_to_nearest(WEIGHT, bits)
    found = quantized.dequantize()
    assert np.linalg.norm(found - WEIGHT) < limit * np.linalg.norm(WEIGHT)
    groups, back = WEIGHT.reshape(48, 2, 128), found.reshape(48, 2, 128)
    at = np.abs(groups).argmax(axis=2)[..., None]
    np.testing.assert_allclose(np.take_along_axis(back, at, 2), np.take_along_axis(groups, at, 2), rtol=1e-6)


def test_zeros_stay_zero():
    assert not round_to_nearest(np.zeros((2, 128), np.float32)).dequantize().any()


@pytest.mark.parametrize("bits", [4, 8])
def test_onnxruntime_reads_the_packed_layout(bits):
    """With float activations (accuracy level 1): within 1e-5 of numpy on the dequantised weights."""
    linear = round_to_nearest(WEIGHT, bits)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain="com.microsoft",
        N=48,
        K=256,
        bits=bits,
        block_size=linear.group,
        accuracy_level=1,
    )
    weights = [numpy_helper.from_array(linear.packed(), "w"), numpy_helper.from_array(linear.scales, "s")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", None]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((5, 256)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ linear.dequantize().T, atol=1e-4)


def test_stacking_is_concatenation():
    parts = [round_to_nearest(WEIGHT[:16]), round_to_nearest(WEIGHT[16:])]
    stacked, whole = QuantizedLinear.stack(parts), round_to_nearest(WEIGHT)
    np.testing.assert_array_equal(stacked.packed(), whole.packed())
    np.testing.assert_array_equal(stacked.scales, whole.scales)


def test_groups():
    assert [fitting_group(size) for size in (4096, 160, 64, 48)] == [128, 32, 64, 16]
    with pytest.raises(ExportError, match="multiple of 16"):
        fitting_group(100)
