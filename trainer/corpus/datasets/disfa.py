"""DISFA: 27 filmed subjects, the intensity of each action unit in each frame (Mavadati et al. 2013)."""

from pathlib import Path
from reprlib import repr as short

from sdk.errors import DataError
from sdk.faba.vocabulary import DATASETS
from trainer.corpus.datasets.folds import name_parts
from trainer.corpus.datasets.frames import Frames, find_frames, label_frames
from trainer.corpus.datasets.label_file import is_frame, read_text
from trainer.corpus.datasets.labelled_face import LabelledFace, LabelledFaceSet

PARTS = name_parts(
    "SN002 SN010 SN001 SN026 SN027 SN032 SN030 SN009 SN016",
    "SN013 SN018 SN011 SN028 SN012 SN006 SN031 SN021 SN024",
    "SN003 SN029 SN023 SN025 SN008 SN005 SN007 SN017 SN004",
)
MIN_INTENSITY = 2  # from which a unit counts as active
LABELS = "ActionUnit_Labels"


def read_disfa(folder: Path) -> LabelledFaceSet:
    """Read the frames of all 27 subjects, from the left camera.

    Args:
        folder: holds `ActionUnit_Labels/SN001/SN001_au1.txt` and, in any folder, `LeftVideoSN001_comp.avi` or a folder
            of extracted frames whose name contains `SN001`, the frames numbered from 1.

    Raises:
        DataError: a subject or a label file is missing, or a line of one is wrong.
    """
    faces: list[LabelledFace] = []
    unseen = 0
    for part, subjects in PARTS.items():
        for subject in subjects:
            units = _read_units(folder / LABELS / subject, subject)
            found = label_frames(_find_frames(folder, subject), units, subject, subject, part)
            unseen += len(units) - len(found)
            faces += found
    return LabelledFaceSet(faces, {"no picture of the labelled frame": unseen})


def _read_units(folder: Path, subject: str) -> dict[int, frozenset[int]]:
    """The active units of each frame."""
    intensities = {unit: _read_intensities(folder / f"{subject}_au{unit}.txt") for unit in DATASETS["DISFA"].scored}
    frames = set.union(*map(set, intensities.values()))
    uneven = [unit for unit, values in intensities.items() if len(values) != len(frames)]
    if uneven:
        raise DataError(f"{folder}: AU{uneven[0]} is not labelled in all {len(frames)} frames; copy the folder again")
    return {
        frame: frozenset(unit for unit, values in intensities.items() if values[frame] >= MIN_INTENSITY)
        for frame in sorted(frames)
    }


def _read_intensities(path: Path) -> dict[int, int]:
    if not path.is_file():
        raise DataError(f"{path} is missing: expected the labels of all 27 subjects of DISFA, which its folds need")
    values: dict[int, int] = {}
    for number, line in enumerate(read_text(path).strip().splitlines(), 1):
        frame, _, intensity = line.partition(",")
        if not is_frame(frame.strip()) or intensity.strip() not in tuple("012345"):
            raise DataError(f"{path}, line {number}: expected 'frame,intensity' with 0..5, found {short(line)}")
        values[int(frame)] = int(intensity)
    return values


def _find_frames(folder: Path, subject: str) -> Frames:
    places = [*folder.glob(f"*{subject}*"), *folder.glob(f"*/*{subject}*")]
    frames = find_frames(path for path in places if "right" not in str(path.relative_to(folder)).lower())
    if frames is None:
        raise DataError(
            f"{folder}: expected LeftVideo{subject}_comp.avi, or a folder *{subject}* of its frames; found none"
        )
    if not isinstance(frames, Path) and 0 in frames:
        raise DataError(f"{frames[0].parent}: frames are numbered from 0, but labels from 1; number the frames from 1")
    return frames
