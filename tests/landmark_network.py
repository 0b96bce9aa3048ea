"""A small random network with 2d106det's interface: `data` (N, 3, 192, 192) -> `fc1` (N, 212).

`python tests/landmark_network.py OUT.onnx` writes it; insightface's own weights are not free to ship.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_landmark_network(path: Path, seed: int = 0) -> Path:
    """Like the real one it centres its input itself: (x - 127.5) / 128, then pooling and one dense layer."""
    random = np.random.default_rng(seed)
    weights = {
        "centre": np.array(127.5, np.float32),
        "spread": np.array(128, np.float32),
        "weight": random.normal(0, 0.1, (3 * 8 * 8, 212)).astype(np.float32),
        "bias": random.uniform(-0.5, 0.5, 212).astype(np.float32),
    }
    nodes = [
        helper.make_node("Sub", ["data", "centre"], ["centred"]),
        helper.make_node("Div", ["centred", "spread"], ["scaled"]),
        helper.make_node("AveragePool", ["scaled"], ["pooled"], kernel_shape=[24, 24], strides=[24, 24]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["dense"]),
        helper.make_node("Tanh", ["dense"], ["fc1"]),
    ]
    graph = helper.make_graph(
        nodes,
        "landmark",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 192, 192])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["N", 212])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


if __name__ == "__main__":
    write_landmark_network(Path(sys.argv[1]))
