"""An analysis as text and as a picture."""

import numpy as np
import pytest

from sdk.faba.answers import read_action_units, read_emotion
from sdk.render import annotate, describe, figure
from sdk.results import Analysis, Face, ModelInfo

UNITS = "AU6 (Cheek Raiser): raised. AU12 (Lip Corner Puller): pulled. There is no AU4 visible."


def analysis(*boxes) -> Analysis:
    faces = tuple(
        Face(
            id=index,
            box_xyxy=box,
            detection_score=1.5,
            landmarks=None,
            emotion=read_emotion("A happy\x1b[2J face."),
            action_units=tuple(read_action_units(UNITS)),
            action_units_text=UNITS,
        )
        for index, box in enumerate(boxes)
    )
    return Analysis(
        faces=faces,
        image_size=(200, 100),
        source="a.png",
        model=ModelInfo(name="tiny", digest="0", backend="ort-float32", notice=None),
        timing_ms={},
        status="ok",
        warnings=("careful",),
    )


def test_text_names_everything():
    text = describe(analysis((10, 20, 60, 70)))
    for words in ("a.png", "1 face", "face 0", "happiness", "AU6, AU12", "absent: AU4", "warning: careful"):
        assert words in text
    assert "\x1b" not in text, "a model's words must not steer the terminal"


@pytest.mark.parametrize("box", [(10, 20, 60, 70), (-20, -30, 500, 400), (150, 0, 199, 20), (0, 90, 3, 99)])
def test_picture_keeps_its_size_and_shows_a_box(box):
    image = np.zeros((100, 200, 3), np.uint8)
    picture = annotate(image, analysis(box))
    assert picture.size == (200, 100)
    assert np.asarray(picture).any()
    assert not image.any(), "the original stays as it was"


@pytest.mark.parametrize("size", [(60, 40), (200, 100), (4000, 3000), (30, 2000)])
@pytest.mark.parametrize("faces", [0, 1, 12])
def test_a_figure_can_be_read_whatever_the_photo(size, faces):
    """Width 640 or more and 3000 at most; every face has its panel, below each other, inside the canvas."""
    image = np.full((size[1], size[0], 3), 60, np.uint8)
    boxes = [(5.0 * index, 10.0, 5.0 * index + 20, 30.0) for index in range(faces)]
    found = analysis(*boxes).model_copy(update={"image_size": size})
    picture = figure(image, found)
    assert 640 <= max(picture.size) <= 3000
    panel = np.asarray(picture)[:, -100:]
    assert (panel != 255).any() == bool(faces)
    assert (panel[-3:] == 255).all() or max(size) > 1000


def test_a_bar_is_as_long_as_the_score():
    """AU12 at 0.5 against AU6 at 1.0: half as many coloured pixels in its row, within a tenth."""
    scores = {"action_unit_scores": {"AU6": 1.0, "AU12": 0.5}, "emotion": None, "action_units": None}
    face = analysis((10, 20, 60, 70)).faces[0].model_copy(update=scores)
    picture = np.asarray(figure(np.zeros((100, 200, 3), np.uint8), analysis().model_copy(update={"faces": (face,)})))
    line = max(16, 320 // 45)  # the photo is enlarged to 640 x 320
    panel = (picture[:, 640 + line :] == (0xE6, 0x19, 0x4B)).all(-1)
    top = line // 2
    lengths = [int(panel[top + line * row + line // 2].sum()) for row in (1, 2)]
    assert lengths[0] == pytest.approx(7 * line, abs=2)
    assert lengths[1] / lengths[0] == pytest.approx(0.5, abs=0.1), lengths


def test_reasons_stand_in_the_panel_where_all_fit():
    """One face beside a square picture; twelve beside a low one have no room, so the panel is as without reasons."""

    def panel(shape, faces, emotion=None, unit=None):
        found = analysis(*[(5.0, 10.0, 25.0, 30.0)] * faces)
        said = {
            "emotion": found.faces[0].emotion.model_copy(update={"description": emotion or ""}),
            "action_units": tuple(each.model_copy(update={"reason": unit}) for each in found.faces[0].action_units),
        }
        faces = tuple(face.model_copy(update=said) for face in found.faces)
        found = found.model_copy(update={"faces": faces, "image_size": shape[::-1]})
        return np.asarray(figure(np.zeros((*shape, 3), np.uint8), found))

    reason = "The corners of the mouth are strongly pulled up."
    for said in ({"emotion": reason}, {"unit": reason}):
        assert (panel((100, 100), 1, **said) != panel((100, 100), 1)).any(), said
        assert (panel((30, 100), 12, **said) == panel((30, 100), 12)).all(), said


def test_without_scores_there_is_no_bar():
    """A full bar would look like certainty: the rows below the heading hold words in black and nothing coloured."""
    picture = np.asarray(figure(np.zeros((100, 200, 3), np.uint8), analysis((10, 20, 60, 70))))
    line = 16
    rows = picture[line // 2 + line + 1 :, 640 + line :].astype(int)
    assert (rows < 100).all(-1).any(), "the units are named"
    assert (np.ptp(rows, axis=-1) < 30).all()
