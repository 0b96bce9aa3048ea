"""The embedded model: what a stranger gets from `Analyzer()` and `emola demo`."""

import json
import warnings

import pytest

from sdk import Analyzer
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import check_hashes, read_manifest
from sdk.cli import main
from sdk.commands import demo
from sdk.commands.demo import PICTURES
from sdk.errors import QuestionWarning

MEGABYTES = 15


@pytest.fixture(scope="module")
def analyzer():
    with Analyzer() as opened:
        yield opened


def test_the_bundle_is_whole_and_small():
    """Every hash holds; bundle and pictures together stay below 15 MB."""
    check_hashes(EMBEDDED, read_manifest(EMBEDDED))
    size = sum(path.stat().st_size for path in EMBEDDED.parent.rglob("*") if path.is_file()) / 1e6
    assert size <= MEGABYTES, f"{size:.1f} MB"


def test_a_smile_is_happiness(analyzer, astronaut):
    """The photograph of an astronaut: happiness, with AU12 and AU25; the notice travels with the result."""
    analysis = analyzer.analyze(astronaut, color="rgb")
    (face,) = analysis.faces[:1]
    assert face.emotion.label == "happiness", face.emotion.description
    assert {unit.code for unit in face.action_units if unit.present} >= {12, 25}, face.action_units_text
    assert "rendered faces" in analysis.model.notice


def test_every_face_of_a_group_is_explained(analyzer, t1):
    """Six faces, turned and tilted: each has an emotion, words for it, and landmarks inside its surroundings."""
    analysis = analyzer.analyze(t1, color="rgb")
    assert len(analysis.faces) == 6
    for face in analysis.faces:
        assert face.emotion.label, face.emotion.description
        left, top, right, bottom = face.box_xyxy
        width, height = right - left, bottom - top
        for x, y in face.landmarks:
            assert left - width < x < right + width
            assert top - height < y < bottom + height
    assert analysis.status == "ok", analysis.warnings


def test_demo_writes_the_pictures_it_describes(tmp_path, capsys):
    """`emola demo`: two analyses, two annotated pictures, the notice once on stderr, JSON alone on stdout."""
    assert main(["demo", "--save", str(tmp_path / "demo"), "--json"]) == 0
    output = capsys.readouterr()
    analyses = json.loads(output.out)
    assert len(analyses) == 2
    assert all(analysis["faces"] for analysis in analyses)
    assert output.err.count("rendered faces") == 1
    names = {path.stem for path in (tmp_path / "demo").iterdir()}
    assert names == {path.stem for path in PICTURES.glob("*.jpg")}


OTHER_QUESTION = "How old is this person?"


@pytest.mark.parametrize(
    "question", ["emotion", "What AUs are conveyed by this face?", "  what sentiment is written on this FACE "]
)
def test_a_known_question_is_answered_without_a_warning(analyzer, astronaut, question):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert analyzer.ask(astronaut, question, color="rgb")


def test_another_question_gets_a_warning_and_an_answer(analyzer, astronaut):
    for ask in (analyzer.ask, lambda *given, **options: "".join(analyzer.stream(*given, **options))):
        with pytest.warns(QuestionWarning, match=f"was not trained to answer '{OTHER_QUESTION[:-1]}") as caught:
            assert ask(astronaut, OTHER_QUESTION, color="rgb")
        assert len(caught) == 1


@pytest.mark.filterwarnings("default")
def test_the_command_line_shows_the_warning_as_one_line(analyzer, astronaut, monkeypatch, capsys):
    monkeypatch.setattr(demo, "run", lambda args: analyzer.ask(astronaut, OTHER_QUESTION, color="rgb"))
    assert main(["demo"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: emola-nano was not trained to answer")
