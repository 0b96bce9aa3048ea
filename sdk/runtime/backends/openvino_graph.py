"""The decoder of a bundle as an OpenVINO model: its ONNX graph, with the attention over a paged KV cache.

OpenVINO reads GroupQueryAttention, but computes it with a cache that is concatenated, and therefore copied, in every
step. Its PagedAttention appends to blocks in place, so that a cache can be rewound, and takes sequences of different
lengths at once. OpenVINO also copies quantised weights when it reads a graph; here they stay in the mapped file.
"""

import importlib
import mmap
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdk.bundles.files import AGAIN
from sdk.bundles.manifest import Geometry
from sdk.errors import BackendError, DependencyError, GraphError
from sdk.onnx_model import ExternalTensor, external_tensors
from sdk.printable import one_line

_BLOCK = 32  # positions of a block; the only number that the CPU plugin takes
_KEPT = ("inputs_embeds", "logit_positions")  # inputs of the ONNX graph that stay
_INPUTS = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins", "positions")


def load_openvino() -> Any:
    """Import the module `openvino`, without its telemetry.

    Its import reports itself to Intel through the package `openvino_telemetry`, for which no variable is a switch.
    Where that package is missing, it has a stand-in that sends nothing.

    Raises:
        DependencyError: it is not installed.
    """
    hidden = {"openvino_telemetry": None} if "openvino_telemetry" not in sys.modules else {}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None makes an import fail
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise DependencyError("openvino", "openvino", "decode with OpenVINO") from None
    finally:
        for name in hidden:
            del sys.modules[name]


