"""The weights of an ONNX model lie in its folder. ONNX Runtime before 1.24 reads a file anywhere."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from crafted import copy_bundle, reseal
from onnx import TensorProto, helper, onnx_ml_pb2
from onnx.external_data_helper import ExternalDataInfo

from sdk import onnx_model
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.errors import BundleError, GraphError, IntegrityError
from sdk.onnx_model import external_files, external_tensors
from sdk.onnx_session import load_onnxruntime, open_session


def test_every_message_that_can_hold_a_tensor_is_looked_at():
    """The field numbers are those of onnx's own description of the format."""
    edges, kinds = {}, [onnx_ml_pb2.ModelProto.DESCRIPTOR]
    for kind in kinds:
        inner = {f.number: f.message_type for f in kind.fields if f.message_type}
        edges[kind.name] = {number: other.name for number, other in inner.items()}
        kinds += [other for other in inner.values() if other not in kinds]
    holding = {"TensorProto"}
    while more := {name for name, inner in edges.items() if holding & set(inner.values())} - holding:
        holding |= more
    expected = {
        name: {number: other for number, other in inner.items() if other in holding}
        for name, inner in edges.items()
        if name in holding - {"TensorProto"}
    }
    names = {"Training": "TrainingInfoProto", "Entry": "StringStringEntryProto"}
    found = {
        names.get(name, f"{name}Proto"): {n: names.get(other, f"{other}Proto") for n, other in inner.items()}
        for name, inner in onnx_model._MESSAGES.items()
    }
    assert found.pop("TensorProto") == {
        f.number: f.message_type.name for f in TensorProto.DESCRIPTOR.fields if f.name == "external_data"
    }
    assert found == expected


def tensor(location: str, name: str = "w") -> TensorProto:
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        made.external_data.add(key=key, value=value)
    return made


def model(location: str, place: str = "initializer") -> onnx.ModelProto:
    """y = x + w, with w in a file; or the same file named at another place of the model."""
    value = helper.make_tensor_value_info
    node = helper.make_node("Add", ["x", "w"], ["y"])
    x, y = value("x", TensorProto.FLOAT, [2]), value("y", TensorProto.FLOAT, [2])
    own = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = helper.make_graph([node], "g", [x], [y], [tensor(location) if place == "initializer" else own])
    constant = helper.make_node("Constant", [], ["c"], value=tensor(location))
    if place == "attribute":
        graph.node.append(constant)
    if place == "subgraph":
        inner = helper.make_graph([constant], "inner", [], [value("c", TensorProto.FLOAT, [2])])
        graph.node.append(helper.make_node("If", ["b"], ["d"], then_branch=inner, else_branch=inner))
    if place == "sparse":
        graph.sparse_initializer.add(values=tensor(location))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if place == "function":
        made.functions.append(helper.make_function("f", "F", [], ["c"], [constant], [helper.make_opsetid("", 17)]))
    if place == "training":
        made.training_info.add().algorithm.CopyFrom(helper.make_graph([constant], "t", [], []))
    return made


def write(folder: Path, location: str, place: str = "initializer") -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model(location, place).SerializeToString())
    return path


@pytest.mark.parametrize("place", ["initializer", "attribute", "subgraph", "sparse", "function", "training"])
def test_a_location_is_found_wherever_it_is(tmp_path, place):
    (tmp_path / "secret").write_bytes(np.ones(2, np.float32).tobytes())
    folder = tmp_path / "bundle"
    folder.mkdir()
    with pytest.raises(GraphError, match=r"its weights are in '\.\./secret', outside of its folder"):
        external_files(write(folder, "../secret", place))
    (folder / "w.bin").write_bytes(np.ones(2, np.float32).tobytes())
    assert external_files(write(folder, "w.bin", place)) == {"w.bin"}


@pytest.mark.parametrize(
    "location",
    ["/etc/hostname", "a/../../secret", "..\\secret", "C:secret", "", "w\0.bin", "*/_ORT_MEM_ADDR_/*", "file:w"],
)
def test_a_location_outside_is_refused_before_onnxruntime_opens_it(tmp_path, location):
    """`*/_ORT_MEM_ADDR_/*` is a pointer for ONNX Runtime, so it is refused even where such a file exists."""
    odd = tmp_path / "*" / "_ORT_MEM_ADDR_"
    odd.mkdir(parents=True)
    (odd / "*").write_bytes(bytes(8))
    with pytest.raises(GraphError, match="outside of its folder"):
        open_session(write(tmp_path, location))


