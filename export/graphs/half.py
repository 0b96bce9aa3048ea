"""Float16 in graphs: weights stored in half the bytes where parity allows it, and the decoder for a GPU."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sdk.arrays import Floats

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
MIN_VALUES = 256  # of a weight; below it a cast costs more than it saves


def store_in_half(model: onnx.ModelProto, tolerance: float = 0.0) -> onnx.ModelProto:
    """Store every large float32 weight whose values are exact in float16 as float16, followed by a cast.

    ONNX Runtime folds the casts when it opens the graph or, for a large encoder, runs them again in each call (see
    `sdk.onnx_session.open_session`): the file is smaller and the computation is the same.

    Args:
        model: changed in place.
        tolerance: a weight may also change by this share of its norm. Values of bfloat16 below 2^-14 need it; real
            float32 values change by 2e-4 and stay.
    """
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < MIN_VALUES or not _agree(half.astype(np.float32), values, tolerance):
            continue
        casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}.half"))
    _set_nodes(graph, [*casts, *graph.node])
    return model


def _agree(stored: Floats, values: Floats, tolerance: float) -> bool:
    if tolerance == 0:
        return np.array_equal(stored, values)
    return bool(np.linalg.norm(stored - values) <= tolerance * np.linalg.norm(values))


def compute_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn activations, KV cache, norms and scales of a decoder graph into float16; logits stay float32.

    Weights stay as they are: the graph refers to the same data file, and each float32 tensor is followed by a cast,
    which ONNX Runtime folds when it opens the graph.

    Args:
        model: loaded without its external data; changed in place.
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
