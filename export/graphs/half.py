"""Float16 in graphs: weights stored in half the bytes where that loses nothing, and the decoder that a GPU computes."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
SMALL = 256  # values below which a cast costs more than it saves


def store_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store every large float32 weight whose values are exact in float16 as float16, with a cast behind it.

    ONNX Runtime folds the casts when it opens the graph: the file is smaller, the computation is the same.
    """
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if values.size < SMALL or not np.array_equal(half.astype(np.float32), values):
            continue
        casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}.half"))
    _set_nodes(graph, [*casts, *graph.node])
    return model


def compute_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The decoder graph with activations, KV cache, norms and scales in float16; logits stay float32.

    Weights are not touched: the graph refers to the same data file, quantised values are the same bytes, and each
    float32 tensor gets a cast behind it, which ONNX Runtime folds when it opens the graph.

    Args:
        model: loaded without its external data.
    """
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type == FLOAT:
            casts.append(helper.make_node("Cast", [f"{tensor.name}.float32"], [tensor.name], to=FLOAT16))
            tensor.name += ".float32"
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == FLOAT and value.name != "logits":
            value.type.tensor_type.elem_type = FLOAT16
    for node in graph.node:
        node.output[:] = ["logits.float16" if name == "logits" else name for name in node.output]
        exact = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]  # 8-bit activations
        del node.attribute[:]
        node.attribute.extend(exact)
    _set_nodes(graph, [*casts, *graph.node, helper.make_node("Cast", ["logits.float16"], ["logits"], to=FLOAT)])
    return model


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
