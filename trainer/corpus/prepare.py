"""A classic data set as instruction records: face crops, and annotation files in the layout of FABA-Instruct."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from sdk.arrays import Pixels
from sdk.errors import DataError
from sdk.faba.prompts import QUESTIONS, Task
from sdk.faces.crop import RELEASED_FACE_SCALE
from sdk.files import claim_folder, write_file, write_json
from sdk.locks import writing_into
from trainer.corpus.crops import FaceCropper, jpeg
from trainer.corpus.datasets import (
    NO_UNITS,
    DatasetName,
    LabelledFace,
    LabelledFaceSet,
    read_bp4d,
    read_disfa,
    read_gft,
    read_rafdb,
)
from trainer.corpus.datasets.folds import split_fold
from trainer.corpus.datasets.frames import read_pictures
from trainer.corpus.eyes import identify
from trainer.corpus.records import Record, evaluation_row, training_row
from trainer.processes import in_processes

FOLDS = (1, 2, 3)
ABOUT = "about.json"


def prepare(
    dataset: DatasetName,
    folder: Path,
    out: Path,
    *,
    fold: int | None = None,
    detector: str | None = "dlib",
    align: str | None = None,
    every: int = 1,
    partition: Path | None = None,
    workers: int = 1,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write `images/`, `about.json` and the annotation files of a data set; `emola data landmarks` adds landmark files.

    RAF-DB and GFT give `train_*_anno.json` and `eval_*_anno.json`, DISFA and BP4D the same in `fold1` to `fold3`, where
    fold K evaluates part K and trains on the others. A resumed run keeps the existing crops.

    Args:
        folder: the data set, see its reader in `trainer.corpus.datasets`.
        out: new folder; its paths are relative to it.
        fold: write the annotation files of this fold only; all crops are written.
        detector: as in `sdk.faces.detect.open_detector`; None: the pictures are face crops already. The pictures of
            RAF-DB are always copied unchanged, for they are aligned.
        align: turn each face until its eyes are level; what finds them, see `trainer.corpus.eyes.open_eyes`.
        every: keep every n-th face.
        partition: of GFT, see `trainer.corpus.datasets.read_gft`.
        workers: number of processes that crop faces; this one reads pictures and writes.
        report: told one line per stage.
        progress: told how many of how many faces are cropped.

    Returns:
        The content of `about.json`: source, options, and how many faces were kept and left out for which reason.

    Raises:
        DataError: the data set does not have the expected form, or `out` holds another one.
    """
    folds = _folds(dataset, fold)
    found = _read(dataset, folder, partition)
    faces = found.faces[::every]
    options = _options(dataset, detector, align, every)
    names = options["detector"], align if options["align"] else None
    open_cropping = partial(_open_cropping, *names)
    open_cropping()  # an error comes before anything is written
    with writing_into(out):
        claim_folder(out / ABOUT, options, "prepared data set", DataError)
        report(f"{len(faces)} faces of {dataset}")
        lost = _crop(faces, out, open_cropping, workers if any(names) else 1, progress)
        kept = [face for face in faces if (out / _image(face)).exists()]
        if not kept:
            raise DataError(f"{folder}: no face was found in any of {len(faces)} pictures; try another --detector")
        for place, train, evaluation in _divide(kept, folds):
            _write(out / place, train, evaluation, dataset)
        left_out = {reason: count for reason, count in {**found.left_out, **lost}.items() if count}
        about = {**options, "samples": len(kept), "left_out": left_out}
        write_json(out / ABOUT, about)
        return about


def annotation_name(split: str, task: Task) -> str:
    """The name of an annotation file of split "train" or "eval", as in FABA-Instruct."""
    return f"{split}_{'emotion' if task == 'emotion' else 'au'}_anno.json"


