"""Score a bundle on labelled photographs: smiles, seven emotions, action units, and whether the words agree.

    python benchmarks/photographs.py FOLDER [--aligned] [--bundle BUNDLE]

FOLDER holds pictures and `labels.csv` with a header and one line for each face:

    file,x,y,emotion,smile,units
    portrait.jpg,,,happiness,1,6 12 25
    group.jpg,310,120,,0,none

`x` and `y` are a point on the face in pixels; without them the largest face of the picture is meant. `emotion` is one
of the seven, `smile` 1 or 0, `units` the codes that are present, or "none". An empty cell is not scored: leave it empty
where you are not sure. Label before you look at an output. Faces that the detector misses are counted and not scored;
with --aligned every picture is the crop of one face. Intervals are 95 % of a bootstrap over the faces.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from answers_agree import Indices, report, report_share, report_words, units_of

from sdk import Analyzer
from sdk.errors import DataError, SdkError
from sdk.faba.vocabulary import EMOTIONS, FABA_UNITS
from sdk.records import Face

LABELS = "labels.csv"
COLUMNS = ("file", "x", "y", "emotion", "smile", "units")


@dataclass(frozen=True)
class Label:
    """One line of the file; None is not scored.

    Attributes:
        point: x and y on the face in pixels, or None for the most prominent face.
        units: codes of the units that are present.
    """

    file: str
    point: tuple[float, float] | None
    emotion: str | None
    smile: bool | None
    units: frozenset[int] | None


def read_labels(folder: Path) -> list[Label]:
    """Read `labels.csv`.

    Raises:
        DataError: names the first line that cannot be read.
    """
    path = folder / LABELS
    if not path.is_file():
        raise DataError(f"{path} is missing; expected a table with the columns {', '.join(COLUMNS)}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise DataError(f"{path}: expected the columns {','.join(COLUMNS)}, found {rows.fieldnames}")
        return [_label(row, folder, f"{path}, line {rows.line_num}") for row in rows]


def _label(row: dict[str, str], folder: Path, where: str) -> Label:
    if not (folder / row["file"]).is_file():
        raise DataError(f"{where}: there is no picture {row['file']!r}")
    if row["emotion"] not in ("", *EMOTIONS):
        raise DataError(f"{where}: emotion is {row['emotion']!r}; expected one of {', '.join(EMOTIONS)}")
    if row["smile"] not in ("", "0", "1"):
        raise DataError(f"{where}: smile is {row['smile']!r}; expected 1, 0 or nothing")
    try:
        codes = frozenset(map(int, row["units"].replace("none", "").split()))
        point = (float(row["x"]), float(row["y"])) if row["x"] or row["y"] else None
    except ValueError:
        raise DataError(f"{where}: expected numbers as x and y, and codes such as '6 12' as units") from None
    if unknown := codes.difference(FABA_UNITS):
        raise DataError(f"{where}: AU{min(unknown)} is not one of the {len(FABA_UNITS)} units of FABA-Instruct")
    smile = row["smile"] == "1" if row["smile"] else None
    return Label(row["file"], point, row["emotion"] or None, smile, codes if row["units"] else None)


def face_at(faces: Sequence[Face], point: tuple[float, float] | None) -> Face | None:
    """The largest face, or the smallest of those whose box holds a point."""

    def width(face: Face) -> float:
        return face.box_xyxy[2] - face.box_xyxy[0]

    if point is None:
        return max(faces, key=width, default=None)
    x, y = point
    around = [f for f in faces if f.box_xyxy[0] <= x <= f.box_xyxy[2] and f.box_xyxy[1] <= y <= f.box_xyxy[3]]
    return min(around, key=width, default=None)


def area_under_curve(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """The share of pairs of a positive and a negative in which the positive has the higher score; a tie counts half."""
    values, marks = np.array(scores), np.array(positive)
    if marks.all() or not marks.any():
        return float("nan")
    above = values[marks][:, None] - values[~marks][None]
    return float((above > 0).mean() + (above == 0).mean() / 2)


def score(pairs: Sequence[tuple[Label, Face]]) -> Iterator[tuple[str, Callable[[Indices], float], int]]:
    """Yield each figure: its name, a function of the indices of faces, and the number of faces."""
    smiles = [(label, face) for label, face in pairs if label.smile is not None]
    marks = np.array([bool(label.smile) for label, _ in smiles])
    scores = np.array([(face.action_unit_scores or {})["AU12"] for _, face in smiles])
    yield (
        "smile, area under the curve of AU12's score",
        lambda rows: area_under_curve(scores[rows], marks[rows]),
        len(marks),
    )
    unsmiling = [face for label, face in smiles if not label.smile]
    happy = np.array([_emotion(face) == "happiness" for face in unsmiling], np.float64)
    yield "false happy, of faces without a smile", lambda rows: float(happy[rows].mean()), len(happy)
    clear = [(label.emotion, _emotion(face)) for label, face in pairs if label.emotion]
    right = np.array([said == true for true, said in clear], np.float64)
    yield "seven emotions", lambda rows: float(right[rows].mean()), len(right)
    kinds = np.array([true for true, _ in clear])
    yield "seven emotions, balanced", lambda rows: _balanced(right[rows], kinds[rows]), len(right)
    yield from _unit_figures([(label.units, units_of(face)) for label, face in pairs if label.units is not None])


def _unit_figures(
    pairs: Sequence[tuple[frozenset[int], set[int]]],
) -> Iterator[tuple[str, Callable[[Indices], float], int]]:
    for code in FABA_UNITS:
        true, said = (np.array([code in pair[side] for pair in pairs], bool) for side in (0, 1))
        if true.any():
            yield f"AU{code}, F1 ({true.sum()} present)", lambda rows, t=true, s=said: _f1(t[rows], s[rows]), len(pairs)


def _emotion(face: Face) -> str | None:
    return face.emotion.label if face.emotion else None


def _balanced(right: "np.ndarray", kinds: "np.ndarray") -> float:
    """The mean over the emotions that occur of the share that is right."""
    return float(np.mean([right[kinds == kind].mean() for kind in np.unique(kinds)]))


def _f1(true: "np.ndarray", said: "np.ndarray") -> float:
    total = true.sum() + said.sum()
    return float(2 * (true & said).sum() / total) if total else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--aligned", action="store_true", help="every picture is the crop of one face")
    parser.add_argument("--bundle", help="default: the embedded one")
    args = parser.parse_args()
    try:
        labels = read_labels(args.folder)
        with Analyzer(args.bundle, scores=True) as analyzer:
            files = list(dict.fromkeys(label.file for label in labels))
            analyses = analyzer.analyze_batch(
                [args.folder / file for file in files], faces="aligned" if args.aligned else "detect"
            )
    except SdkError as error:
        print(f"photographs: {error}", file=sys.stderr)
        return 1
    faces = dict(zip(files, (analysis.faces for analysis in analyses), strict=True))
    found = [(label, face_at(faces[label.file], label.point)) for label in labels]
    figures = {"faces found": report_share("faces found, %", [face is not None for _, face in found])}
    pairs = [(label, face) for label, face in found if face is not None]
    figures |= {name: report(name, figure, count) for name, figure, count in score(pairs)}
    figures |= report_words([face for _, face in pairs])
    print(json.dumps({"benchmark": "photographs", "bundle": analyzer.manifest.name, "figures": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
