"""A prepared data set holds every face, readable records and what was left out, whether it was interrupted or not."""

import json

import numpy as np
import pytest
from made_up_datasets import grey, save, write_bp4d, write_disfa, write_gft, write_rafdb, write_video
from PIL import Image

from sdk.errors import DataError
from sdk.faba.prompts import QUESTIONS
from trainer.corpus.prepare import prepare
from trainer.corpus.records import read_records

LABELS = {"train_00001": 5, "train_00002": 1, "test_0001": 4}


@pytest.fixture
def face(astronaut):
    """The astronaut's face in frames of odd number, no face in the others."""
    pytest.importorskip("dlib")
    return lambda number: astronaut[30:230, 120:320] if number % 2 else grey(number)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rafdb_is_copied(tmp_path):
    """Aligned pictures keep their bytes, and no detector is needed."""
    folder, out = write_rafdb(tmp_path / "basic", LABELS), tmp_path / "out"
    about = prepare("rafdb", folder, out)
    assert about["samples"] == 3
    assert (out / "images/train_00001.jpg").read_bytes() == (
        folder / "Image/aligned/train_00001_aligned.jpg"
    ).read_bytes()
    train = read_records(out / "train_emotion_anno.json")
    assert [(r.id, r.question, r.answer, r.landmark) for r in train] == [
        ("train_00001", QUESTIONS["emotion"], "Sadness", "landmarks/train_00001.npy"),
        ("train_00002", QUESTIONS["emotion"], "Surprise", "landmarks/train_00002.npy"),
    ]
    (record,) = read_records(out / "eval_emotion_anno.json", task="emotion")
    assert (record.label, record.answer) == ("Happiness", "Happiness")
    assert record.image_path.is_file()


def test_disfa_folds(tmp_path, face):
    """Three folds over one set of crops; each face is in one evaluation file and in two training files."""
    folder, out = write_disfa(tmp_path / "disfa", face, frames=2), tmp_path / "out"
    about = prepare("disfa", folder, out)
    assert (about["samples"], about["left_out"]) == (27, {"no face was found": 27})
    assert (about["face_scale"], about["detector"], about["no_units"]) == (1.7, "dlib", "No AU")
    seen = {"train": [], "eval": []}
    for fold in (1, 2, 3):
        for split, found in seen.items():
            records = read_records(out / f"fold{fold}/{split}_au_anno.json", task="action_units")
            assert len(records) == {"train": 18, "eval": 9}[split]
            found += [record.image for record in records]
    crops = sorted(f"images/{path.name}" for path in (out / "images").iterdir())
    assert len(crops) == 27
    assert sorted(seen["eval"]) == crops
    assert sorted(seen["train"]) == sorted(crops * 2)


def test_crops_are_squares_around_the_largest_face(tmp_path, t1):
    """The largest of the six faces of t1; side = 1.7 x the box of the detector, within one pixel."""
    pytest.importorskip("dlib")
    from sdk.faces.detect import open_detector

    folder = write_gft(tmp_path / "gft", lambda number: t1 if number == 1 else grey(number))
    prepare("gft", folder, tmp_path / "out", partition=folder / "partition.csv", every=6)
    (crop,) = (tmp_path / "out/images").iterdir()
    boxes = [face.box_xyxy for face in open_detector("dlib").detect(t1)]
    side = max(max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes)
    with Image.open(crop) as picture:
        width, height = picture.size
    assert width == height
    assert abs(width - 1.7 * side) <= 1


def test_aligned_crops_are_recorded(tmp_path, face):
    """`align` changes the crops and is in `about.json`; a run without it does not go on in that folder."""
    folder = write_gft(tmp_path / "gft", face)
    options = {"partition": folder / "partition.csv", "every": 2}
    plain, aligned = (prepare("gft", folder, tmp_path / str(how), align=how, **options) for how in (None, "auto"))
    assert plain["align"] is None
    assert aligned["align"].startswith("landmark.onnx ")
    assert content(tmp_path / "None/images").keys() == content(tmp_path / "auto/images").keys()
    assert content(tmp_path / "None/images") != content(tmp_path / "auto/images")
    with pytest.raises(DataError, match=r"holds another prepared data set: align \(found 'landmark.onnx"):
        prepare("gft", folder, tmp_path / "auto", **options)


