"""Write an array as `torch.save` does, without torch: vLLM's server takes prompt embeddings in this format only.

The file is a zip archive with the values (`data/0`) and a pickle that rebuilds a tensor from them (`data.pkl`). The
pickle consists of opcodes that `torch.load(weights_only=True)` accepts; see torch/serialization.py.
"""

import pickle
import struct
import zipfile
from io import BytesIO

import numpy as np

from sdk.arrays import Floats

_STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage"}


def tensor_file(array: Floats) -> bytes:
    """The file of a (R, D) float16 or float32 array."""
    file = BytesIO()
    values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {
            "data.pkl": _pickled(values.shape, values.dtype.name),
            "byteorder": b"little",
            "data/0": values.tobytes(),
            "version": b"3\n",
        }.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def _pickled(shape: tuple[int, ...], dtype: str) -> bytes:
    """Opcodes for `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`; the storage is persistent
    object ("storage", type, key, device, number of values)."""
    rows, columns = shape
    storage = (
        pickle.MARK
        + _text("storage")
        + _name("torch", _STORAGES[dtype])
        + _text("0")
        + _text("cpu")
        + _number(rows * columns)
        + pickle.TUPLE
        + pickle.BINPERSID
    )
    size, stride = (_number(first) + _number(second) + pickle.TUPLE2 for first, second in (shape, (columns, 1)))
    hooks = _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = storage + _number(0) + size + stride + pickle.NEWFALSE + hooks
    rebuilt = _name("torch._utils", "_rebuild_tensor_v2") + pickle.MARK + arguments + pickle.TUPLE + pickle.REDUCE
    return pickle.PROTO + b"\x02" + rebuilt + pickle.STOP


def _text(text: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(text)) + text.encode("ascii")


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode("ascii")


def _number(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)
