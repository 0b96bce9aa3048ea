"""The annotated picture: every face has its words, in type that can be read, and no face is said to be none."""

import numpy as np
import pytest
from PIL import Image
from test_render import analysis

import sdk.figure
from sdk import Analyzer
from sdk.faba.vocabulary import ACTION_UNITS
from sdk.figure import figure
from sdk.render import face_colour


@pytest.fixture
def written(monkeypatch):
    """Everything that is written: text and size."""
    texts, write = [], sdk.figure.write

    def recorded(picture, corner, text, size, colour):
        assert 0 <= corner[0] < picture.width
        assert corner[1] + size <= picture.height
        texts.append((text, size))
        write(picture, corner, text, size, colour)

    monkeypatch.setattr(sdk.figure, "write", recorded)
    return texts


def faces(count: int, size=(200, 100)):
    """An analysis of `count` faces, each of which has words of its own."""
    found = analysis(*[(20.0 * index, 10.0, 20.0 * index + 18, 30.0) for index in range(count)])

    def speaking(face):
        units = [unit.model_copy(update={"reason": f"reason {face.id} for {unit.id}."}) for unit in face.action_units]
        emotion = face.emotion.model_copy(update={"description": f"Face {face.id} looks happy, and says so at length."})
        return face.model_copy(update={"emotion": emotion, "action_units": tuple(units)})

    return found.model_copy(update={"faces": tuple(map(speaking, found.faces)), "image_size": size})


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_face_has_its_words(written, count):
    """Up to eight faces: the description and the reason of each unit, whole, below a heading in the face's colour."""
    picture = np.asarray(figure(np.zeros((100, 200, 3), np.uint8), faces(count)))
    text = " ".join(part for part, _ in written)
    for index in range(count):
        assert f"Face {index} looks happy, and says so at length." in text
        for unit in ("AU6", "AU12"):
            assert f"{unit} {ACTION_UNITS[int(unit[2:])]}" in text
            assert f"reason {index} for {unit}." in text
        heading = (picture[480:] == Image.new("RGB", (1, 1), face_colour(index)).getpixel((0, 0))).all(-1)
        assert heading.sum() > 5000, f"face {index} has no heading"


def test_a_crowd_is_listed(written):
    figure(np.zeros((100, 400, 3), np.uint8), faces(20, (400, 100)))
    text = [part for part, _ in written]
    assert text.count("AU6 AU12") == 20
    assert not [part for part in text if "reason" in part]


@pytest.mark.parametrize("size", [(60, 40), (200, 100), (4000, 3000), (30, 2000)])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_type_is_large_enough_for_a_phone(written, size, count):
    """At a width of 400 points no letter is smaller than 9 points, whatever the picture."""
    picture = figure(np.full((size[1], size[0], 3), 60, np.uint8), faces(count, size))
    assert picture.height > 400
    assert 720 <= picture.width <= 1600
    assert min(points for _, points in written) * 400 / picture.width > 9


def test_no_face_is_said(written):
    picture = np.asarray(figure(np.full((100, 200, 3), 60, np.uint8), analysis()))
    assert "no face found" in [text for text, _ in written]
    assert np.ptp(picture[490:], axis=(0, 1)).min() > 100


def test_a_bar_is_as_long_as_the_score():
    """AU12 at 0.5 against AU6 at 1.0: half as many coloured pixels in its row; without scores there is no bar."""
    scores = {"action_unit_scores": {"AU6": 1.0, "AU12": 0.5, "AU4": 0.01}, "emotion": None, "action_units": None}
    face = analysis((10, 20, 60, 70)).faces[0]

    def lengths(face):
        picture = figure(np.zeros((100, 200, 3), np.uint8), analysis().model_copy(update={"faces": (face,)}))
        heading = 480 + round(3.2 * picture.width / 32)  # the picture is enlarged to 960 x 480
        rows = (np.asarray(picture)[heading:] == (0xE6, 0x19, 0x4B)).all(-1).sum(axis=1)
        return sorted(set(rows[rows > 0].tolist()))

    half, full = lengths(face.model_copy(update=scores))
    assert half / full == pytest.approx(0.5, abs=0.01)
    assert lengths(face) == [], "a full bar would look like certainty"


def test_two_photographs_beside_each_other(written, astronaut):
    """The model in the package reads both faces, and everything it says is below the picture."""
    both = np.concatenate([astronaut, astronaut[:, ::-1]], axis=1)
    with Analyzer(keep_image=True) as analyzer:
        analysis = analyzer.analyze(both, color="rgb")
    assert len(analysis.faces) == 2
    picture = analysis.plot()
    assert picture.height > 1.4 * 512
    text = "".join(part for part, _ in written).replace(" ", "")
    for face in analysis.faces:
        assert face.emotion.description.replace(" ", "") in text
        for unit in face.action_units:
            assert not unit.present or unit.reason.replace(" ", "") in text
