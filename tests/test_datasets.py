"""Each reader turns a folder of the original layout into labelled faces, and names the defect of other folders."""

import shutil

import numpy as np
import pytest
from made_up_datasets import grey, save, write_bp4d, write_disfa, write_gft, write_rafdb, write_text, write_video

from sdk.errors import DataError
from sdk.faba.rege import annotated_action_units, emotion_index, official_action_units
from sdk.faba.vocabulary import EMOTIONS
from trainer.corpus.datasets import (
    NO_UNITS,
    LabelledFace,
    average_folds,
    bp4d,
    disfa,
    read_bp4d,
    read_disfa,
    read_gft,
    read_rafdb,
)
from trainer.corpus.datasets.folds import split_fold
from trainer.corpus.datasets.frames import read_pictures


def by_name(found):
    return {sample.name: sample for sample in found.faces}


def test_answers_and_labels_are_what_rege_reads(tmp_path):
    """For every emotion, and for no, one and several units, the label can be read back from text and label."""
    for index, emotion in enumerate(EMOTIONS):
        sample = LabelledFace("a", tmp_path, None, "", "train", emotion=emotion)
        assert (sample.task, emotion_index(sample.label)) == ("emotion", index)
        assert sample.answer == emotion.capitalize()
    for units, answer in ((set(), NO_UNITS), ({4}, "AU4"), ({12, 1}, "AU1, AU12")):
        sample = LabelledFace("a", tmp_path, None, "", "train", units=frozenset(units))
        assert (sample.task, sample.answer) == ("action_units", answer)
        assert official_action_units(sample.answer) == annotated_action_units(sample.label) == units


def test_rafdb(tmp_path):
    order = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    labels = {f"train_0000{label}": label for label in range(1, 8)} | {"test_0001": 4}
    samples = by_name(read_rafdb(write_rafdb(tmp_path, labels)))
    assert [samples[f"train_0000{label}"].emotion for label in range(1, 8)] == order
    assert {sample.name for sample in samples.values() if sample.split == "eval"} == {"test_0001"}
    assert samples["test_0001"].picture == tmp_path / "Image/aligned/test_0001_aligned.jpg"


def test_rafdb_failures(tmp_path):
    with pytest.raises(DataError, match=r"list_patition_label\.txt is missing: expected the folder 'basic'"):
        read_rafdb(tmp_path)
    write_rafdb(tmp_path, {"train_00001": 5, "train_00002": 1})
    (tmp_path / "Image/aligned/train_00002_aligned.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 aligned pictures are missing.*train_00002"):
        read_rafdb(tmp_path)
    for line in ("train_00001.jpg 8", "train_00001.jpg", "valid_00001.jpg 1"):
        write_text(tmp_path / "EmoLabel/list_patition_label.txt", "train_00001.jpg 5", line)
        with pytest.raises(DataError, match="line 2: expected a line such as"):
            read_rafdb(tmp_path)


def test_disfa_labels_and_parts(tmp_path):
    """27 subjects in three parts of nine; a unit is active from intensity 2 on; only the eight scored units count."""
    found = read_disfa(write_disfa(tmp_path))
    assert len(found.faces) == 27 * 4
    assert {sample.split: sample.subject for sample in found.faces}.keys() == {"part1", "part2", "part3"}
    # Intensities of AU 1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26 in frame 1: 1 2 3 4 5 0 1 2 3 4 5 0.
    sample = by_name(found)["SN004_00001"]
    assert (sample.units, sample.split, sample.subject) == ({2, 4, 6, 25}, "part3", "SN004")


def test_disfa_frames_of_videos_and_folders_are_the_same(tmp_path):
    """The picture of frame n shows n, within 4 of 255 after the codec."""
    pytest.importorskip("av")
    for name, videos in (("video", True), ("folder", False)):
        samples = read_disfa(write_disfa(tmp_path / name, videos=videos)).faces[1:6]
        for sample, picture in read_pictures(samples):
            number = int(sample.name[-5:])
            assert sample.frame == (number if videos else None)
            assert np.abs(picture.astype(int) - grey(number)).max() <= 4


def test_disfa_missing_frames(tmp_path):
    """A folder without one of its frames, and a video that ends early."""
    write_disfa(tmp_path)
    (tmp_path / "Images/LeftVideoSN001_comp/frame_00002.png").unlink()
    found = read_disfa(tmp_path)
    assert "SN001_00002" not in by_name(found)
    assert found.left_out == {"no picture of the labelled frame": 1}
    pytest.importorskip("av")
    write_video(tmp_path / "Videos_LeftCamera/LeftVideoSN002_comp.avi", frames=3)
    samples = [sample for sample in read_disfa(tmp_path).faces if sample.subject == "SN002"]
    assert [picture is None for _, picture in read_pictures(samples)] == [False, False, False, True]


def test_disfa_failures(tmp_path):
    whole = write_disfa(tmp_path / "whole", frames=2)

    def broken(name, change, message):
        folder = shutil.copytree(whole, tmp_path / name)
        change(folder)
        with pytest.raises(DataError, match=message):
            read_disfa(folder)

    labels = "ActionUnit_Labels/SN005/SN005_au6.txt"
    frames = "Images/LeftVideoSN005_comp"
    broken("a", lambda f: (f / labels).unlink(), r"SN005_au6\.txt is missing.*all 27 subjects")
    broken("b", lambda f: write_text(f / labels, "1,0", "2,9"), r"line 2: expected 'frame,intensity'")
    broken("c", lambda f: write_text(f / labels, "1,0"), "AU6 is not labelled in all 2 frames")
    broken("d", lambda f: shutil.rmtree(f / frames), r"expected LeftVideoSN005_comp\.avi")
    broken("e", lambda f: save(f / frames / "0.png", grey(0)), "numbered from 0")
    broken("f", lambda f: (f / frames).rename(f / "Images/RightVideoSN005_comp"), r"expected LeftVideoSN005_comp\.avi")


