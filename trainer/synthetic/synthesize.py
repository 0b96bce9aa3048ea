"""Rendered faces in the layout of FABA-Instruct: `emola data synthesize`."""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from sdk.errors import DataError
from sdk.faba.prompts import QUESTIONS, Task
from sdk.faba.vocabulary import EMOTIONS
from sdk.files import replacing, write_json
from trainer.corpus.records import Record, evaluation_row, training_row
from trainer.corpus.templates import QUESTION_TEMPLATES
from trainer.interrupts import ignore_interrupts, starting_processes
from trainer.synthetic.describe import describe_emotion, describe_units
from trainer.synthetic.face_model import read_face_model
from trainer.synthetic.rendered_face import FACE_SCALE, RenderedFace, render_face
from trainer.synthetic.scene import Studio

CHUNK = 8  # faces that a process renders at a time


def synthesize(
    out: Path,
    count: int,
    face_model: Path,
    *,
    seed: int = 0,
    split: str = "train",
    processes: int = 2,
    report: Callable[[int], None] = lambda done: None,
) -> None:
    """Write `count` faces to `out`; each has a record of its action units, most also have one of their emotion.

    Files: `images/*.jpg`, `landmarks/*.npy` ((212,) each), two annotation files, `metadata.jsonl` (exact intensities,
    skin tone from 0 light to 9 dark, age, yaw, pitch and roll in degrees: positive if the face turns to the right of
    the picture, looks up, and leans anticlockwise) and `points.npy` ((N, 106, 2) float32, the exact landmarks, also
    after a network replaced those in `landmarks/`).

    Args:
        out: a folder that does not exist or is empty; it gets its name when it is complete.
        face_model: ICT-FaceKit, see `read_face_model`.
        seed: decides every face; the same seed gives the same files for any number of processes.
        split: "train" writes train_emotion_anno.json and train_au_anno.json, "eval" evaluation files.
        report: told how many faces are written.

    Raises:
        DataError: `out` is not empty or has no name, a count is below 1, or the model cannot be read.
    """
    if not out.name:
        raise DataError(f"{out} has no name, which the finished folder needs; choose a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not an empty folder; choose a new one")
    for name, number in (("number of faces", count), ("number of processes", processes)):
        if number < 1:
            raise DataError(f"the {name} must be at least 1, not {number}")
    if seed < 0:
        raise DataError(f"the seed must be at least 0, not {seed}")
    read_face_model(face_model)  # fails before any process is started
    with replacing(out, folder=True) as partial:
        _write(partial, out.name, _render_all(count, face_model, seed, processes), seed, split, report)


def _write(
    folder: Path, set_name: str, faces: Iterator[RenderedFace], seed: int, split: str, report: Callable[[int], None]
) -> None:
    for name in ("images", "landmarks"):
        (folder / name).mkdir(parents=True)
    rows: dict[str, list[Any]] = {"emotion": [], "au": []}
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


def _render_all(count: int, face_model: Path, seed: int, processes: int) -> Iterator[RenderedFace]:
    """Every face in order, rendered by several processes."""
    jobs = [(face_model, seed, index) for index in range(count)]
    if processes <= 1:
        with threadpool_limits(1):
            yield from map(_make, jobs)
        return
    with starting_processes():
        pool = multiprocessing.get_context("spawn").Pool(processes, initializer=_prepare_process)
    with pool:
        yield from pool.imap(_make, jobs, chunksize=CHUNK)


def _prepare_process() -> None:
    ignore_interrupts()
    use_one_thread()


def use_one_thread() -> None:
    """Limit the loaded libraries to one thread; unpickling this function imports this module and NumPy first."""
    threadpool_limits(1)


@cache
def _studio(face_model: Path) -> Studio:
    return Studio(read_face_model(face_model))


def _make(job: tuple[Path, int, int]) -> RenderedFace:
    face_model, seed, index = job
    return render_face(_studio(face_model), np.random.default_rng((seed, index)))


def _rows(
    root: Path, set_name: str, name: str, face: RenderedFace, split: str, random: np.random.Generator
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a face: its emotion, if it was drawn for one, and its action units."""
    image, landmark = f"{set_name}/images/{name}.jpg", f"{set_name}/landmarks/{name}.npy"
    expression = face.expression
    answers: dict[str, tuple[str, Any]] = {}
    if expression.emotion:
        answers["emotion"] = (describe_emotion(expression, random), EMOTIONS.index(expression.emotion))
    answers["au"] = (describe_units(expression, random), ", ".join(map(str, sorted(expression.units))))
    for task, (text, label) in answers.items():
        kind: Task = "emotion" if task == "emotion" else "action_units"
        templates = QUESTION_TEMPLATES[kind]
        question = QUESTIONS[kind] if random.random() < 0.5 else templates[int(random.integers(len(templates)))]
        record = Record(f"{name}_{task}", root, image, landmark, question, text, label)
        yield task, training_row(record, "ICT-FaceKit, rendered") if split == "train" else evaluation_row(record)