def test_a_link_and_a_missing_file_are_refused(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    path = write(folder, "w.bin")
    with pytest.raises(GraphError, match=r"w\.bin is missing"):
        open_session(path)
    (tmp_path / "secret").write_bytes(bytes(8))
    (folder / "w.bin").symlink_to("../secret")
    with pytest.raises(GraphError, match="link that leaves the folder"):
        open_session(path)


def test_weights_beside_the_model_are_read_as_before(tmp_path):
    (tmp_path / "w.bin").write_bytes(np.array([3, 4], np.float32).tobytes())
    session = open_session(write(tmp_path, "w.bin"))
    assert session.run(None, {"x": np.zeros(2, np.float32)})[0].tolist() == [3, 4]


@pytest.mark.parametrize("size", [0, 1, 10, 57])
def test_what_is_no_model_is_one_error(tmp_path, size, monkeypatch):
    """With the search for the key switched off, so that the reader itself sees the bytes."""
    monkeypatch.setattr(onnx_model, "_SMALL", -1)
    path = write(tmp_path, "w.bin")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(GraphError, match="not an ONNX model"):
        external_files(path)


def test_a_model_of_endless_parts_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "_FIELDS", 1000)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x01" * 2000 + b"location")
    with pytest.raises(GraphError, match="too many parts"):
        external_files(path)


def test_a_crafted_bundle_cannot_read_a_file_outside(tmp_path):
    """On ONNX Runtime 1.22 this opened, and `emola verify` passed."""
    folder = copy_bundle(tmp_path / "bundle")
    data = folder / "decoder/gptq-int4.onnx.data"
    os.replace(data, tmp_path / "secret")
    graph = onnx.load(folder / "decoder/gptq-int4.onnx", load_external_data=False)
    for held in graph.graph.initializer:
        for entry in held.external_data:
            if entry.key == "location":
                entry.value = "../../secret"
    (folder / "decoder/gptq-int4.onnx").write_bytes(graph.SerializeToString())
    data.write_bytes(b"")
    with pytest.raises(BundleError, match="outside of its folder"):
        read_manifest(reseal(folder))


def test_weights_that_the_manifest_does_not_list_are_refused(tmp_path):
    """`emola verify` checks the hashes of the manifest: it would vouch for weights that anybody can change."""
    folder = copy_bundle(tmp_path / "bundle")
    name = "decoder/gptq-int4.onnx.data"

    def unlist(content):
        del content["files"][name]
        content["variants"][0]["external"] = []

    with pytest.raises(IntegrityError, match=r"onnx\.data would be read, but the manifest does not list it"):
        read_manifest(reseal(folder, change=unlist))


def test_a_file_that_onnxruntime_cannot_open_is_a_bundle_error(tmp_path):
    path = write(tmp_path, "w.bin", "attribute")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(GraphError, match=rf"ONNX Runtime {load_onnxruntime().__version__} cannot open"):
        open_session(path)


def test_the_place_of_every_tensor_is_the_one_that_onnx_reads():
    path = EMBEDDED / read_manifest(EMBEDDED).variants[0].decoder
    initializers = onnx.load(path, load_external_data=False).graph.initializer
    expected = {tensor.name: ExternalDataInfo(tensor) for tensor in initializers if tensor.external_data}
    found = external_tensors(path)
    assert found.keys() == expected.keys()
    for name, info in expected.items():
        assert found[name].file == path.parent / info.location
        assert (found[name].offset, found[name].size) == (info.offset or 0, info.length)
    assert external_tensors(EMBEDDED / "vision.onnx") == {}


def test_a_place_that_is_no_number_is_refused(tmp_path):
    made = model("w.data")
    made.graph.initializer[0].external_data[1].value = "first"
    (tmp_path / "w.data").write_bytes(bytes(8))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(GraphError, match="damaged external data"):
        external_tensors(tmp_path / "m.onnx")
