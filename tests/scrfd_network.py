"""A network with the interface of SCRFD, insightface's detector, on random weights."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_scrfd(path, size=640):
    """SCRFD's interface on random heads: strided pooling and 1x1 convolutions in the order of det_10g's outputs."""
    random = np.random.default_rng(0)
    nodes, weights, outputs = [], [], []
    heads = (("score", 1, 1.2), ("box", 4, 0.5), ("point", 10, 0.5))
    for name, channels, spread in heads:
        for stride in (8, 16, 32):
            key = f"{name}{stride}"
            weight = random.normal(0, spread, (2 * channels, 3, 1, 1)).astype(np.float32)
            weights.append(numpy_helper.from_array(weight, f"{key}.weight"))
            nodes += [
                helper.make_node(
                    "AveragePool", ["input.1"], [f"{key}.pool"], kernel_shape=[stride] * 2, strides=[stride] * 2
                ),
                helper.make_node("Conv", [f"{key}.pool", f"{key}.weight", f"{name}.bias"], [f"{key}.conv"]),
                helper.make_node("Sigmoid" if name == "score" else "Abs", [f"{key}.conv"], [f"{key}.act"]),
                helper.make_node("Transpose", [f"{key}.act"], [f"{key}.last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{key}.last", f"{name}.shape"], [key]),
            ]
            outputs.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, ["N", channels]))
        weights.append(numpy_helper.from_array(np.array([-1, channels]), f"{name}.shape"))
        bias = np.full(2 * channels, -1.5 if name == "score" else 0.5, np.float32)
        weights.append(numpy_helper.from_array(bias, f"{name}.bias"))
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, size, size])]
    graph = helper.make_graph(nodes, "scrfd", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
