"""`emola ask` prints the answer of the bundle about one face, as words or as JSON."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sdk import Analyzer
from sdk.cli import main
from sdk.faces.detect import Detection

PHOTO = Path(__file__).parents[1] / "sdk/assets/pictures/astronaut.jpg"


@pytest.fixture(scope="module")
def answer():
    with Analyzer() as analyzer:
        return analyzer.ask(PHOTO, "emotion")


def test_the_words_are_those_of_the_analyzer(answer, capsys):
    assert main(["ask", str(PHOTO), "emotion"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == answer
    assert err.startswith("note: ")


def test_json_is_one_document(answer, capsys):
    assert main(["ask", str(PHOTO), "emotion", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["question"], found["answer"], found["model"]["name"]) == ("emotion", answer, "emola-nano")


def test_a_photo_from_stdin(answer, capsys, monkeypatch):
    """As `emola analyze -`; an empty pipe is one line."""
    for content, code in ((PHOTO.read_bytes(), 0), (b"", 1)):
        stdin = io.BytesIO(content)
        stdin.name = "<stdin>"
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stdin))
        assert main(["ask", "-", "emotion", "--json"]) == code
        out, err = capsys.readouterr()
        if code:
            assert "emola: error: <stdin>: the open file has nothing left to read" in err
        else:
            found = json.loads(out)
            assert (found["source"], found["answer"]) == ("<stdin>", answer)


def test_min_face_counts_pixels_of_the_picture():
    """A picture that is read at half its size has the faces that `analyze` finds."""

    class Finder:
        box_extent = 1.0

        def detect(self, image):
            return [Detection((10, 10, 40, 40), 1.0)]

    wide = np.full((100, 8200, 3), 127, np.uint8)
    with Analyzer(detector=Finder(), min_face=50) as analyzer:
        assert next(analyzer.stream(wide, "emotion", color="rgb"))


def test_a_photo_that_is_missing_is_one_line(capsys):
    assert main(["ask", "nowhere.jpg", "emotion"]) == 1
    assert "emola: error: " in capsys.readouterr().err.splitlines()[-1]
