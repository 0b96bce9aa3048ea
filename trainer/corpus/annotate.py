"""Dataset construction (Sec. 3.1 of the paper): faces are cropped, and a vision-language model describes each of them.

The set is written to `out/train` or `out/eval`: `images/`, the annotation files, `journal.jsonl` with every answer of
the endpoint, `left_out.csv`, `about.json` with model, counts, tokens and cost, and, for "eval", the review sheet.
"""

import csv
import io
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sdk.batch import pictures_in
from sdk.errors import DataError, ImageError
from sdk.faba.prompts import TASKS, Task
from sdk.faces.crop import RELEASED_FACE_SCALE
from sdk.faces.images import load_image
from sdk.files import append_journal, claim_folder, read_journal, write_file, write_json
from sdk.locks import writing_into
from trainer.corpus.answer_filter import label_of, unusable
from trainer.corpus.crops import FaceCropper, jpeg
from trainer.corpus.endpoint import ChatEndpoint, EndpointError
from trainer.corpus.eyes import identify
from trainer.corpus.prepare import annotation_name
from trainer.corpus.records import Record, evaluation_row, training_row
from trainer.corpus.review import write_review
from trainer.corpus.sampling import draw
from trainer.corpus.templates import QUESTION_TEMPLATES
from trainer.processes import in_processes

Split = Literal["train", "eval"]
JOURNAL, ABOUT, LEFT_OUT = "journal.jsonl", "about.json", "left_out.csv"
_JOURNAL: dict[str, type[Any]] = {
    **dict.fromkeys(("name", "task", "question", "text"), str),
    **dict.fromkeys(("prompt_tokens", "completion_tokens"), int),
    "cut_off": bool,
}
MAX_FAILURES = 10  # in a row; after them the endpoint counts as broken


@dataclass(frozen=True)
class Prices:
    """Prices of tokens, in dollars per million."""

    prompt: float
    completion: float


@dataclass(frozen=True)
class LeftOut:
    """A face or an answer that is not in the set, and the reason."""

    name: str
    task: str
    reason: str


@dataclass(frozen=True)
class _Question:
    """One question about one face."""

    name: str
    image: Path
    task: Task
    text: str


