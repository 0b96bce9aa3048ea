"""`emola ask` prints the answer of the bundle about one face, as words or as JSON."""

import json
from pathlib import Path

import pytest

from sdk import Analyzer
from sdk.cli import main

PHOTO = Path(__file__).parents[1] / "sdk/assets/pictures/astronaut.jpg"


@pytest.fixture(scope="module")
def answer():
    pytest.importorskip("dlib")
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


def test_a_photo_that_is_missing_is_one_line(capsys):
    assert main(["ask", "nowhere.jpg", "emotion"]) == 1
    assert "emola: error: " in capsys.readouterr().err.splitlines()[-1]
