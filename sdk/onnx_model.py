"""Which files an ONNX model reads beside itself: the external data of its tensors.

Every ONNX Runtime has its own rules for these paths, and versions before 1.24 follow any: absolute ones, "..", links.
So they are read here, before ONNX Runtime or TensorRT opens the model, with a reader of protobuf that looks at the
messages that may hold a tensor and skips all others. Source of the field numbers: onnx/onnx.proto.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sdk.errors import GraphError
from sdk.paths import is_inside, relative_path

_MESSAGES: dict[str, dict[int, str]] = {  # message -> fields of which a tensor may be part
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY = b"location"
_SMALL = 64 << 20  # bytes of a file that is searched for the key first
_GRAPH = 7  # field of a model
_NAME = 8  # field of a tensor
_DEPTH = 100  # nested messages; protobuf's own limit
_FIELDS = 2_000_000  # of a model; a CLIP tower has 20,000
_TEXT = 4096  # bytes of a path
_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}  # wire types; bytes of a value of fixed size

Bytes: TypeAlias = "bytes | mmap.mmap"


@dataclass(frozen=True)
class ExternalTensor:
    """A tensor whose bytes are in a file beside the model.

    Attributes:
        name: its name in the graph.
        file: the other file.
        offset, size: its bytes in that file.
    """

    name: str
    file: Path
    offset: int
    size: int


def external_files(path: Path) -> frozenset[str]:
    """The files with tensors of an ONNX model, relative to its folder.

    Raises:
        GraphError: the file is not an ONNX model, or one of those files lies elsewhere, is missing or is not a file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            small = len(data) <= _SMALL
            found = frozenset() if small and data.find(_KEY) < 0 else frozenset(_locations(data))
    except (OSError, ValueError) as error:
        raise GraphError(f"{path}: not an ONNX model ({error}); copy or download it again") from None
    for name in sorted(found):
        try:
            other = path.parent / relative_path(name)
        except ValueError:
            raise GraphError(
                f"{path}: its weights are in {name!r}, outside of its folder; expected a file beside it"
            ) from None
        if not is_inside(path.parent, other) and other.resolve().parent != path.resolve().parent:
            raise GraphError(f"{other} is a link that leaves the folder of {path.name}; copy the file itself")
        if not other.is_file():
            raise GraphError(f"{other} is missing: it has weights of {path.name}; copy or download it again")
    return found


def external_tensors(path: Path) -> dict[str, ExternalTensor]:
    """Where the bytes of the tensors in other files lie, by the name of the tensor.

    Raises:
        GraphError: as in `external_files`, or a place is not a number.
    """
    if not external_files(path):
        return {}
    found = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for kind, at, end in _messages(data):
                if kind == "Tensor" and (tensor := _external_tensor(path.parent, data, at, end)):
                    found[tensor.name] = tensor
        except ValueError as error:
            raise GraphError(f"{path}: damaged external data ({error}); copy or download it again") from None
    return found


def _external_tensor(folder: Path, data: Bytes, at: int, end: int) -> ExternalTensor | None:
    name, entries = b"", {}
    while at < end:
        number, length, at = _next_field(data, at, end)
        if number == _NAME:
            name = data[at : at + length]
        elif _MESSAGES["Tensor"].get(number) == "Entry":
            key, value = _pair(data, at, at + length)
            entries[key] = value
        at += length
    if _KEY not in entries:
        return None
    file = folder / entries[_KEY].decode("utf-8")
    offset = int(entries.get(b"offset", b"0"))
    size = int(entries[b"length"]) if b"length" in entries else file.stat().st_size - offset
    return ExternalTensor(name.decode("utf-8"), file, offset, size)


def _messages(data: Bytes) -> Iterator[tuple[str, int, int]]:
    """Kind, begin and end of every message of _MESSAGES; raises ValueError where the file is no ONNX model."""
    waiting, at = [("Model", len(data))], 0
    has_graph, count = False, 0
    while waiting:
        kind, end = waiting[-1]
        if at == end:
            waiting.pop()
            continue
        number, length, at = _next_field(data, at, end)
        has_graph = has_graph or (kind, number) == ("Model", _GRAPH)
        inner = _MESSAGES[kind].get(number)
        if inner:
            yield inner, at, at + length
        if inner in _MESSAGES:
            waiting.append((inner, at + length))
        else:
            at += length
        count += 1
        if count > _FIELDS or len(waiting) > _DEPTH:
            raise ValueError("it has too many parts")
    if not has_graph:
        raise ValueError("it has no graph")


def _locations(data: Bytes) -> Iterator[str]:
    """Every location of external data; raises ValueError where the file is no ONNX model."""
    for kind, at, end in _messages(data):
        if kind == "Entry":
            key, value = _pair(data, at, end)
            if key == _KEY:
                yield value.decode("utf-8")


def _next_field(data: Bytes, at: int, end: int) -> tuple[int, int, int]:
    """Read the head of a field: its number, the number of bytes of its value, and where these begin."""
    tag, at = _varint(data, at)
    number, wire = tag >> 3, tag & 7
    length = _FIXED.get(wire, 0)
    if wire == _VARINT:
        _, at = _varint(data, at)
    elif wire == _BYTES:
        length, at = _varint(data, at)
    elif wire not in _FIXED:
        raise ValueError("damaged")
    if not number or at + length > end:
        raise ValueError("truncated or damaged")
    return number, length, at


def _varint(data: Bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("truncated")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("damaged")


def _pair(data: Bytes, at: int, end: int) -> tuple[bytes, bytes]:
    """Key and value of an entry of external data."""
    texts = {}
    while at < end:
        number, length, at = _next_field(data, at, end)
        if length > _TEXT:
            raise ValueError("a path is too long")
        texts[number] = data[at : at + length]
        at += length
    return texts.get(1, b""), texts.get(2, b"")
