"""GFT: 96 participants in conversation, the occurrence of each action unit per frame (Girard et al. 2017)."""

import re
from collections import Counter
from pathlib import Path
from reprlib import repr as short

from sdk.errors import DataError
from sdk.faba.vocabulary import DATASETS
from trainer.corpus.datasets.frames import Frames, find_frames, label_frames
from trainer.corpus.datasets.label_file import read_table
from trainer.corpus.datasets.labelled_face import LabelledFace, LabelledFaceSet
from trainer.corpus.datasets.occurrence import read_occurrence

_SPLITS = {"train": "train", "training": "train", "test": "eval", "eval": "eval"}


def read_gft(folder: Path, partition: Path) -> LabelledFaceSet:
    """Read the coded frames of the participants in a partition.

    Frames in which one of the ten scored units is not coded are left out.

    Args:
        folder: holds, directly or in a subfolder, for each participant a coding sheet `001A.csv` or `001A_*.csv`
            (see `read_occurrence`), and a video `001A.mp4` or a folder `001A` of frames numbered as in the sheet.
        partition: the official division, lines `participant,split` with split "train" or "test".

    Raises:
        DataError: the partition does not have this form, or a participant has no sheet or no pictures.
    """
    faces: list[LabelledFace] = []
    uncoded = unseen = 0
    places = _places(folder)
    for participant, split in read_partition(partition).items():
        own = places.get(participant, [])
        units, left_out = read_occurrence(_sheet(own, participant), DATASETS["GFT"].scored)
        found = label_frames(_frames(own, participant), units, participant, participant, split)
        uncoded, unseen = uncoded + left_out, unseen + len(units) - len(found)
        faces += found
    return LabelledFaceSet(faces, {"a unit is not coded": uncoded, "no picture of the coded frame": unseen})


def read_partition(path: Path) -> dict[str, str]:
    """Read a partition: participant -> "train" or "eval"; a first line of column names is allowed."""
    if not path.is_file():
        raise DataError(f"{path} is missing: expected GFT's official partition, lines 'participant,split'")
    rows = [[cell.strip() for cell in row] for row in read_table(path)]
    if rows and len(rows[0]) == 2 and rows[0][1].lower() == "split":
        del rows[0]
    wrong = [row for row in rows if len(row) != 2 or row[1].lower() not in _SPLITS]
    if wrong or not rows:
        raise DataError(
            f"{path}: expected lines 'participant,train' or '...,test', found {short(wrong[:1]) if wrong else 'none'}"
        )
    twice = sorted(name for name, count in Counter(row[0] for row in rows).items() if count > 1)
    if twice:
        raise DataError(f"{path}: {', '.join(twice)} is listed more than once; a participant belongs to one split")
    return {participant: _SPLITS[split.lower()] for participant, split in rows}


def _places(folder: Path) -> dict[str, list[Path]]:
    """Files and folders, up to two levels deep, by the participant at the beginning of their names."""
    places: dict[str, list[Path]] = {}
    for path in [*folder.glob("*"), *folder.glob("*/*")]:
        places.setdefault(re.split(r"[._]", path.name)[0], []).append(path)
    return places


def _sheet(places: list[Path], participant: str) -> Path:
    sheets = [path for path in places if path.suffix.lower() == ".csv"]
    if len(sheets) != 1:
        found = ", ".join(map(str, sheets)) or "none"
        raise DataError(f"GFT: expected one coding sheet {participant}.csv or {participant}_*.csv, found {found}")
    return sheets[0]


def _frames(places: list[Path], participant: str) -> Frames:
    frames = find_frames(places)
    if frames is None:
        raise DataError(f"GFT: expected a video {participant}.mp4 or a folder {participant} of its frames, found none")
    return frames
