"""RAF-DB, basic emotions: aligned pictures of single faces (Li et al. 2017)."""

import re
from pathlib import Path
from reprlib import repr as short

from sdk.errors import DataError
from sdk.faba.vocabulary import Emotion
from trainer.corpus.datasets.label_file import read_text
from trainer.corpus.datasets.labelled_face import LabelledFace, LabelledFaceSet

LABELS: dict[str, Emotion] = {
    "1": "surprise",
    "2": "fear",
    "3": "disgust",
    "4": "happiness",
    "5": "sadness",
    "6": "anger",
    "7": "neutral",
}
LIST = "EmoLabel/list_patition_label.txt"  # their spelling
PICTURES = "Image/aligned"


def read_rafdb(folder: Path) -> LabelledFaceSet:
    """Read the folder `basic` of RAF-DB.

    Args:
        folder: holds `EmoLabel/list_patition_label.txt` and `Image/aligned/train_00001_aligned.jpg`.

    Raises:
        DataError: names the missing file or the wrong line.
    """
    listed = folder / LIST
    if not listed.is_file():
        raise DataError(f"{listed} is missing: expected the folder 'basic' of RAF-DB, with EmoLabel and Image in it")
    lines = read_text(listed).split("\n")
    faces = [
        _labelled_face(folder, line.split(), f"{listed}, line {i}") for i, line in enumerate(lines, 1) if line.strip()
    ]
    missing = [face.picture for face in faces if not face.picture.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(faces)} aligned pictures are missing, first {missing[0]}: unpack aligned.zip"
        )
    return LabelledFaceSet(faces, {})


def _labelled_face(folder: Path, words: list[str], place: str) -> LabelledFace:
    file, label = words if len(words) == 2 else ("", "")
    split = {"train": "train", "test": "eval"}.get(file.split("_")[0])
    if split is None or label not in LABELS or not re.fullmatch(r"[\w.-]{1,100}", file):
        raise DataError(f"{place}: expected a line such as 'train_00001.jpg 5' with a label 1..7, found {short(words)}")
    name = Path(file).stem
    return LabelledFace(name, folder / PICTURES / f"{name}_aligned.jpg", None, "", split, emotion=LABELS[label])