def annotate(
    images: Path,
    out: Path,
    endpoint: ChatEndpoint,
    *,
    tasks: Sequence[Task] = TASKS,
    split: Split = "train",
    seed: int = 0,
    concurrency: int = 4,
    prices: Prices | None = None,
    detector: str = "dlib",
    align: str | None = None,
    sample: int | None = None,
    max_tokens: int = 512,
    workers: int = 1,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Make a training or evaluation set from photographs; a resumed run does not ask a question twice.

    Args:
        images: folder of photographs, searched with its subfolders; the largest face of each photograph is used.
        out: folder of the set; the paths in its files are relative to it.
        tasks: tasks of the questions; `seed` and the name of the face choose a template per face and task.
        concurrency: number of questions asked at the same time.
        prices: of the model; None omits the cost.
        detector: as in `sdk.faces.detect.open_detector`.
        align: turn each face until its eyes are level; what finds them, see `trainer.corpus.eyes.open_eyes`.
        sample: use only so many photographs of each class, drawn by `seed`, see `trainer.corpus.sampling.draw`.
        max_tokens: limit of an answer; an answer that reaches it is left out.
        workers: number of processes that crop faces; this one writes.
        report: told one line per stage.
        progress: told how many of how many photographs are cropped, then how many questions are answered.

    Returns:
        The content of `about.json`.

    Raises:
        DataError: no photograph, `out` is of another model or seed, or the endpoint does not answer (answers are kept).
    """
    pictures, folder = _find_pictures(images, out, sample, seed), out / split
    open_cropping = partial(_open_cropping, detector, align)
    open_cropping()  # an error comes before anything is written
    about: dict[str, Any] = {"model": endpoint.model, "seed": seed, "align": identify(align), "sample": sample}
    about["face_scale"] = RELEASED_FACE_SCALE
    with writing_into(folder):
        claim_folder(folder / ABOUT, about, "annotated set", DataError, shared=True)
        report(f"{len(pictures)} photographs; cropping faces")
        faces, left_out = _crop_faces(pictures, folder / "images", open_cropping, workers, progress)
        answered = {(row["name"], row["task"]) for row in read_journal(folder / JOURNAL, **_JOURNAL)}
        open_ones = [(face, task) for face in faces for task in tasks if (face.stem, task) not in answered]
        report(f"{len(faces)} faces; {len(open_ones)} questions to ask, {len(answered)} answers from before")
        questions = [_draw_question(face, task, seed) for face, task in open_ones]
        left_out += _ask_all(questions, endpoint, folder / JOURNAL, concurrency, max_tokens, progress)
        return _finish(about, left_out, out, split, prices)


def _finish(
    about: dict[str, Any], left_out: Sequence[LeftOut], out: Path, split: Split, prices: Prices | None
) -> dict[str, Any]:
    """Write the files of a set from its journal; returns the content of `about.json`."""
    rows = sorted(read_journal(out / split / JOURNAL, **_JOURNAL), key=lambda row: (row["name"], row["task"]))
    usable, filtered = _filter(rows)
    _write(usable, [*left_out, *filtered], out, split, about["model"])
    content = {**about, **_summary(rows, usable, [*left_out, *filtered], prices)}
    write_json(out / split / ABOUT, content)
    return content


def _find_pictures(images: Path, out: Path, sample: int | None = None, seed: int = 0) -> dict[str, Path]:
    """Photographs by the names of their crops: all, or a sample of each class."""
    if out.resolve().is_relative_to(images.resolve()):
        raise DataError(f"{out} lies in {images}, so that crops would be taken for photographs; choose another folder")
    found: dict[str, Path] = {}
    try:
        pictures = pictures_in(images)
    except ImageError as error:
        raise DataError(f"{error}, in any subfolder") from None
    for path in pictures:
        name = "_".join(path.relative_to(images).with_suffix("").parts)
        if name in found:
            raise DataError(f"{path} and {found[name]} would both become {name}.jpg; rename one of them")
        found[name] = path
    return found if sample is None else draw(found, sample, seed)


def _crop_faces(
    pictures: dict[str, Path],
    folder: Path,
    open_cropping: "Callable[[], Callable[[Path], bytes | str]]",
    workers: int,
    progress: Callable[[int, int], None],
) -> tuple[list[Path], list[LeftOut]]:
    """Make missing face crops; returns the crops and the photographs without one."""
    targets = {name: folder / f"{name}.jpg" for name in pictures}
    waiting = [name for name, target in targets.items() if not target.exists()]
    left_out = []
    crops = in_processes(open_cropping, (pictures[name] for name in waiting), workers)
    for done, (name, crop) in enumerate(zip(waiting, crops, strict=True), len(pictures) - len(waiting) + 1):
        if isinstance(crop, str):
            targets.pop(name)
            left_out.append(LeftOut(name, "", crop))
        else:
            write_file(targets[name], crop)
        progress(done, len(pictures))
    return list(targets.values()), left_out


def _open_cropping(detector: str, align: str | None) -> "Callable[[Path], bytes | str]":
    return partial(_crop_face, FaceCropper.open(detector, align))


def _crop_face(cropper: FaceCropper, picture: Path) -> bytes | str:
    """The JPEG file of a face crop, or the reason why there is none."""
    try:
        face = cropper(load_image(picture))
    except ImageError as error:
        return str(error)
    return "no face was found" if face is None else jpeg(face)


def _draw_question(face: Path, task: Task, seed: int) -> _Question:
    text = random.Random(f"{seed} {task} {face.stem}").choice(QUESTION_TEMPLATES[task])
    return _Question(face.stem, face, task, text)


def _ask_all(
    questions: Sequence[_Question],
    endpoint: ChatEndpoint,
    journal: Path,
    concurrency: int,
    max_tokens: int,
    progress: Callable[[int, int], None],
) -> list[LeftOut]:
    """Ask questions and write each answer to the journal; returns the questions that failed."""
    failed: list[LeftOut] = []
    in_a_row = 0
    pool = ThreadPoolExecutor(concurrency)
    try:
        futures = {pool.submit(_ask, question, endpoint, max_tokens): question for question in questions}
        for done, future in enumerate(as_completed(futures), 1):
            try:
                append_journal(journal, future.result())
                in_a_row = 0
            except EndpointError:
                raise
            except DataError as error:
                failed.append(LeftOut(futures[future].name, futures[future].task, str(error)))
                in_a_row += 1
                if in_a_row == MAX_FAILURES:
                    raise EndpointError(f"{in_a_row} questions in a row failed; start again later: {error}") from None
            progress(done, len(questions))
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


def _ask(question: _Question, endpoint: ChatEndpoint, max_tokens: int) -> dict[str, Any]:
    """Ask one question; returns its row of the journal."""
    reply = endpoint.ask(question.image.read_bytes(), question.text, max_tokens)
    return {"name": question.name, "task": question.task, "question": question.text, **vars(reply)}


def _filter(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[LeftOut]]:
    """The rows of the journal that are usable for training, and the others."""
    usable, left_out = [], []
    for row in rows:
        reason = "cut off" if row["cut_off"] else unusable(row["text"], row["task"])
        if reason:
            left_out.append(LeftOut(row["name"], row["task"], reason))
        else:
            usable.append(row)
    return usable, left_out


def _write(usable: Sequence[dict[str, Any]], left_out: Sequence[LeftOut], out: Path, split: Split, model: str) -> None:
    """Write the annotation file of each task, the list of what was left out, and the review sheet."""
    records = {task: [_record(row, out, split) for row in usable if row["task"] == task] for task in TASKS}
    for task, chosen in records.items():
        if chosen:
            rows = [training_row(r, model) if split == "train" else evaluation_row(r) for r in chosen]
            write_json(out / split / annotation_name(split, task), rows)
    table = io.StringIO()
    csv.writer(table).writerows([("name", "task", "reason"), *((e.name, e.task, e.reason) for e in left_out)])
    write_file(out / split / LEFT_OUT, table.getvalue().encode(errors="backslashreplace"))
    if split == "eval":
        write_review([record for chosen in records.values() for record in chosen], out / split)


def _record(row: dict[str, Any], out: Path, split: Split) -> Record:
    name, text = row["name"], row["text"]
    files = f"{split}/images/{name}.jpg", f"{split}/landmarks/{name}.npy"
    return Record(name, out, *files, row["question"], text, label_of(text, row["task"]))


def _summary(
    rows: Sequence[dict[str, Any]], usable: Sequence[dict[str, Any]], left_out: Sequence[LeftOut], prices: Prices | None
) -> dict[str, Any]:
    """Counts, tokens and cost of a set over all its runs."""
    prompt, completion = (sum(row[f"{kind}_tokens"] for row in rows) for kind in ("prompt", "completion"))
    cost = None if prices is None else (prompt * prices.prompt + completion * prices.completion) / 1e6
    return {
        "answers": len(rows),
        "usable": dict(Counter(row["task"] for row in usable)),
        "left_out": dict(Counter(each.reason for each in left_out)),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cost_dollars": cost,
    }
