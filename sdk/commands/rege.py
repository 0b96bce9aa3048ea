"""`emola rege`: score the predictions of any model."""

import argparse
import json
import sys
from pathlib import Path
from reprlib import repr as short
from typing import Any

from sdk.errors import ScoreError
from sdk.faba.rege import PROTOCOLS, RegeScore, score
from sdk.faba.vocabulary import ACTION_UNITS, DATASETS, EMOTIONS
from sdk.untrusted_json import DATA_SIZE, read_json, read_json_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", required=True, choices=("au", "emotion"), help="what was asked: action units or the emotion"
    )
    parser.add_argument(
        "--dataset",
        default="FABA",
        choices=tuple(DATASETS),
        help="data set, which decides which labels are scored (default %(default)s)",
    )
    parser.add_argument("--annotations", required=True, type=Path, help="JSON list of records with label and gpt4")
    parser.add_argument(
        "--predictions",
        required=True,
        type=Path,
        help="JSON list of texts, the authors' pred.json (index -> text), or JSONL",
    )
    parser.add_argument(
        "--protocol",
        default="official",
        choices=tuple(PROTOCOLS),
        help="; ".join(f"{name}: {meaning}" for name, meaning in PROTOCOLS.items()) + " (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the score as JSON")


def run(args: argparse.Namespace) -> None:
    annotations = _read(args.annotations)
    if not isinstance(annotations, list) or not all(isinstance(record, dict) for record in annotations):
        raise ScoreError(f"{args.annotations}: expected a JSON list of records with label and gpt4")
    predictions = read_predictions(args.predictions)
    found = score(predictions, annotations, task=args.task, dataset=args.dataset, protocol=args.protocol)
    print(json.dumps(found.to_dict(), indent=1) if args.json else _table(found))
    if found.failures:
        listed = "; ".join(f"{failure.index}: {failure.reason}" for failure in found.failures[:5])
        print(
            f"{len(found.failures)} of {found.samples} samples could not be scored by the protocol: {listed}",
            file=sys.stderr,
        )


def read_predictions(path: Path) -> list[str]:
    """Read the predicted texts in the order of the annotations.

    Args:
        path: a JSON list of texts; a JSON object index -> text, as in the authors' files; or JSONL with texts, or with
            objects that have "prediction" and optionally "index", in any order.

    Raises:
        ScoreError: the file has none of these forms, or an index is missing.
    """
    content = read_json_lines(path, ScoreError) if path.suffix == ".jsonl" else _read(path)
    if isinstance(content, dict):
        content = [{"index": index, "prediction": text} for index, text in content.items()]
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        content = _texts(content, path)
    if isinstance(content, list) and all(isinstance(text, str) for text in content):
        return content
    raise ScoreError(f"{path}: expected a JSON list of texts, an object index -> text, or JSONL with 'prediction'")


def _texts(rows: list[dict[str, Any]], path: Path) -> list[Any]:
    """The predictions of objects, in the order of their indices if they have some."""
    indexed = any("index" in row for row in rows)
    texts: dict[int, Any] = {}
    for place, row in enumerate(rows):
        if "prediction" not in row:
            raise ScoreError(f"{path}: object {place} has no 'prediction'; expected a text")
        index = _index(row.get("index"), path) if indexed else place
        if index in texts:
            raise ScoreError(f"{path}: there are two predictions for index {index}; expected one text for each")
        texts[index] = row["prediction"]
    missing = next((index for index in range(len(texts)) if index not in texts), None)
    if missing is not None:
        raise ScoreError(f"{path}: no prediction for index {missing}; expected one text for each index from 0")
    return [texts[index] for index in range(len(texts))]


def _index(value: object, path: Path) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) <= 9:  # keys of a JSON object are texts
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ScoreError(f"{path}: expected indices from 0, found {short(value)}")


def _read(path: Path) -> Any:
    return read_json(path, ScoreError, limit=DATA_SIZE)


def _table(found: RegeScore) -> str:
    lines = [f"REGE {found.task} on {found.dataset}, protocol {found.protocol}, {found.samples} samples"]
    for code, f1 in found.per_au.items():
        value = "not scored (only one outcome occurs)" if f1 is None else f"{f1:6.2f}"
        lines.append(f"  AU{code:<3} {ACTION_UNITS[code]:24} F1 {value}")
    recognition = "mean F1" if found.task == "au" else f"accuracy over {len(EMOTIONS)} emotions"
    lines.append(f"  S_re   {found.s_re:6.2f}  {recognition}")
    lines.append(f"  S_ge   {found.s_ge:6.2f}  ROUGE-L F as in the PyPI package rouge 1.0.1")
    lines.append(f"  S_rege {found.s_rege:6.2f}")
    return "\n".join([*lines, f"  {found.unread} of {found.samples} answers hold no label that this protocol knows"])
