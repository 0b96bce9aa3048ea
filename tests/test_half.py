"""Weights that are exact in float16 are stored as such, and nothing else changes."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from export.graphs.half import store_in_half


def model(weight: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(content: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(content.SerializeToString()).run(None, {"x": rows})[0]


def test_exact_weights_take_half_the_bytes_and_give_the_same_bits():
    random = np.random.default_rng(0)
    weight = random.normal(size=(64, 32)).astype(np.float16).astype(np.float32)
    rows = random.normal(size=(3, 64)).astype(np.float32)
    before = model(weight)
    after = store_in_half(model(weight))
    assert after.ByteSize() < 0.6 * before.ByteSize()
    np.testing.assert_array_equal(run(after, rows), run(before, rows))


def test_what_half_would_round_stays_in_float32():
    weight = np.full((64, 32), 0.1, np.float32)
    assert store_in_half(model(weight)).graph.initializer[0].data_type == TensorProto.FLOAT


def test_bfloat16_values_are_stored_within_the_tolerance():
    """Their smallest values are not exact in float16, which changes this weight by less than 1e-5."""
    random = np.random.default_rng(0)
    bits = random.normal(scale=0.02, size=(64, 32)).astype(np.float32).view(np.uint32) & 0xFFFF0000
    weight = bits.view(np.float32)
    weight[0, 0] = 2.0**-22 * 1.5
    rows = random.normal(size=(3, 64)).astype(np.float32)
    assert store_in_half(model(weight)).graph.initializer[0].data_type == TensorProto.FLOAT
    after = store_in_half(model(weight), 1e-5)
    assert after.graph.initializer[0].data_type == TensorProto.FLOAT16
    difference = np.linalg.norm(run(after, rows) - run(model(weight), rows)) / np.linalg.norm(run(model(weight), rows))
    assert difference < 1e-5, difference
    real = np.full((64, 32), 0.1, np.float32)
    assert store_in_half(model(real), 1e-5).graph.initializer[0].data_type == TensorProto.FLOAT


def test_what_float16_cannot_hold_stays():
    weight = np.full((64, 32), 1e6, np.float32)
    assert store_in_half(model(weight), 1e-5).graph.initializer[0].data_type == TensorProto.FLOAT
