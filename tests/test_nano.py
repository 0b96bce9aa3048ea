"""The embedded model: what a stranger gets from `Analyzer()` and `emola demo`."""

import json

import pytest

from sdk import Analyzer
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import check_hashes, read_manifest
from sdk.cli import main
from sdk.commands.demo import PICTURES

MEGABYTES = 15


@pytest.fixture(scope="module")
def analyzer():
    pytest.importorskip("dlib")
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
    pytest.importorskip("dlib")
    assert main(["demo", "--save", str(tmp_path / "demo"), "--json"]) == 0
    output = capsys.readouterr()
    analyses = json.loads(output.out)
    assert len(analyses) == 2
    assert all(analysis["faces"] for analysis in analyses)
    assert output.err.count("rendered faces") == 1
    names = {path.stem for path in (tmp_path / "demo").iterdir()}
    assert names == {path.stem for path in PICTURES.glob("*.jpg")}
