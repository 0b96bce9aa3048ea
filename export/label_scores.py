"""Fit the temperatures of a bundle's label scores to evaluation sets and record them in its manifest."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sdk.arrays import Doubles
from sdk.bundles.files import file_sha256
from sdk.bundles.manifest import MANIFEST, Manifest, read_manifest
from sdk.bundles.measured import LabelCalibration
from sdk.faba.calibration import calibrated, calibration_error, fit_temperature
from sdk.faba.prompts import Task
from sdk.faba.rege import annotated_action_units, emotion_index
from sdk.faba.vocabulary import FABA_UNITS
from sdk.faces.crop import aligned_face
from sdk.faces.images import load_image
from sdk.files import write_file
from sdk.progress import Progress
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.labels import SCORED_SHARE, LabelScorer
from sdk.runtime.pipeline import Pipeline
from trainer.corpus.records import Record, read_landmarks, read_records


def calibrate_labels(
    bundle: Path, sets: Mapping[Task, Path], report: Callable[[str], None] = lambda line: None
) -> Manifest:
    """Fit one temperature per task and rewrite the manifest.

    Args:
        bundle: folder of a sealed bundle.
        sets: evaluation file in the FABA-Instruct layout by task.
        report: called with one line per task, and with how far it is.

    Returns:
        The new manifest.

    Raises:
        DataError: a file has another layout.
    """
    manifest = read_manifest(bundle)
    pipeline = Pipeline(bundle, manifest, open_backend(bundle, manifest))
    found = tuple(_calibrate(pipeline, task, path, report) for task, path in sets.items())
    kept = tuple(old for old in manifest.calibration if old.task not in sets)
    manifest = manifest.model_copy(update={"calibration": (*kept, *found)})
    write_file(bundle / MANIFEST, manifest.to_json().encode())
    return read_manifest(bundle)


def _calibrate(pipeline: Pipeline, task: Task, path: Path, report: Callable[[str], None]) -> LabelCalibration:
    records = read_records(path, task=task)
    scorer = LabelScorer(pipeline)
    progress, scored = Progress(report), []
    for index, record in enumerate(records):
        progress.at(index, len(records), f"label scores, {task}")
        scored.append(_score(pipeline, scorer, task, record, index))
    whole, probabilities, labels = (np.concatenate(parts) for parts in zip(*scored, strict=True))
    temperature = fit_temperature(whole, labels)
    found = LabelCalibration(
        task=task,
        temperature=temperature,
        error_before=calibration_error(probabilities, labels),
        error=calibration_error(calibrated(probabilities, temperature, len(records)), labels),
        samples=len(records),
        data=file_sha256(path),
    )
    report(
        f"label scores, {task}: temperature {temperature:.3f}, calibration error {100 * found.error_before:.1f} % -> "
        f"{100 * found.error:.1f} % on {len(records)} faces"
    )
    return found


def _score(
    pipeline: Pipeline, scorer: LabelScorer, task: Task, record: Record, index: int
) -> tuple[Doubles, Doubles, npt.NDArray[np.int64]]:
    """Rows of probabilities, and the right column of each: a row of the emotions, or (present, absent) of each unit.

    The rows come twice: from a complete search, so that no likelihood is zero, and as a user gets them.
    """
    crop = aligned_face(load_image(record.image_path), pipeline.manifest.preprocessing.face_scale)
    with pipeline.encode(crop, Clock(), read_landmarks(record)) as face:
        if task == "emotion":
            whole, given = (np.array([list(scorer.emotions(face, coverage=e).values())]) for e in (1.0, SCORED_SHARE))
            return whole, given, np.array([emotion_index(record.label, index)])
        whole, given = (_pairs(scorer.action_units(face, coverage=e)) for e in (1.0, SCORED_SHARE))
    present = annotated_action_units(record.label, index)
    return whole, given, np.array([int(code not in present) for code in FABA_UNITS])


def _pairs(units: Mapping[int, float]) -> Doubles:
    """The (20, 2) probabilities that each unit is present and absent."""
    return np.array([[units[code], 1 - units[code]] for code in FABA_UNITS])
