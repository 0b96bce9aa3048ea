"""Landmark files hold the outputs of the network, are computed once, and their folder records how."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from sdk.errors import DataError, ImageError
from sdk.faces.crop import aligned_face
from sdk.faces.images import load_image
from sdk.faces.preprocess import landmark_pixels
from sdk.runtime.backends.ort import OrtEncoder

pytest.importorskip("torch")

from trainer.corpus.landmarks import fill_landmarks, recorded_mode
from trainer.corpus.records import Record


@pytest.fixture
def records(astronaut, tmp_path):
    """Five records: four pictures of different sizes, one of them used twice."""
    (tmp_path / "images").mkdir()
    for index, side in enumerate((90, 120, 64, 192)):
        Image.fromarray(astronaut[60 : 60 + side, 170 : 170 + side]).save(tmp_path / f"images/{index}.png")
    names = [0, 1, 2, 3, 1]
    return [Record(f"r{i}", tmp_path, f"images/{i}.png", f"landmarks/{i}.npy", "", "") for i in names]


def features(records):
    return np.stack([np.load(record.landmark_path) for record in records])


@pytest.mark.parametrize("mode", ["emola", "insightface"])
def test_files_are_the_outputs_of_the_network(records, landmark_network, mode):
    """In batches of 3 and one picture at a time: equal within 1e-6."""
    assert fill_landmarks(records, landmark_network, mode, batch_size=3, threads=2) == 4
    encoder = OrtEncoder(landmark_network, 1)
    for record, feature in zip(records, features(records), strict=True):
        face = aligned_face(load_image(record.image_path), 1.7)
        pixels = landmark_pixels(face.pixels, mode=mode, box_xyxy=face.box_in_crop)
        assert feature.dtype == np.float32
        np.testing.assert_allclose(feature, encoder(pixels[None])[0], atol=1e-6)
    assert recorded_mode(records) == mode


def test_modes_and_face_scales_differ(records, landmark_network):
    found = []
    for mode, scale in (("emola", 1.7), ("insightface", 1.7), ("insightface", 1.2)):
        parted = [
            Record(r.id, r.root, r.image, r.landmark.replace("landmarks", f"{mode}{scale}"), "", "") for r in records
        ]
        fill_landmarks(parted, landmark_network, mode, face_scale=scale)
        found.append(features(parted))
    assert np.abs(found[0] - found[1]).max() > 0.01
    assert np.abs(found[1] - found[2]).max() > 0.01


def test_the_folder_says_how(records, landmark_network):
    fill_landmarks(records, landmark_network, "insightface")
    about = json.loads((records[0].landmark_path.parent / "about.json").read_text())
    assert (about["mode"], about["network"], about["face_scale"]) == ("insightface", "landmark.onnx", 1.7)
    assert len(about["sha256"]) == 64


def test_what_is_there_is_kept(records, landmark_network):
    """A resumed run computes only missing and damaged files and does not write the others."""
    progress = []
    fill_landmarks(records, landmark_network, "emola")
    whole = features(records)
    np.save(records[0].landmark_path, np.full(212, 0.5, np.float32))
    records[1].landmark_path.write_bytes(b"\x93NUMPY")
    np.save(records[2].landmark_path, np.zeros(10, np.float32))
    records[3].landmark_path.unlink()
    count = fill_landmarks(
        records, landmark_network, "emola", batch_size=2, progress=lambda *counts: progress.append(counts)
    )
    assert (count, progress) == (3, [(1, 3), (3, 3)])  # batches are those of all four pictures
    found = features(records)
    assert (found[0] == 0.5).all()
    assert (found[1:] == whole[1:]).all()


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_broken_pictures_are_counted_and_the_others_computed(records, landmark_network, batch_size):
    """Files are those of a set without the broken pictures within 1e-6, and the next run computes what is missing."""
    for broken in (1, 2):
        records[broken].image_path.write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"2 of 4 pictures cannot be read, .*1\.png"):
        fill_landmarks(records, landmark_network, "emola", batch_size=batch_size)
    folder = records[0].landmark_path.parent
    assert sorted(path.name for path in folder.iterdir()) == ["0.npy", "3.npy", "about.json"]
    records[1].image_path.write_bytes(records[0].image_path.read_bytes())
    with pytest.raises(ImageError, match=r"1 of 2 pictures cannot be read, .*2\.png"):
        fill_landmarks(records, landmark_network, "emola", batch_size=batch_size)
    np.testing.assert_allclose(np.load(folder / "1.npy"), np.load(folder / "0.npy"), atol=1e-6)


def test_files_of_another_origin_are_not_mixed(records, landmark_network, tmp_path):
    fill_landmarks(records[:1], landmark_network, "emola")
    with pytest.raises(DataError, match="holds files of mode 'emola'"):
        fill_landmarks(records, landmark_network, "insightface")
    other = tmp_path / "other.onnx"
    model = onnx.load(landmark_network)
    model.doc_string = "the same network in another file"
    onnx.save(model, other)
    with pytest.raises(DataError, match="holds files of sha256"):
        fill_landmarks(records, other, "emola")


def test_released_files_are_not_mixed_with_others(records, landmark_network):
    records[0].landmark_path.parent.mkdir()
    np.save(records[0].landmark_path, np.zeros(212, np.float32))
    assert recorded_mode(records) == "emola"
    with pytest.raises(DataError, match=r"no about\.json"):
        fill_landmarks(records, landmark_network, "emola")


def test_sets_of_different_modes_do_not_mix(records, tmp_path):
    """Two folders of one mode are accepted; two modes are an error."""
    other = dataclasses.replace(records[0], landmark="elsewhere/a.npy")
    for record, mode in ((records[0], "insightface"), (other, "insightface")):
        record.landmark_path.parent.mkdir()
        (record.landmark_path.parent / "about.json").write_text(json.dumps({"mode": mode}))
    assert recorded_mode([records[0], other]) == "insightface"
    (other.landmark_path.parent / "about.json").unlink()
    with pytest.raises(DataError, match="different modes do not mix"):
        recorded_mode([records[0], other])


def test_a_folder_that_says_nonsense(records):
    folder = records[0].landmark_path.parent
    folder.mkdir()
    for text, message in (("{", "is not JSON"), ("[]", "expected a JSON object"), ('{"mode": "x"}', "not 'x'")):
        (folder / "about.json").write_text(text)
        with pytest.raises(DataError, match=message):
            recorded_mode(records)


@pytest.mark.parametrize(("side", "outputs", "message"), [(96, 212, "does not take"), (192, 10, "expected .N, 212.")])
def test_another_network_is_refused(records, tmp_path, side, outputs, message):
    """The error comes before a file is written."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Tile", ["flat", "times"], ["fc1"]),
    ]
    times = helper.make_tensor("times", TensorProto.INT64, [2], [1, -(-outputs // 3)])
    graph = helper.make_graph(
        nodes,
        "other",
        [info("data", TensorProto.FLOAT, ["N", 3, side, side])],
        [info("fc1", TensorProto.FLOAT, ["N", "M"])],
        [times],
    )
    path = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(DataError, match=message):
        fill_landmarks(records, path, "emola")
    assert not records[0].landmark_path.parent.exists()