def _folds(dataset: DatasetName, fold: int | None) -> tuple[int, ...]:
    """The folds to write; empty for a data set with an official division."""
    known = FOLDS if dataset in ("disfa", "bp4d") else ()
    if fold is not None and fold not in known:
        raise DataError(f"{dataset} has no fold {fold}; it has {'folds 1 to 3' if known else 'one official division'}")
    return known if fold is None else (fold,)


def _read(dataset: DatasetName, folder: Path, partition: Path | None) -> LabelledFaceSet:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected the data set {dataset} as distributed by its makers")
    if dataset == "gft":
        if partition is None:
            raise DataError("GFT's official division is not public: pass it as a file of lines 'participant,split'")
        return read_gft(folder, partition)
    return {"rafdb": read_rafdb, "disfa": read_disfa, "bp4d": read_bp4d}[dataset](folder)


def _options(dataset: DatasetName, detector: str | None, align: str | None, every: int) -> dict[str, Any]:
    """The options on which the content of the output folder depends."""
    if dataset == "rafdb":
        detector = align = None
    return {
        "dataset": dataset,
        "detector": detector,
        "align": identify(align),
        "face_scale": RELEASED_FACE_SCALE if detector else None,
        "every": every,
        "no_units": NO_UNITS,
    }


_Cropping: TypeAlias = Callable[[tuple[LabelledFace, Pixels | None]], bytes | str]


def _crop(
    faces: Sequence[LabelledFace],
    out: Path,
    open_cropping: Callable[[], _Cropping],
    workers: int,
    progress: Callable[[int, int], None],
) -> Counter[str]:
    """Write the missing crops; returns how many faces have none for which reason."""
    waiting = [face for face in faces if not (out / _image(face)).exists()]
    lost: Counter[str] = Counter()
    crops = in_processes(open_cropping, read_pictures(waiting), workers)
    for done, (face, crop) in enumerate(zip(waiting, crops, strict=True), 1):
        if isinstance(crop, str):
            lost[crop] += 1
        else:
            write_file(out / _image(face), crop)
        progress(done, len(waiting))
    return lost


def _open_cropping(detector: str | None, align: str | None) -> _Cropping:
    return partial(_crop_bytes, FaceCropper.open(detector, align) if detector or align else None)


def _crop_bytes(cropper: FaceCropper | None, read: tuple[LabelledFace, Pixels | None]) -> bytes | str:
    """The bytes of a face crop, or why there is none; without cropper a JPEG file is kept unchanged."""
    face, picture = read
    if picture is None:
        return "the picture cannot be read"
    if cropper is None:
        return face.picture.read_bytes() if face.picture.suffix == ".jpg" else jpeg(picture)
    crop = cropper(picture)
    return "no face was found" if crop is None else jpeg(crop)


def _image(face: LabelledFace) -> str:
    return f"images/{face.name}.jpg"


def _divide(
    faces: Sequence[LabelledFace], folds: Iterable[int]
) -> Iterator[tuple[str, list[LabelledFace], list[LabelledFace]]]:
    """Folder, training faces and evaluation faces of each division."""
    if not folds:
        yield "", [f for f in faces if f.split == "train"], [f for f in faces if f.split == "eval"]
    for fold in folds:
        yield f"fold{fold}", *split_fold(faces, fold)


def _write(folder: Path, train: Sequence[LabelledFace], evaluation: Sequence[LabelledFace], dataset: str) -> None:
    """The annotation files of one division."""
    for split, faces in (("train", train), ("eval", evaluation)):
        rows = [_row(face, split, dataset) for face in faces]
        write_json(folder / annotation_name(split, "emotion" if dataset == "rafdb" else "action_units"), rows)


def _row(face: LabelledFace, split: str, dataset: str) -> dict[str, Any]:
    landmark = f"landmarks/{face.name}.npy"
    question = QUESTIONS[face.task]
    record = Record(face.name, Path(), _image(face), landmark, question, face.answer, face.label)
    return training_row(record, dataset) if split == "train" else evaluation_row(record)
