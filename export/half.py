"""Weights in half the bytes where that loses nothing: checkpoints come in 16 bit, graphs compute in 32."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

SMALL = 256  # values below which a cast costs more than it saves


def store_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store every large float32 weight whose values are exact in float16 as float16, with a cast behind it.

    ONNX Runtime folds the casts when it opens the graph: the file is smaller, the computation is the same.
    """
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if values.size < SMALL or not np.array_equal(half.astype(np.float32), values):
            continue
        casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=onnx.TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}.half"))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model