class PagedGraph:
    """The model to compile, and the mapped files with its weights, which must live as long as what is compiled.

    Args:
        core: the openvino.Core that reads the graph.
        path: ONNX graph made by `export.graphs.decoder`.
        geometry: the shape that it must have.

    Attributes:
        model: an openvino.Model with the inputs `inputs_embeds` (1, T, D) for the T rows of all sequences,
            `logit_positions` (K,), `positions` (T,), `past_lens` (S,), `subsequence_begins` (S + 1,), `block_indices`,
            `block_indices_begins` (S + 1,), `max_context_len` () and `<layer>.key|value`, the blocks of the cache;
            and the output `logits` (1, K, vocabulary).
        group: weights that share a scale; 0 if they are not quantised.

    Raises:
        GraphError: the file is no decoder of this shape.
        BackendError: this OpenVINO cannot read it.
    """

    def __init__(self, core: Any, path: Path, geometry: Geometry) -> None:
        tensors = external_tensors(path)
        self._ov, self._geometry = load_openvino(), geometry
        self._op = importlib.import_module("openvino.opset15")
        self._maps: dict[Path, mmap.mmap] = {}
        self.group = 0
        try:
            read = core.read_model(path)
            attentions = {self._layer(node): node for node in read.get_ops() if _kind(node) == "GroupQueryAttention"}
            self._check(path, read, attentions)
            self._map_weights(read, tensors)
            self.model = self._paged(read, attentions)
        except (RuntimeError, TypeError, ValueError, LookupError) as error:  # openvino has no types of its own
            raise BackendError(f"OpenVINO {self._ov.__version__} cannot read {path}: {one_line(error)}") from error

    def drop_pages(self) -> None:
        """Let the system take back the pages of the weights. OpenVINO has its own copy after the first call."""
        for data in self._maps.values():
            if hasattr(mmap, "MADV_DONTNEED"):
                data.madvise(mmap.MADV_DONTNEED)

    @staticmethod
    def _layer(attention: Any) -> int:
        """The layer of an attention, from the name of its cache: past_key_values.<layer>.key."""
        return int(attention.input_value(3).get_node().friendly_name.split(".")[1])

    def _check(self, path: Path, read: Any, attentions: Mapping[int, Any]) -> None:
        g = self._geometry
        wanted: dict[str, Any] = {
            "num_heads": g.heads,
            "kv_num_heads": g.kv_heads,
            "do_rotary": True,
            "rotary_interleaved": False,
        }
        wanted |= {"local_window_size": -1, "scale": 0.0, "smooth_softmax": False}
        fits = set(attentions) == set(range(g.layers)) and all(
            wanted.items() <= node.get_attributes().items()
            and node.input_value(3).get_partial_shape()[3].get_length() == g.head_size
            for node in attentions.values()
        )
        sizes = [p.get_partial_shape()[2].get_length() for p in (read.input("inputs_embeds"), read.output("logits"))]
        if not fits or sizes != [g.hidden_size, g.vocabulary]:
            raise GraphError(f"{path}: expected a decoder of {g.layers} layers, its shape differs; {AGAIN}")

    def _map_weights(self, read: Any, tensors: Mapping[str, ExternalTensor]) -> None:
        """Replace OpenVINO's copies of quantised weights by views of the file."""
        for node in read.get_ops():
            tensor = tensors.get(node.friendly_name) if _kind(node) == "Constant" else None
            if tensor is None or tensor.size != node.get_byte_size():
                continue
            if tensor.file not in self._maps:
                with tensor.file.open("rb") as file:
                    self._maps[tensor.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            data = np.frombuffer(self._maps[tensor.file], np.uint8, tensor.size, tensor.offset)
            shape, kind = node.get_output_shape(0), node.get_output_element_type(0)
            if kind.is_integral() and len(shape) == 3:  # outputs, groups, weights of a group
                self.group = shape[2]
            view = self._ov.Tensor(data, shape, kind)
            _replace(node, self._ov.op.Constant(view, shared_memory=True))

    def _paged(self, read: Any, attentions: Mapping[int, Any]) -> Any:
        """The model in which PagedAttention takes the place of every GroupQueryAttention."""
        inputs = {name: self._parameter(name, [-1]) for name in _INPUTS}
        inputs["max_context_len"] = self._parameter("max_context_len", [])
        rotations = self._rotations(attentions[0], inputs["positions"])
        for layer, node in sorted(attentions.items()):
            caches = [self._parameter(f"{layer}.{part}", self._cache_shape, np.float32) for part in ("key", "value")]
            inputs |= {cache.friendly_name: cache for cache in caches}
            _replace(node, self._attention(node, rotations, caches, inputs))
        kept = [parameter for parameter in read.get_parameters() if parameter.friendly_name in _KEPT]
        model = self._ov.Model([read.output("logits").get_node()], [*kept, *inputs.values()], "decoder")
        model.reshape({"inputs_embeds": [1, -1, self._geometry.hidden_size]})
        return model

    @property
    def _cache_shape(self) -> list[int]:
        return [-1, self._geometry.kv_heads, _BLOCK, self._geometry.head_size]

    def _parameter(self, name: str, shape: list[int], kind: Any = np.int32) -> Any:
        parameter = self._op.parameter(shape, kind, name=name)
        parameter.output(0).set_names({name})
        return parameter

    def _rotations(self, attention: Any, positions: Any) -> tuple[Any, Any]:
        """Cosines and sines (1, 1, T, size) of the rotary embedding at the positions of the rows."""
        tables = (attention.input_value(index) for index in (7, 8))  # (context, size / 2)
        halves = (self._op.gather(table, positions, np.int32(0)) for table in tables)
        cosine, sine = (self._op.unsqueeze(self._op.concat([h, h], -1), np.array([0, 1], np.int32)) for h in halves)
        return cosine, sine

    def _attention(self, node: Any, rotations: tuple[Any, Any], caches: list[Any], inputs: Mapping[str, Any]) -> Any:
        g = self._geometry
        query, key, value = (node.input_value(index) for index in range(3))  # (1, heads, T, size)
        arguments = [
            self._flat(self._rotated(query, rotations), g.heads),
            self._flat(self._rotated(key, rotations), g.kv_heads),
            self._flat(value, g.kv_heads),
            *caches,
            *(inputs[name] for name in _INPUTS[:4]),
            self._op.constant(np.float32(g.head_size**-0.5)),
            *self._unused("i f"),  # sliding window, slopes of ALiBi
            inputs["max_context_len"],
            *self._unused("I I I f f i i f i I I I I B I"),  # scores, rotated blocks, sparse attention, sinks, eviction
        ]
        paged = self._ov.op._PagedAttentionExtension([_output(argument) for argument in arguments])
        info = {"num_k_heads": g.kv_heads, "num_v_heads": g.kv_heads}
        for name, number in {**info, "k_head_size": g.head_size, "v_head_size": g.head_size}.items():
            paged.get_rt_info()[name] = number
        return self._op.reshape(paged.output(0), np.array([1, -1, g.heads * g.head_size], np.int32), False)

    def _unused(self, kinds: str) -> list[Any]:
        """Values of arguments that switch a feature off: a lower-case i is the number 0, other letters are empty."""
        types = {"i": np.int32(0), "I": np.zeros(0, np.int32), "B": np.zeros(0, np.uint8), "f": np.zeros(0, np.float32)}
        return [self._op.constant(types[kind]) for kind in kinds.split()]

    def _rotated(self, rows: Any, rotations: tuple[Any, Any]) -> Any:
        """Apply the rotary embedding to (1, heads, T, size): the two halves of a head form the pairs."""
        half = self._geometry.head_size // 2
        first, second = self._op.variadic_split(rows, np.int32(3), np.array([half, half], np.int32)).outputs()
        turned = self._op.concat([self._op.negative(second), first], 3)
        cosine, sine = rotations
        return self._op.add(self._op.multiply(rows, cosine), self._op.multiply(turned, sine))

    def _flat(self, rows: Any, heads: int) -> Any:
        """(1, heads, T, size) as (T, heads * size)."""
        by_row = self._op.transpose(rows, np.array([0, 2, 1, 3], np.int32))
        return self._op.reshape(by_row, np.array([-1, heads * self._geometry.head_size], np.int32), False)


def _kind(node: Any) -> str:
    return str(node.get_type_name())


def _output(node: Any) -> Any:
    return node.output(0) if hasattr(node, "output") else node


def _replace(node: Any, other: Any) -> None:
    """Let what reads the first output of a node read that of another."""
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(other.output(0))
