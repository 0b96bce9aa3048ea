"""BP4D: 41 subjects in eight tasks, the occurrence of each action unit in the coded frames (Zhang et al. 2014)."""

from pathlib import Path

from sdk.errors import DataError
from sdk.faba.vocabulary import DATASETS
from trainer.corpus.datasets.folds import name_parts
from trainer.corpus.datasets.frames import Frames, find_frames, label_frames
from trainer.corpus.datasets.labelled_face import LabelledFace, LabelledFaceSet
from trainer.corpus.datasets.occurrence import read_occurrence

PARTS = name_parts(
    "F001 M007 F018 F008 F002 M004 F010 F009 M012 M001 F016 M014 F023 M008",
    "M011 F003 M010 M002 F005 F022 M018 M017 F013 M016 F020 F011 M013 M005",
    "F007 F015 F006 F019 M006 M009 F012 M003 F004 F021 F017 M015 F014",
)
SHEETS = "AUCoding/AU_OCC"


def read_bp4d(folder: Path) -> LabelledFaceSet:
    """Read the coded frames of all 41 subjects.

    Frames in which one of the twelve units is not coded (9) are left out.

    Args:
        folder: holds `AUCoding/AU_OCC/F001_T1.csv`, and `F001/T1/2440.jpg` in it or in one of its folders.

    Raises:
        DataError: a subject has no coding sheet, a sheet is wrong, or its pictures are missing.
    """
    faces: list[LabelledFace] = []
    uncoded = unseen = 0
    for part, subjects in PARTS.items():
        for subject in subjects:
            for sheet in _sheets(folder, subject):
                units, left_out = read_occurrence(sheet, DATASETS["BP4D"].scored)
                found = label_frames(_find_frames(folder, sheet.stem), units, sheet.stem, subject, part)
                uncoded, unseen = uncoded + left_out, unseen + len(units) - len(found)
                faces += found
    return LabelledFaceSet(faces, {"a unit is not coded": uncoded, "no picture of the coded frame": unseen})


def _sheets(folder: Path, subject: str) -> list[Path]:
    sheets = sorted((folder / SHEETS).glob(f"{subject}_T*.csv"))
    if not sheets:
        raise DataError(
            f"{folder / SHEETS}: there is no {subject}_T*.csv: expected the coding of all 41 subjects of BP4D, "
            "which its folds need"
        )
    return sheets


def _find_frames(folder: Path, sequence: str) -> Frames:
    """The pictures of "F001_T1"."""
    place = sequence.replace("_", "/")
    frames = find_frames([folder / place, *folder.glob(f"*/{place}")])
    if frames is None:
        raise DataError(f"{folder / place} holds no pictures: expected the coded frames, such as {place}/2440.jpg")
    return frames
