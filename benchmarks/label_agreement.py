"""Compare label scores, which need no decoding, with the decoded answers of an evaluation set, and time both.

python benchmarks/label_agreement.py BUNDLE --emotion eval_emotion_anno.json --units eval_au_anno.json [--limit 200]
"""

import argparse
import json
import statistics
from pathlib import Path

from sdk.bundles.manifest import read_manifest
from sdk.examine import Examiner, Request
from sdk.faba.answers import read_action_units, read_emotion
from sdk.faba.prompts import Task
from sdk.faba.vocabulary import FABA_UNITS
from sdk.faces.crop import aligned_face
from sdk.faces.images import load_image
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.pipeline import Pipeline
from trainer.corpus.records import read_landmarks, read_records


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
    """Return the share of faces (emotion) or of pairs of face and unit on which both agree, and the times."""
    agreed: list[bool] = []
    times: dict[str, list[float]] = {"labels": [], "words": [], "prefill": []}
    for record in read_records(path, task=task)[:limit]:
        crop = aligned_face(load_image(record.image_path), examiner.pipeline.manifest.preprocessing.face_scale)
        clock = Clock()
        reading = examiner.read(crop, Request((task,), scores=True), clock, read_landmarks(record))
        text, scores = reading.answers[task].text, reading.scores
        if scores is None:
            continue
        if task == "emotion":
            agreed.append(read_emotion(text).label == max(scores.emotions, key=lambda name: scores.emotions[name]))
        else:
            said = {unit.code for unit in read_action_units(text) if unit.present}
            agreed += [(code in said) == (scores.action_units[code] >= 0.5) for code in FABA_UNITS]
        spent = clock.elapsed_ms
        times["labels"].append(spent["labels"])
        times["words"].append(spent["question"] + spent["decode"])
        times["prefill"].append(spent["vision"] + spent["prefill"])
    share = 100 * sum(agreed) / len(agreed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{task}: label scores and words agree in {share:.1f} % of {len(agreed)}")
    print("  median ms: " + ", ".join(f"{name} {value:.1f}" for name, value in medians.items()))
    return {"agreement": round(share, 2), **{f"{name}_ms": round(value, 2) for name, value in medians.items()}}


if __name__ == "__main__":
    main()
