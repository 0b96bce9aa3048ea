"""benchmarks/photographs.py and answers_agree.py: figures that can be computed by hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdk.errors import DataError

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from answers_agree import contradictions, interval, known_words, words
from photographs import COLUMNS, area_under_curve, face_at, read_labels

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HEADER = ",".join(COLUMNS)


@pytest.fixture
def folder(tmp_path, astronaut, t1):
    """The astronaut, who smiles, and six faces of which three are labelled; one label points beside every face."""
    Image.fromarray(astronaut).save(tmp_path / "astronaut.png")
    Image.fromarray(t1).save(tmp_path / "t1.png")
    return tmp_path


def run(folder, *options):
    command = [sys.executable, str(BENCHMARKS / "photographs.py"), str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS.parent)


def test_the_table_of_two_photographs(folder):
    from sdk import Analyzer

    boxes = [face.box_xyxy for face in Analyzer().analyze(folder / "t1.png", tasks=("labels",)).faces]
    points = [f"{(box[0] + box[2]) / 2:.0f},{(box[1] + box[3]) / 2:.0f}" for box in boxes]
    lines = [
        HEADER,
        "astronaut.png,,,happiness,1,6 12 25",
        f"t1.png,{points[0]},neutral,0,none",
        f"t1.png,{points[3]},happiness,1,6 12 25",
        "t1.png,1,1,fear,0,1 4",
    ]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert figures["faces found"]["value"] == 0.75
    assert figures["smile, area under the curve of AU12's score"] == {"value": 1.0, "low": 1.0, "high": 1.0, "faces": 3}
    assert figures["seven emotions"]["value"] == figures["seven emotions, balanced"]["value"] == 1.0
    assert figures["false happy, of faces without a smile"]["value"] == 0.0
    assert figures["AU12, F1 (2 present)"]["value"] == 1.0
    assert not any(name.startswith("AU4,") for name in figures), "the face with AU4 was not found"
    assert figures["contradictions, % of faces"]["value"] == 0.0
    assert figures["words that no training answer has"]["value"] == 0.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("missing.png,,,,,", "line 2: there is no picture 'missing.png'"),
        ("astronaut.png,,,joy,,", "line 2: emotion is 'joy'; expected one of happiness, "),
        ("astronaut.png,,,,yes,", "line 2: smile is 'yes'"),
        ("astronaut.png,,,,,AU6", "line 2: expected numbers as x and y"),
        ("astronaut.png,3,,,,", "line 2: expected numbers as x and y"),
        ("astronaut.png,,,,,6 99", "line 2: AU99 is not one of the 20 units"),
    ],
)
def test_a_wrong_line_is_one_clear_error(folder, line, message):
    (folder / "labels.csv").write_text(f"{HEADER}\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_labels(folder)


def test_without_labels_the_command_says_what_is_missing(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"photographs: {tmp_path / 'labels.csv'} is missing")
    assert len(done.stderr.splitlines()) == 1


def test_the_area_equals_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    positive = random.random(200) < 0.3
    scores = np.round(random.normal(positive, 1.0), 1)  # with ties
    above = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert area_under_curve(scores, positive) == pytest.approx(above / (positive.sum() * (~positive).sum()))


def test_the_interval_covers_the_truth():
    """Of 60 samples of 80 faces with a share of 0.3, about 95 % of the intervals hold 0.3."""
    random, held = np.random.default_rng(1), 0
    for _ in range(60):
        flags = random.random(80) < 0.3
        low, high = interval(lambda rows, flags=flags: float(flags[rows].mean()), 80)
        held += low <= 0.3 <= high
    assert 51 <= held <= 60


@pytest.mark.parametrize(
    ("text", "units", "expected"),
    [
        ("The cheeks are clearly raised. There is no frown.", {6}, []),
        ("The cheeks are raised.", {12}, ["AU6 named"]),
        ("The brows, the eyes and the mouth are at rest.", {2}, ["at rest beside units"]),
        ("The brows, the eyes and the mouth are at rest.", set(), []),
        ("There is no smile and no frown.", {4, 12}, ["AU4 denied", "AU12 denied"]),
        ("The cheeks are not involved, so the smile may be polite.", {6, 12}, ["AU6 denied"]),
        ("The cheeks are not involved, so the smile may be polite.", {25}, ["AU12 named"]),
        ("The mouth is open but not smiling.", {25}, []),
    ],
)
def test_contradictions(text, units, expected):
    assert list(contradictions(text, units)) == expected


def test_broken_words_are_noticed():
    known = known_words()
    assert words("The lips are slightly parted, as seen in fear.") <= known
    assert words("The mouth suggest not smilvolved.") - known == {"smilvolved"}


def test_a_point_chooses_the_smallest_box_around_it():
    class At:
        def __init__(self, *box) -> None:
            self.box_xyxy = box

    large, small, other = At(0, 0, 100, 100), At(40, 40, 60, 60), At(200, 0, 250, 50)
    faces = [large, small, other]
    assert face_at(faces, None) is large
    assert face_at(faces, (50, 50)) is small
    assert face_at(faces, (210, 10)) is other
    assert face_at(faces, (150, 10)) is None
    assert face_at([], None) is None
