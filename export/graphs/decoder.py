"""The decoder as an ONNX graph: Llama in ONNX Runtime's fused operators, with the KV cache updated in place.

Inputs   inputs_embeds (B, T, D); seqlens_k (B,) positions before the last of each row; total_sequence_length ();
         logit_positions (K,) rows whose logits are computed;
         past_key_values.<layer>.key|value (B, heads, capacity, size)
Outputs  logits (B, K, vocabulary); present.<layer>.key|value, to be bound to the same memory as the past

With T > 1 and a cache that is not empty, GroupQueryAttention takes only B = 1. With T = 1 it takes any B, and each row
has its own length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from export.quantise.linear import QuantizedLinear, round_to_nearest
from sdk.arrays import Floats
from sdk.bundles.manifest import Geometry

Weight: TypeAlias = Floats | QuantizedLinear
_PAGE = 4096  # external data at multiples of it can be mapped into memory
_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Llama:
    """The model that a graph is made from.

    Attributes:
        weights: (N, K) array or quantised layer by its name in Hugging Face's Llama; read one at a time.
        geometry: shape of the decoder.
        rope_theta: base of the rotary embedding.
        norm_epsilon: of RMSNorm.
    """

    weights: Mapping[str, Weight]
    geometry: Geometry
    rope_theta: float
    norm_epsilon: float


@dataclass(frozen=True)
class Precision:
    """The precision of a decoder's linear layers.

    Attributes:
        name: in the names of files and variants.
        bits: 4 quantises layers that come in float32; None keeps them. Quantised layers stay as they are.
        head_bits: of the output head if `bits` is given; its errors reach the answer directly.
    """

    name: str
    bits: int | None = None
    head_bits: int = 8


def write_decoder(model: Llama, path: Path, *, bits: int | None = None, head_bits: int = 8) -> None:
    """Write the graph and, beside it, its weights in `<name>.data`.

    Args:
        model: the decoder.
        path: the .onnx file.
        bits: 4 for MatMulNBits with 8-bit activations (accuracy level 4), None for float32; see `Precision`.
        head_bits: of the output head; see `Precision`.
    """
    with (path.parent / f"{path.name}.data").open("wb") as data:
        graph = _Graph(model, data, bits, head_bits)
        graph.build()
        onnx.save(graph.model(), path)


class _Graph:
    """Collects nodes and writes each weight at once, so that memory holds one weight at a time."""

    def __init__(self, model: Llama, data: BinaryIO, bits: int | None, head_bits: int) -> None:
        self._model, self._data = model, data
        self._bits, self._head_bits = bits, head_bits
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def build(self) -> None:
        g = self._model.geometry
        self._input("inputs_embeds", TensorProto.FLOAT, ["B", "T", g.hidden_size])
        self._input("seqlens_k", TensorProto.INT32, ["B"])
        self._input("total_sequence_length", TensorProto.INT32, [])
        self._input("logit_positions", TensorProto.INT64, ["K"])
        self._rotary_tables()
        hidden, update = self._layer(0, "inputs_embeds", None)
        for layer in range(1, g.layers):
            hidden, update = self._layer(layer, hidden, update)
        last = self._node("Add", [hidden, update], "last_hidden")
        kept = self._node("Gather", [last, "logit_positions"], "kept_hidden", axis=1)
        normed = self._norm("model.norm.weight", kept)
        self._linear("logits", normed, ["lm_head.weight"], self._head_bits if self._bits else None)
        self._output("logits", ["B", "K", g.vocabulary])

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, "decoder", self._inputs, self._outputs, self._initializers)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="emola-edge")

    def _layer(self, index: int, hidden: str, update: str | None) -> tuple[str, str]:
        """One decoder layer, which takes and returns (hidden, update): the next norm adds the two."""
        prefix = f"model.layers.{index}."
        hidden, normed = self._add_norm(f"{prefix}input_layernorm.weight", hidden, update)
        attended = self._attention(index, normed)
        update = self._linear(f"{prefix}o", attended, [f"{prefix}self_attn.o_proj.weight"], self._bits)
        hidden, normed = self._add_norm(f"{prefix}post_attention_layernorm.weight", hidden, update)
        names = [f"{prefix}mlp.{part}_proj.weight" for part in ("gate", "up")]
        both = self._linear(f"{prefix}gate_up", normed, names, self._bits)
        self._nodes.append(helper.make_node("Split", [both], [f"{prefix}gate", f"{prefix}up"], axis=-1, num_outputs=2))
        gate = self._node("QuickGelu", [f"{prefix}gate"], f"{prefix}silu", domain=_MICROSOFT, alpha=1.0)
        product = self._node("Mul", [gate, f"{prefix}up"], f"{prefix}product")
        return hidden, self._linear(f"{prefix}down", product, [f"{prefix}mlp.down_proj.weight"], self._bits)

    def _attention(self, index: int, normed: str) -> str:
        g, prefix = self._model.geometry, f"model.layers.{index}."
        names = [f"{prefix}self_attn.{part}_proj.weight" for part in "qkv"]
        qkv = self._linear(f"{prefix}qkv", normed, names, self._bits)
        shape: list[str | int] = ["B", g.kv_heads, "capacity", g.head_size]
        past, present = [], []
        for part in ("key", "value"):
            past.append(self._input(f"past_key_values.{index}.{part}", TensorProto.FLOAT, shape))
            present.append(self._output(f"present.{index}.{part}", shape))
        lengths = ["seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"]
        node = helper.make_node(
            "GroupQueryAttention",
            [qkv, "", "", *past, *lengths],
            [f"{prefix}attended", *present],
            domain=_MICROSOFT,
            num_heads=g.heads,
            kv_num_heads=g.kv_heads,
            do_rotary=1,
        )
        self._nodes.append(node)
        return f"{prefix}attended"

    def _rotary_tables(self) -> None:
        g = self._model.geometry
        frequency = self._model.rope_theta ** -(np.arange(0, g.head_size, 2, dtype=np.float64) / g.head_size)
        angle = np.outer(np.arange(g.context), frequency)
        self._weight("cos_cache", np.cos(angle).astype(np.float32))
        self._weight("sin_cache", np.sin(angle).astype(np.float32))

    def _norm(self, weight: str, hidden: str) -> str:
        self._weight(weight, _as_array(self._model.weights[weight]))
        epsilon = self._model.norm_epsilon
        return self._node("SimplifiedLayerNormalization", [hidden, weight], f"{weight}.out", axis=-1, epsilon=epsilon)

    def _add_norm(self, weight: str, hidden: str, update: str | None) -> tuple[str, str]:
        """(hidden + update, its norm)."""
        if update is None:
            return hidden, self._norm(weight, hidden)
        self._weight(weight, _as_array(self._model.weights[weight]))
        outputs = [f"{weight}.out", "", "", f"{weight}.sum"]
        self._nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [hidden, update, weight],
                outputs,
                domain=_MICROSOFT,
                epsilon=self._model.norm_epsilon,
            )
        )
        return f"{weight}.sum", f"{weight}.out"

    def _linear(self, output: str, rows: str, names: list[str], bits: int | None) -> str:
        """Rows times the transposes of several weights side by side."""
        parts = [self._model.weights[name] for name in names]
        quantized = [part for part in parts if isinstance(part, QuantizedLinear)]
        if len(quantized) == len(parts):
            return self._quantized(output, rows, QuantizedLinear.stack(quantized))
        weight = np.concatenate([_as_array(part) for part in parts])
        if bits:
            return self._quantized(output, rows, round_to_nearest(weight, bits))
        self._weight(f"{output}.weight", np.ascontiguousarray(weight.T))
        return self._node("MatMul", [rows, f"{output}.weight"], output)

    def _quantized(self, output: str, rows: str, linear: QuantizedLinear) -> str:
        self._weight(f"{output}.weight", linear.packed())
        self._weight(f"{output}.scales", linear.scales)
        return self._node(
            "MatMulNBits",
            [rows, f"{output}.weight", f"{output}.scales"],
            output,
            domain=_MICROSOFT,
            N=linear.values.shape[0],
            K=linear.values.shape[1],
            bits=linear.bits,
            block_size=linear.group,
            accuracy_level=4,
        )

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _input(self, name: str, kind: int, shape: list[str | int]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def _output(self, name: str, shape: list[str | int]) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def _weight(self, name: str, array: npt.NDArray[np.generic]) -> None:
        """Append an array to the data file and refer to it."""
        self._data.seek(-self._data.tell() % _PAGE, 1)
        tensor = TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        entries = {"location": Path(self._data.name).name, "offset": self._data.tell(), "length": array.nbytes}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(np.ascontiguousarray(array).data)
        self._initializers.append(tensor)


def _as_array(weight: Weight) -> Floats:
    return weight.dequantize() if isinstance(weight, QuantizedLinear) else weight
