"""Folders with the layout of RAF-DB, DISFA, BP4D, GFT and FABA-Instruct, with made-up labels and given pictures."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from conftest import GOLDEN
from PIL import Image

from trainer.corpus.datasets import bp4d, disfa

FRAMES = 4  # of each video

Picture = Callable[[int], np.ndarray]  # number of a frame -> (H, W, 3) uint8 RGB


def grey(number: int) -> np.ndarray:
    """A picture that shows its number as brightness, and survives a video codec."""
    return np.full((64, 64, 3), 20 * number + 10, np.uint8)


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_video(path: Path, picture: Picture = grey, frames: int = FRAMES) -> None:
    """A video of frames 1, 2, ...; needs PyAV."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        height, width, _ = picture(1).shape
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"qscale": "2"}
        stream.bit_rate = 4_000_000
        for number in range(1, frames + 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())


def write_rafdb(folder: Path, labels: Mapping[str, int], picture: Picture = grey) -> Path:
    """`labels`: "train_00001" -> 1..7."""
    write_text(folder / "EmoLabel/list_patition_label.txt", *(f"{name}.jpg {label}" for name, label in labels.items()))
    for number, name in enumerate(labels, 1):
        save(folder / f"Image/aligned/{name}_aligned.jpg", picture(number))
    return folder


def write_disfa(folder: Path, picture: Picture = grey, videos: bool = False, frames: int = FRAMES) -> Path:
    """27 subjects; unit number i of the eight has intensity (i + frame) modulo 6 in each frame."""
    units = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)  # twelve are labelled, eight are used
    for subject in (name for part in disfa.PARTS.values() for name in part):
        for index, unit in enumerate(units):
            lines = (f"{frame},{(index + frame) % 6}" for frame in range(1, frames + 1))
            write_text(folder / f"ActionUnit_Labels/{subject}/{subject}_au{unit}.txt", *lines)
        if videos:
            write_video(folder / f"Videos_LeftCamera/LeftVideo{subject}_comp.avi", picture, frames)
            continue
        for frame in range(1, frames + 1):
            save(folder / f"Images/LeftVideo{subject}_comp/frame_{frame:05}.png", picture(frame))
    return folder


def write_bp4d(folder: Path, picture: Picture = grey) -> Path:
    """41 subjects, one task, frames 8 to 11: no unit; AU4; AU1 and AU12; one that is not coded. 12 has no picture."""
    header = ",".join(map(str, range(100)))
    active = {8: {}, 9: {4: 1}, 10: {1: 1, 12: 1, 9: 9}, 11: {17: 9}, 12: {}}
    for subject in (name for part in bp4d.PARTS.values() for name in part):
        rows = (
            ",".join(str(codes.get(unit, 0)) if unit else str(f) for unit in range(100)) for f, codes in active.items()
        )
        write_text(folder / f"AUCoding/AU_OCC/{subject}_T1.csv", header, *rows)
        for frame in (8, 9, 10, 11):
            padding = 4 if subject.startswith("F") else 3
            save(folder / f"Sequences/{subject}/T1/{frame:0{padding}}.jpg", picture(frame))
    return folder


def write_gft(folder: Path, picture: Picture = grey) -> Path:
    """Three participants: two of training, one with a video, and one of test; returns the folder of the data."""
    header = "frame,AU1,AU2,AU4,AU5,AU6,AU10,AU12,AU14,AU15,AU23,AU24"
    rows = ("1,0,0,0,1,0,0,0,0,0,0,0", "2,1,0,0,0,0,0,1,0,0,0,0", "3,0,0,0,0,0,0,0,0,0,0,999")
    for participant in ("001A", "001B", "002A"):
        write_text(folder / f"coding/{participant}_occurrence.csv", header, *rows)
        for frame in (1, 2, 3):
            save(folder / f"frames/{participant}/{frame}.png", picture(frame))
    write_text(folder / "partition.csv", "participant,split", "001A,train", "001B,train", "002A,test")
    return folder


def write_faba(folder: Path) -> Path:
    """Four records per file, with the pictures and landmark files of the goldens."""
    source = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text(encoding="utf-8"))[:4]
    answers = {"emotion": ("1", "A happy face with a broad smile."), "au": ("6, 12", "AU6 and AU12 are active.")}
    for split in ("train", "eval"):
        (folder / split).mkdir(parents=True)
        for part in ("images", "landmarks"):
            (folder / split / part).symlink_to(GOLDEN / "data/FABAInstruct/train" / part)
        for task, (label, answer) in answers.items():
            rows = [{**row, "id": f"{task}{index}"} for index, row in enumerate(source)]
            if split == "eval":
                rows = [{"image": r["image"], "landmark": r["landmark"], "label": label, "gpt4": answer} for r in rows]
            write_text(folder / split / f"{split}_{task}_anno.json", json.dumps(rows))
    return folder


def write_data(folder: Path) -> Path:
    """All five data sets, named as `emola paper` expects them."""
    labels = {f"{split}_0000{n}": n for split in ("train", "test") for n in (1, 4, 7)}
    write_rafdb(folder / "RAF-DB", labels)
    write_disfa(folder / "DISFA", frames=1)
    write_bp4d(folder / "BP4D")
    write_gft(folder / "GFT")
    write_faba(folder / "FABAInstruct")
    return folder
