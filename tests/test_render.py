"""An analysis as text and as a picture."""

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFont

from sdk.faba.answers import read_action_units, read_emotion
from sdk.render import annotate, describe, text_width, write
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


def test_letters_are_spaced_evenly():
    """Small type is large type made smaller: the width of a line is in proportion, which hinting of Pillow breaks."""
    text, off = "minimum illumination, Lip Corner Puller", {"write": [], "Pillow": []}
    for size in range(9, 18):
        wanted = text_width(text, 100) * size / 100
        picture = Image.new("RGB", (2 * round(wanted), 40), "white")
        write(picture, (0, 0), text, size, "black")
        left, _, right, _ = ImageChops.invert(picture).getbbox()
        off["write"].append(abs(right - left - wanted))
        off["Pillow"].append(abs(ImageFont.load_default(size=size).getlength(text) - wanted))
    assert max(off["write"]) < 2.5, off
    assert max(off["Pillow"]) > 2.5, off
