"""A labelled face, the type of the records of every data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdk.faba.prompts import Task
from sdk.faba.vocabulary import Emotion

DatasetName = Literal["rafdb", "disfa", "bp4d", "gft"]
NO_UNITS = "No AU"  # answer for a face without an active unit; the paper gives no wording


@dataclass(frozen=True)
class LabelledFace:
    """One labelled face.

    Attributes:
        name: unique in its data set; output files are named after it.
        picture: image file or video.
        frame: number of the frame of a video, from 1; None for an image file.
        subject: name of the person; "" if the data set has none.
        split: "train" or "eval"; in a set for cross-validation the part, "part1" to "part3".
        emotion, units: the label, exactly one of the two: the category, or the codes of the active action units.
    """

    name: str
    picture: Path
    frame: int | None
    subject: str
    split: str
    emotion: Emotion | None = None
    units: frozenset[int] | None = None

    @property
    def task(self) -> Task:
        return "emotion" if self.emotion else "action_units"

    @property
    def answer(self) -> str:
        """The text to learn: "Happiness" (RAF-DB's nouns), "AU1, AU4" or `NO_UNITS`."""
        if self.emotion:
            return self.emotion.capitalize()
        return ", ".join(f"AU{code}" for code in sorted(self.units or ())) or NO_UNITS

    @property
    def label(self) -> str:
        """The label as `sdk.faba.rege` reads it: "Happiness", "1, 4" or "none"."""
        if self.emotion:
            return self.emotion.capitalize()
        return ", ".join(map(str, sorted(self.units or ()))) or "none"


@dataclass(frozen=True)
class LabelledFaceSet:
    """The faces of a data set in a fixed order, and how many frames were left out for which reason."""

    faces: Sequence[LabelledFace]
    left_out: Mapping[str, int]
