"""One record type for every data set: a picture of a face, its landmark file, a question and its answer.

Files are lists in the layout of FABA-Instruct. Training: `image`, `landmark`, `conversations` (human, gpt). Evaluation:
`image`, `landmark`, `label`, `gpt4` (the reference text). Paths are relative to a root folder that holds the data set.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from sdk.arrays import Floats
from sdk.bundles.damage import read_array
from sdk.errors import DataError
from sdk.faba.prompts import END, IMAGE, QUESTIONS, Task
from sdk.faces.preprocess import LANDMARK_FEATURES
from sdk.untrusted_json import DATA_SIZE, is_utf8, read_json


@dataclass(frozen=True)
class Record:
    """One instruction.

    Attributes:
        id: names the record in messages.
        root: folder that `image` and `landmark` are relative to.
        image: picture of an aligned face.
        landmark: `.npy` with the (212,) feature.
        question: without the image mark.
        answer: the text to learn, or the reference of an evaluation.
        label: of an evaluation record, as `sdk.faba.rege` reads it; None for training.
    """

    id: str
    root: Path
    image: str
    landmark: str
    question: str
    answer: str
    label: "str | int | None" = None

    @property
    def image_path(self) -> Path:
        return self.root / self.image

    @property
    def landmark_path(self) -> Path:
        return self.root / self.landmark


def read_records(path: Path, root: Path | None = None, task: Task | None = None) -> list[Record]:
    """Read a training or evaluation file.

    Args:
        path: JSON list in the FABA-Instruct layout.
        root: folder that the paths are relative to; None: the folder is searched above the file.
        task: of evaluation records, which hold no question.

    Raises:
        DataError: names the first broken record; `emola data check` lists all of them.
    """
    rows = read_rows(path)
    if root and not root.is_dir():
        raise DataError(f"{root} is not a folder; expected the one that the paths in {path.name} are relative to")
    root = root or find_root(path, rows)
    return [parse_record(row, f"{path.name}[{index}]", root, task) for index, row in enumerate(rows)]


def read_rows(path: Path) -> list[Any]:
    """The JSON list of a data file."""
    rows = read_json(path, DataError, limit=DATA_SIZE)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: expected a JSON list of records, at least one")
    return rows


def find_root(path: Path, rows: Iterable[Any]) -> Path:
    """The folder above a data file from which the first picture can be reached."""
    image = next((row["image"] for row in rows if isinstance(row, Mapping) and isinstance(row.get("image"), str)), "")
    folders = [folder for folder in path.resolve().parents if image and os.path.isfile(folder / image)]
    if not folders:
        raise DataError(f"{path}: {image!r} is in no folder above it; pass the folder that it is relative to (--root)")
    return folders[0]


def parse_record(row: Any, name: str, root: Path, task: Task | None = None) -> Record:
    """A record from its JSON object.

    Raises:
        DataError: names the key that is missing or of the wrong type.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{name}: expected an object, found {type(row).__name__}")
    evaluation = "gpt4" in row
    keys = ("image", "landmark", "gpt4") if evaluation else ("image", "landmark")
    wrong = [key for key in keys if not is_text(row.get(key))]
    if wrong:
        raise DataError(f"{name}: {' and '.join(wrong)} missing or not a text")
    if evaluation and task is None:
        raise DataError(f"{name}: evaluation records have no question; pass their task")
    question, answer = (QUESTIONS[task], row["gpt4"]) if evaluation and task else _turns(row, name)
    return Record(str(row.get("id", name)), root, row["image"], row["landmark"], question, answer, row.get("label"))


def _turns(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Question and answer of a training record; the image mark may occur anywhere in the question."""
    turns: Any = row.get("conversations")
    try:
        human, gpt = turns
        if (human["from"], gpt["from"]) != ("human", "gpt"):
            raise ValueError
        question, answer = human["value"], gpt["value"]
    except (TypeError, ValueError, KeyError):
        raise DataError(f"{name}: conversations must be one turn from 'human' and one from 'gpt'") from None
    if not is_text(question) or question.count(IMAGE) != 1:
        raise DataError(f"{name}: the question must contain {IMAGE} once")
    if not is_text(answer) or not answer.strip():
        raise DataError(f"{name}: the answer is empty or not a text")
    if IMAGE in answer:
        raise DataError(f"{name}: the answer contains {IMAGE}, which marks the place of the picture; delete it there")
    if END in question + answer:
        raise DataError(f"{name}: question or answer contains {END}, which ends an answer; delete it there")
    return question.replace(IMAGE, "").strip(), answer


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a text that can be written: JSON may also hold halves of a UTF-16 pair."""
    return isinstance(value, str) and is_utf8(value)


def read_landmarks(record: Record, size: int = LANDMARK_FEATURES) -> Floats:
    """The landmark feature of a record as (size,) float32.

    Raises:
        DataError: the file is missing, not an array, or of another shape.
    """
    try:
        feature = read_array(record.landmark_path)
    except (OSError, ValueError) as error:
        raise DataError(f"{record.id}: {record.landmark_path} cannot be read ({error})") from None
    if feature.shape != (size,) or feature.dtype.kind != "f" or not np.isfinite(feature).all():
        raise DataError(
            f"{record.id}: {record.landmark_path}: expected {size} finite numbers, found {feature.dtype} of shape "
            f"{feature.shape}"
        )
    return np.asarray(feature, np.float32)


def training_row(record: Record, source: str) -> dict[str, Any]:
    """The JSON object of a training record."""
    return {
        "source": source,
        "image": record.image,
        "id": record.id,
        "conversations": [
            {"from": "human", "value": f"{IMAGE}\n{record.question}"},
            {"from": "gpt", "value": record.answer},
        ],
        "landmark": record.landmark,
    }


def evaluation_row(record: Record) -> dict[str, Any]:
    """The JSON object of an evaluation record."""
    return {"image": record.image, "label": record.label, "gpt4": record.answer, "landmark": record.landmark}
