"""The parts of the product that read what others wrote, each with valid inputs to damage: the list of all targets."""

from pathlib import Path
from random import Random

import numpy as np
from mutate import damaged_text
from seeds import damaged_picture, large_picture
from targets_bundles import BUNDLE_TARGETS
from targets_data import DATA_TARGETS
from targets_http import HTTP_TARGETS
from worker import Call, Target

from sdk.errors import ImageError
from sdk.faba.answers import read_action_units, read_emotion
from sdk.faces.images import load_image

_ANSWERS = (
    b"The person looks happy: the corners of the lips are raised (AU12) and the cheeks are lifted (AU6).",
    b"1. AU4 (Brow Lowerer): The brows are drawn together.\n2. AU 9: The nose is wrinkled. AU 15 is not present.",
    b"AUs 4, 9 and 15 are engaged, while there is no AU6 visible; however, Action Unit 17 isn't active.",
    b"AU1, AU2, AU4",
    b"4, 9, 15",
    b"There's no sign of sadness. He isn't angry but surprised!\n\n**Anger**: none",
)


def _open_pictures(scratch: Path) -> Call:
    def call(data: bytes) -> None:
        pixels = load_image(data)
        assert pixels.ndim == 3, pixels.shape
        assert pixels.dtype == np.uint8, pixels.dtype

    return call


def _open_answers(scratch: Path) -> Call:
    def call(data: bytes) -> None:
        text = _text(data)
        read_emotion(text)
        assert all(0 < reading.code < 100 for reading in read_action_units(text))

    return call


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def _damaged_answer(index: int) -> bytes:
    draw = Random(f"answer {index}")
    return damaged_text(draw.choice(_ANSWERS), draw)


_ALL = (
    Target(
        "pictures",
        "pictures",
        _open_pictures,
        lambda i: damaged_picture(Random(f"picture {i}")),
        (ImageError,),
        200_000,
    ),
    Target(
        "large", "large pictures", _open_pictures, lambda i: large_picture(Random(f"large {i}")), (ImageError,), 200, 20
    ),
    Target("answers", "answers", _open_answers, _damaged_answer, (), 200_000),
    *DATA_TARGETS,
    *BUNDLE_TARGETS,
    *HTTP_TARGETS,
)
TARGETS = {target.name: target for target in _ALL}
GUIDED = ("pictures", "answers", "manifest", "arrays")  # whose inputs are plain bytes