def test_bp4d_and_the_answer_without_units(tmp_path, face):
    folder, out = write_bp4d(tmp_path / "bp4d", face), tmp_path / "out"
    about = prepare("bp4d", folder, out, fold=2, detector=None)
    assert about["samples"] == 41 * 3
    assert about["left_out"] == {"a unit is not coded": 41, "no picture of the coded frame": 41}
    assert sorted(path.name for path in out.iterdir()) == ["about.json", "fold2", "images"]
    records = read_records(out / "fold2/eval_au_anno.json", task="action_units")
    labels = {record.id: (record.label, record.answer) for record in records}
    rows = json.loads((out / "fold2/train_au_anno.json").read_text())
    answers = {row["id"]: row["conversations"][1]["value"] for row in rows}
    assert len(labels) == 14 * 3
    assert [answers[f"M014_T1_{frame:05}"] for frame in (8, 9, 10)] == ["No AU", "AU4", "AU1, AU12"]
    assert {label for label, _ in labels.values()} == {"none", "4", "1, 12"}


def test_an_interrupted_run_gives_the_same_files(tmp_path, face):
    """With crops lost, one truncated and annotation files deleted, a resumed run restores every file to the byte."""
    folder = write_disfa(tmp_path / "disfa", face, frames=1)
    whole, again = tmp_path / "whole", tmp_path / "again"
    prepare("disfa", folder, whole)
    prepare("disfa", folder, again)
    for path in sorted((again / "images").iterdir())[5:]:
        path.unlink()
    (again / "images/SN001_00001.jpg.partial").write_bytes(b"cut")
    (again / "fold2/train_au_anno.json").unlink()
    progress = []
    prepare("disfa", folder, again, progress=lambda *counts: progress.append(counts))
    assert progress[-1] == (22, 22)
    assert {k: v for k, v in content(again).items() if k.suffix != ".partial"} == content(whole)


def test_frames_of_videos(tmp_path, face):
    """Cropped while the video is decoded; a frame beyond its end is counted."""
    pytest.importorskip("av")
    folder = write_disfa(tmp_path / "disfa", face, frames=3)
    write_video(folder / "Videos_LeftCamera/LeftVideoSN001_comp.avi", face, frames=1)
    about = prepare("disfa", folder, tmp_path / "out")
    assert about["left_out"] == {"the picture cannot be read": 2, "no face was found": 26}
    assert about["samples"] == 26 * 2 + 1
    assert [path.name for path in (tmp_path / "out/images").glob("SN001_*")] == ["SN001_00001.jpg"]


def test_a_broken_picture_is_counted(tmp_path):
    folder = write_rafdb(tmp_path / "basic", LABELS)
    (folder / "Image/aligned/train_00002_aligned.jpg").write_bytes(b"\xff\xd8\xff")
    about = prepare("rafdb", folder, tmp_path / "out")
    assert (about["samples"], about["left_out"]) == (2, {"the picture cannot be read": 1})
    assert len(read_records(tmp_path / "out/train_emotion_anno.json")) == 1


def test_other_pictures_become_jpeg(tmp_path):
    """Without a detector, PNG frames are written as JPEG."""
    folder = write_gft(tmp_path / "gft")
    prepare("gft", folder, tmp_path / "out", detector=None, partition=folder / "partition.csv")
    with Image.open(tmp_path / "out/images/001A_00002.jpg") as picture:
        assert picture.format == "JPEG"
        assert np.abs(np.asarray(picture).astype(int) - grey(2)).max() <= 2


def test_failures(tmp_path):
    rafdb, out = write_rafdb(tmp_path / "basic", LABELS), tmp_path / "out"
    prepare("rafdb", rafdb, out)
    (tmp_path / "full").mkdir()
    save(tmp_path / "full/picture.png", grey(1))
    gft = write_gft(tmp_path / "gft")
    cases = [
        (dict(dataset="rafdb", folder=tmp_path / "none", out=out), "is not a folder"),
        (
            dict(dataset="rafdb", folder=rafdb, out=out, every=2),
            r"holds another prepared data set: every \(found 1, expected 2\) differ",
        ),
        (dict(dataset="rafdb", folder=rafdb, out=tmp_path / "full"), "is not empty"),
        (dict(dataset="rafdb", folder=rafdb, out=tmp_path / "a", fold=1), "one official division"),
        (dict(dataset="disfa", folder=rafdb, out=tmp_path / "a", fold=4), "folds 1 to 3"),
        (dict(dataset="gft", folder=gft, out=tmp_path / "a"), "official division is not public"),
        (
            dict(dataset="gft", folder=gft, out=tmp_path / "a", partition=gft / "partition.csv", align="none.onnx"),
            "expected a landmark network",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(DataError, match=message):
            prepare(**arguments)
    assert not (tmp_path / "a").exists()


def test_a_set_without_faces(tmp_path):
    pytest.importorskip("dlib")
    folder = write_gft(tmp_path / "gft")
    with pytest.raises(DataError, match="no face was found in any of 6 pictures"):
        prepare("gft", folder, tmp_path / "out", partition=folder / "partition.csv")
