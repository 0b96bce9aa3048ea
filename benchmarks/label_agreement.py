"""Compare label scores with the decoded answers and with the labels of an evaluation set, and time both.

python benchmarks/label_agreement.py BUNDLE --emotion eval_emotion_anno.json --units eval_au_anno.json [--limit 200]

The calibration error is the expected one (`sdk.faba.calibration`) of the scores as a user gets them, the loss their
negative log-likelihood. Measure both on faces that the temperature was not fitted to.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

from sdk.bundles.manifest import read_manifest
from sdk.examine import Examiner, Request
from sdk.faba.answers import read_action_units, read_emotion
from sdk.faba.calibration import calibration_error
from sdk.faba.prompts import Task
from sdk.faba.rege import annotated_action_units, emotion_index
from sdk.faba.vocabulary import FABA_UNITS
from sdk.faces.crop import aligned_face
from sdk.faces.images import load_image
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.pipeline import Pipeline
from trainer.corpus.records import read_landmarks, read_records

CERTAIN = 1e-6  # a score nearer to 0 or 1 is called certain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--emotion", type=Path, help="evaluation file of the emotion task")
    parser.add_argument("--units", type=Path, help="evaluation file of the action unit task")
    parser.add_argument("--limit", type=int, default=200)
    args = parser.parse_args()
    manifest = read_manifest(args.bundle)
    examiner = Examiner(Pipeline(args.bundle, manifest, open_backend(args.bundle, manifest)), "auto")
    files: dict[Task, Path | None] = {"emotion": args.emotion, "action_units": args.units}
    found = {task: measure(examiner, task, path, args.limit) for task, path in files.items() if path}
    print(json.dumps({"benchmark": "label_agreement", "bundle": manifest.name, **found}))


def measure(examiner: Examiner, task: Task, path: Path, limit: int) -> dict[str, float]:
    """Return the share of faces (emotion) or of pairs of face and unit on which both agree, errors and times."""
    agreed: list[bool] = []
    times: dict[str, list[float]] = {"labels": [], "words": [], "prefill": []}
    rows: list[list[float]] = []
    labels: list[int] = []
    for index, record in enumerate(read_records(path, task=task)[:limit]):
        crop = aligned_face(load_image(record.image_path), examiner.pipeline.manifest.preprocessing.face_scale)
        clock = Clock()
        reading = examiner.read(crop, Request((task,), scores=True), clock, read_landmarks(record))
        text, scores = reading.answers[task].text, reading.scores
        if scores is None:
            continue
        if task == "emotion":
            agreed.append(read_emotion(text).label == max(scores.emotions, key=lambda name: scores.emotions[name]))
            rows.append(list(scores.emotions.values()))
            labels.append(emotion_index(record.label, index))
        else:
            said = {unit.code for unit in read_action_units(text) if unit.present}
            agreed += [(code in said) == (scores.action_units[code] >= 0.5) for code in FABA_UNITS]
            rows += [[share, 1 - share] for share in scores.action_units.values()]
            present = annotated_action_units(record.label, index)
            labels += [int(code not in present) for code in scores.action_units]
        spent = clock.elapsed_ms
        times["labels"].append(spent["labels"])
        times["words"].append(spent["question"] + spent["decode"])
        times["prefill"].append(spent["vision"] + spent["prefill"])
    share = 100 * sum(agreed) / len(agreed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{task}: label scores and words agree in {share:.1f} % of {len(agreed)}")
    probabilities = np.array(rows)
    loss = float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-9)).mean())
    error = 100 * calibration_error(probabilities, np.array(labels))
    certain = 100 * float((np.abs(probabilities - 0.5) > 0.5 - CERTAIN).mean())
    print(f"  expected calibration error {error:.2f} %, loss {loss:.3f} nats")
    print(f"  {certain:.1f} % of the scores within {CERTAIN:g} of 0 or 1")
    print("  median ms: " + ", ".join(f"{name} {value:.1f}" for name, value in medians.items()))
    figures = {"agreement": share, "calibration_error": error, "loss": loss, "certain": certain}
    return {
        **{name: round(value, 3) for name, value in figures.items()},
        **{f"{name}_ms": round(value, 2) for name, value in medians.items()},
    }


if __name__ == "__main__":
    main()
