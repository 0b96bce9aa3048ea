"""Analyses as tables with one row per face and fixed columns.

source, frame, time_s      source of the picture; frame number and time for video only
face_id, age_ms            as in `sdk.records.Face`
x1, y1, x2, y2             face box in pixels
detection_score            score of the detector
emotion, description       label and text of the emotion answer
happiness ... fear         probability of each emotion; empty without label scores
AU1 ... AU43               1 if the answer says that the unit is present, else 0; empty if the task was not requested
AU1_score ... AU43_score   probability of each unit; empty without label scores
AU1_reason ... AU43_reason sentences of the answer about the unit; empty if it mentions it nowhere
yaw, pitch, roll           how the head is turned, in degrees; empty without landmarks
left_eye, right_eye        height over width of the eyes, from the left of the picture; empty without landmarks

The units are the 20 of FABA-Instruct. Other units that an answer names are in the JSON output only.
"""

import csv
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sdk.errors import DependencyError
from sdk.faba.vocabulary import EMOTIONS, FABA_UNITS
from sdk.records import AnalysisRecord, Face
from sdk.replacement import Replacement, output_errors

if TYPE_CHECKING:
    import pandas
    from typing_extensions import Self


UNIT_COLUMNS = {f"AU{code}": code for code in FABA_UNITS}
_REASONS = {code: f"{name}_reason" for name, code in UNIT_COLUMNS.items()}
_GEOMETRY = ("yaw", "pitch", "roll", "left_eye", "right_eye")
COLUMNS: tuple[str, ...] = (
    *("source", "frame", "time_s", "face_id", "age_ms", "x1", "y1", "x2", "y2", "detection_score"),
    *("emotion", "description", *EMOTIONS, *UNIT_COLUMNS, *(f"{name}_score" for name in UNIT_COLUMNS)),
    *_REASONS.values(),
    *_GEOMETRY,
)
TEXTS = ("source", "emotion", "description", *_REASONS.values())
COUNTS = ("frame", "face_id", *UNIT_COLUMNS)


def rows(analysis: AnalysisRecord) -> Iterator[dict[str, Any]]:
    """Yield the rows of one analysis; empty cells are None."""
    frame = analysis.frame
    for face in analysis.faces:
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {"source": analysis.source, "face_id": face.id, "age_ms": face.age_ms}
        row |= {"frame": frame.index, "time_s": frame.time_s} if frame else {}
        row |= dict(zip(("x1", "y1", "x2", "y2"), face.box_xyxy, strict=True))
        angles = (face.head_pose.yaw, face.head_pose.pitch, face.head_pose.roll) if face.head_pose else (None,) * 3
        row |= dict(zip(_GEOMETRY, (*angles, *(face.eye_openness or (None, None))), strict=True))
        row |= {"detection_score": face.detection_score, **_emotion(face), **_units(face)}
        yield row


def _emotion(face: Face) -> dict[str, Any]:
    if face.emotion is None:
        return {}
    scores: dict[Any, float] = dict(face.emotion.scores or {})
    return {"emotion": face.emotion.label, "description": face.emotion.description, **scores}


def _units(face: Face) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if face.action_units is not None:
        present = {unit.code for unit in face.action_units if unit.present}
        found = {name: int(code in present) for name, code in UNIT_COLUMNS.items()}
        found |= {_REASONS[unit.code]: unit.reason for unit in face.action_units if unit.code in _REASONS}
    if face.action_unit_scores is not None:
        found |= {f"{name}_score": face.action_unit_scores[f"AU{code}"] for name, code in UNIT_COLUMNS.items()}
    return found


def to_dataframe(analyses: Iterable[AnalysisRecord]) -> "pandas.DataFrame":
    """Make one pandas table of several analyses, with one row per face.

    Args:
        analyses: of pictures or of the frames of a video, as from `Analyzer.analyze_batch`.

    Raises:
        DependencyError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise DependencyError("pandas", "tables", "make a data frame (to_csv() works without)") from None
    table = pandas.DataFrame([row for analysis in analyses for row in rows(analysis)], columns=list(COLUMNS))
    return table.astype({name: float for name in COLUMNS if name not in (*TEXTS, "face_id")}).astype({"face_id": int})


class GrowingFile:
    """A text file that grows by one analysis at a time and has a temporary name until it is closed.

    After an error or an interruption, the analyses added so far are kept, also those before a disk was full. If none
    was added, an earlier file of that name stays. A pipe gets each analysis at once.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        self._path = Path(path)
        self._new = Replacement(self._path)
        self._count = self._size = 0  # complete analyses, and the bytes before the end of the last
        try:
            with output_errors(self._path):  # a source whose name is not valid UTF-8 is written with escapes
                self.file: TextIO = self._new.place.open("w", newline="", encoding="utf-8", errors="backslashreplace")
            with output_errors(self._path):
                self._begin()
                self._complete()
        except BaseException:
            self._new.discard()
            raise

    def add(self, analysis: AnalysisRecord) -> None:
        """Append one analysis."""
        with output_errors(self._path):
            self._append(analysis)
            self._complete()
        self._count += 1

    def _begin(self) -> None:
        """Write what stands before the first analysis."""

    def _append(self, analysis: AnalysisRecord) -> None:
        raise NotImplementedError

    def _complete(self) -> None:
        self.file.flush()
        if not self._new.is_direct:
            self._size = self.file.tell()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # what could not be written before cannot be written now
            self.file.close()
        if exception[0] is not None and not self._count:
            self._new.discard()
            return
        if not self._new.is_direct:
            os.truncate(self._new.place, self._size)
        self._new.keep()


class CsvFile(GrowingFile):
    """A CSV file with a header and one row per face."""

    def _begin(self) -> None:
        self._writer = csv.DictWriter(self.file, COLUMNS)
        self._writer.writeheader()

    def _append(self, analysis: AnalysisRecord) -> None:
        self._writer.writerows(rows(analysis))