def test_a_broken_video(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "LeftVideoSN001_comp.avi").write_bytes(b"RIFF, but no video")
    sample = LabelledFace("SN001_00001", tmp_path / "LeftVideoSN001_comp.avi", 1, "SN001", "part1", units=frozenset())
    with pytest.raises(DataError, match="cannot be decoded"):
        list(read_pictures([sample]))


def test_bp4d(tmp_path):
    """Padded names are found; frames not coded in a scored unit or without a picture are left out and counted."""
    found = read_bp4d(write_bp4d(tmp_path))
    samples = by_name(found)
    assert len(samples) == 41 * 3
    assert [sorted(samples[f"M014_T1_{frame:05}"].units) for frame in (8, 9, 10)] == [[], [4], [1, 12]]
    assert samples["F001_T1_00008"].picture.name == "0008.jpg"
    assert samples["M014_T1_00008"].picture.name == "008.jpg"
    assert (samples["M014_T1_00008"].split, samples["M014_T1_00008"].subject) == ("part1", "M014")
    assert found.left_out == {"a unit is not coded": 41, "no picture of the coded frame": 41}


def test_bp4d_failures(tmp_path):
    write_bp4d(tmp_path)
    sheet = tmp_path / "AUCoding/AU_OCC/F001_T1.csv"
    text = sheet.read_text()
    for content, message in (
        ("0,1,2,4\n1,0,0,0", r"no column for \[6, 7, 10"),
        ("", r"no column for \[1, 2, 4"),
        (text + "14,0,1", "row 7 is not a frame number"),
        (text.replace("\n8,", "\nframe 8,"), "row 2 is not a frame number"),
    ):
        sheet.write_text(content)
        with pytest.raises(DataError, match=message):
            read_bp4d(tmp_path)
    sheet.write_text(text)
    shutil.rmtree(tmp_path / "Sequences/F001")
    with pytest.raises(DataError, match=r"F001/T1 holds no pictures"):
        read_bp4d(tmp_path)
    sheet.unlink()
    with pytest.raises(DataError, match=r"there is no F001_T\*\.csv.*all 41 subjects"):
        read_bp4d(tmp_path)


def test_gft(tmp_path):
    """AU5 is coded but not scored; frame 3 is not coded."""
    found = read_gft(write_gft(tmp_path), tmp_path / "partition.csv")
    samples = by_name(found)
    assert {name: (sample.split, sorted(sample.units)) for name, sample in samples.items()} == {
        "001A_00001": ("train", []),
        "001A_00002": ("train", [1, 12]),
        "001B_00001": ("train", []),
        "001B_00002": ("train", [1, 12]),
        "002A_00001": ("eval", []),
        "002A_00002": ("eval", [1, 12]),
    }
    assert found.left_out["a unit is not coded"] == 3


def test_gft_videos(tmp_path):
    pytest.importorskip("av")
    write_gft(tmp_path)
    shutil.rmtree(tmp_path / "frames")
    for participant in ("001A", "001B", "002A"):
        write_video(tmp_path / f"videos/{participant}.mp4", frames=3)
    found = read_gft(tmp_path, tmp_path / "partition.csv")
    assert [sample.frame for sample in found.faces] == [1, 2] * 3


def test_gft_failures(tmp_path):
    write_gft(tmp_path)
    partition = tmp_path / "partition.csv"
    with pytest.raises(DataError, match="expected GFT's official partition"):
        read_gft(tmp_path, tmp_path / "none.csv")
    for lines, message in (
        (["001A,valid"], r"found \[\['001A', 'valid'\]\]"),
        (["participant,split"], "found none"),
        (["001A,train", "001A,test"], "001A is listed more than once"),
        (["009Z,train"], r"one coding sheet 009Z\.csv.*found none"),
    ):
        write_text(partition, *lines)
        with pytest.raises(DataError, match=message):
            read_gft(tmp_path, partition)
    write_text(partition, "001A,train")
    shutil.rmtree(tmp_path / "frames/001A")
    with pytest.raises(DataError, match=r"a video 001A\.mp4 or a folder 001A"):
        read_gft(tmp_path, partition)


def test_folds_hold_every_subject_once(tmp_path):
    """27 and 41 subjects; a fold evaluates its part and trains on the other two."""
    for parts, count in ((disfa.PARTS, 27), (bp4d.PARTS, 41)):
        assert len({subject for part in parts.values() for subject in part}) == count
        assert sum(map(len, parts.values())) == count
    samples = [LabelledFace(f"s{i}", tmp_path, None, "", f"part{i}", units=frozenset()) for i in (1, 2, 3)]
    train, evaluation = split_fold(samples, 2)
    assert [sample.split for sample in train] == ["part1", "part3"]
    assert [sample.split for sample in evaluation] == ["part2"]


def test_averages_over_folds():
    """Over folds first, then over units; a unit that a fold could not score is averaged over the others."""
    per_au, mean = average_folds([{1: 10.0, 4: 90.0}, {1: 30.0}, {1: 20.0, 4: 30.0}])
    assert per_au == {1: 20.0, 4: 60.0}
    assert mean == 40.0
    with pytest.raises(DataError, match="found none"):
        average_folds([])
