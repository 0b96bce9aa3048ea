"""Rendered faces in the layout of FABA-Instruct: `emola data synthesize`."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from sdk import __version__
from sdk.errors import DataError
from sdk.faba.prompts import QUESTIONS, Task
from sdk.faba.vocabulary import EMOTIONS
from sdk.files import replacing, write_json
from sdk.untrusted_json import read_json_object
from trainer.corpus.records import Record, evaluation_row, training_row
from trainer.processes import in_processes
from trainer.synthetic.describe import describe_emotion, describe_units
from trainer.synthetic.face_model import read_face_model
from trainer.synthetic.questions import draw_question, wordings
from trainer.synthetic.rendered_face import FACE_SCALE, RenderedFace, render_face
from trainer.synthetic.scene import Studio

_FILES: dict[Task, str] = {"emotion": "emotion", "action_units": "au"}  # parts of the names of annotation files
_SOURCE = "ICT-FaceKit, rendered"
_ABOUT = "about.json"


def synthesize(
    out: Path,
    count: int,
    face_model: Path,
    *,
    seed: int = 0,
    split: str = "train",
    portraits: bool = False,
    processes: int = 2,
    report: Callable[[int], None] = lambda done: None,
) -> None:
    """Write `count` faces to `out`; each has a record of its action units and a short question, most of their emotion.

    Files: `images/*.jpg`, `landmarks/*.npy` ((212,) each), three annotation files, `metadata.jsonl` (exact intensities,
    skin tone from 0 light to 9 dark, age, yaw, pitch and roll in degrees: positive if the face turns to the right of
    the picture, looks up, and leans anticlockwise), `points.npy` ((N, 106, 2) float32, the exact landmarks, also after
    a network replaced those in `landmarks/`) and `about.json` (what was asked for).

    Args:
        out: a folder that does not exist or is empty; it gets its name when it is complete. If it has the faces that
            are asked for, nothing is written: a run that was killed can be started again at any moment.
        face_model: ICT-FaceKit, see `read_face_model`.
        seed: decides every face; the same seed gives the same files for any number of processes.
        split: "train" writes train_emotion_anno.json, train_au_anno.json and train_question_anno.json; "eval" writes
            evaluation files, and eval_question_anno.json with questions and answers as in training.
        portraits: draw calm faces and clear expressions, see `trainer.synthetic.portraits`.
        report: told how many faces are written.

    Raises:
        DataError: `out` holds something else or has no name, a count is below 1, or the model cannot be read.
        TrainingError: one of the processes was ended from outside.
    """
    if not out.name:
        raise DataError(f"{out} has no name, which the finished folder needs; choose a new folder")
    for name, number in (("number of faces", count), ("number of processes", processes)):
        if number < 1:
            raise DataError(f"the {name} must be at least 1, not {number}")
    if seed < 0:
        raise DataError(f"the seed must be at least 0, not {seed}")
    head = read_face_model(face_model).digest()
    about = {"version": __version__, "faces": count, "seed": seed, "split": split, "head": head}
    if portraits:
        about["portraits"] = True
    if _is_there(out, about):
        report(count)
        return
    with replacing(out, folder=True) as folder:
        faces = in_processes(partial(_Renderer, face_model, seed, portraits), range(count), processes)
        _write(folder, out.name, faces, seed, split, report)
        write_json(folder / _ABOUT, about)


def _is_there(out: Path, about: dict[str, Any]) -> bool:
    """Whether the folder has the faces that are asked for.

    Raises:
        DataError: it has something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if (out / _ABOUT).is_file() and read_json_object(out / _ABOUT, DataError) == about:
        return True
    raise DataError(f"{out} is neither empty nor a folder with these faces; choose a new folder")


def _write(
    folder: Path, set_name: str, faces: Iterator[RenderedFace], seed: int, split: str, report: Callable[[int], None]
) -> None:
    for name in ("images", "landmarks"):
        (folder / name).mkdir(parents=True)
    rows: dict[str, list[Any]] = {"emotion": [], "au": [], "question": []}
    points = []
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for index, face in enumerate(faces):
            name = f"{index:06d}"
            (folder / "images" / f"{name}.jpg").write_bytes(face.image)
            np.save(folder / "landmarks" / f"{name}.npy", face.landmarks)
            points.append(face.landmarks.reshape(-1, 2))
            metadata.write(json.dumps({"id": name, **face.about}) + "\n")
            random = np.random.default_rng((seed, index, 1))
            for task, row in _rows(folder.parent, set_name, name, face, split, random):
                rows[task].append(row)
            report(index + 1)
    np.save(folder / "points.npy", np.stack(points))
    about = {"mode": "insightface", "network": "exact points of the renderer", "face_scale": FACE_SCALE}
    write_json(folder / "landmarks" / "about.json", about)
    for task, content in rows.items():
        write_json(folder / f"{split}_{task}_anno.json", content)


class _Renderer:
    """Renders the faces of a set by their numbers, with one thread: all processes together have the cores."""

    def __init__(self, face_model: Path, seed: int, portraits: bool) -> None:
        self._studio, self._seed, self._portrait = Studio(read_face_model(face_model)), seed, portraits
        self._threads = ThreadpoolController()

    def __call__(self, index: int) -> RenderedFace:
        with self._threads.limit(limits=1):
            return render_face(self._studio, np.random.default_rng((self._seed, index)), self._portrait)


def _rows(
    root: Path, set_name: str, name: str, face: RenderedFace, split: str, random: np.random.Generator
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a face: its emotion, if it was drawn for one, its action units, and a short question."""
    image, landmark = f"{set_name}/images/{name}.jpg", f"{set_name}/landmarks/{name}.npy"
    expression = face.facts.expression
    answers: dict[Task, tuple[str, Any]] = {}
    if expression.emotion:
        answers["emotion"] = (describe_emotion(expression, random), EMOTIONS.index(expression.emotion))
    answers["action_units"] = (describe_units(expression, random), ", ".join(map(str, sorted(expression.units))))
    for task, (text, label) in answers.items():
        others = wordings(task)
        question = QUESTIONS[task] if random.random() < 0.5 else others[int(random.integers(len(others)))]
        kind = _FILES[task]
        record = Record(f"{name}_{kind}", root, image, landmark, question, text, label)
        yield kind, training_row(record, _SOURCE) if split == "train" else evaluation_row(record)
    topic, question, text = draw_question(face.facts, random)
    record = Record(f"{name}_{topic.replace(' ', '_')}", root, image, landmark, question, text)
    yield "question", training_row(record, _SOURCE)
