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
