"""An ONNX graph of one int4 matrix product, to measure the peak speed of the decoder's arithmetic.

The sdk does not import onnx, so this module encodes the few necessary fields of onnx.proto3.
"""

import os

import numpy as np
import numpy.typing as npt

_GROUP = 128
_FLOAT, _UINT8, _INT = 1, 2, 2


def int4_matmul(inputs: int, outputs: int) -> bytes:
    """Make a model x (rows, inputs) float32 -> y (rows, outputs) with random weights and 8-bit activations."""
    weights = np.frombuffer(os.urandom(outputs * inputs // 2), np.uint8).reshape(outputs, inputs // _GROUP, _GROUP // 2)
    scales = np.full((outputs, inputs // _GROUP), 0.01, np.float32)
    sizes = {"K": inputs, "N": outputs, "bits": 4, "block_size": _GROUP, "accuracy_level": 4}
    node = _text(1, "x") + _text(1, "w") + _text(1, "s") + _text(2, "y") + _text(4, "MatMulNBits")
    node += b"".join(
        _message(5, _text(1, name) + _number(3, value) + _number(20, _INT)) for name, value in sizes.items()
    )
    graph = _message(1, node + _text(7, "com.microsoft")) + _text(2, "probe")
    graph += _message(5, _tensor("w", _UINT8, weights)) + _message(5, _tensor("s", _FLOAT, scales))
    graph += _message(11, _value("x", inputs)) + _message(12, _value("y", outputs))
    opsets = _message(8, _text(1, "") + _number(2, 17)) + _message(8, _text(1, "com.microsoft") + _number(2, 1))
    return _number(1, 8) + _message(7, graph) + opsets


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _tensor(name: str, kind: int, array: "npt.NDArray[np.generic]") -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    return dims + _number(2, kind) + _text(8, name) + _message(9, array.tobytes())


def _value(name: str, width: int) -> bytes:
    """A float32 matrix with a dynamic number of rows."""
    shape = _message(1, _text(2, "rows")) + _message(1, _number(1, width))
    return _text(1, name) + _message(2, _message(1, _number(1, _FLOAT) + _message(2, shape)))
