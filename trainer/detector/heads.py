"""Rendered heads without a background, the material of the detector's scenes."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from threadpoolctl import ThreadpoolController

from sdk.arrays import Floats
from trainer.synthetic.expression import draw_emotion, draw_units
from trainer.synthetic.face_model import read_face_model
from trainer.synthetic.rendered_face import BOX_RISE, BOX_SIDE
from trainer.synthetic.scene import Render, Studio, render

SIDE = 288  # pixels of a picture
LARGE = 0.25  # share of heads that fill their picture, for faces that are large in a scene
FACE_PIXELS, LARGE_FACE_PIXELS = 112, 168  # width of a face in pixels
MOST_YAW = 80.0  # degrees, up to which a head shows a face
HIDDEN_YAW = 108.0  # degrees, from which it shows none; between them it is neither a face nor background
_EYES, _NOSE, _MOUTH = (slice(36, 42), slice(42, 48)), 30, (48, 54)


@dataclass(frozen=True)
class Head:
    """One head.

    Attributes:
        pixels: (288, 288, 4) uint8 RGBA, upright.
        box: (3,) x and y of the centre and side of dlib's box of the face, in pixels.
        points: (5, 2) eyes, tip of the nose and corners of the mouth, those on the left of the picture first.
        yaw: degrees, see `Render`.
    """

    pixels: npt.NDArray[np.uint8]
    box: Floats
    points: Floats
    yaw: float


@dataclass(frozen=True)
class HeadSet:
    """Rendered heads: the pixels in shards of one length but for the last, the rest as in `Head`."""

    shards: list[npt.NDArray[np.uint8]]
    boxes: Floats
    points: Floats
    yaws: Floats

    def __getitem__(self, index: int) -> Head:
        shard, place = divmod(index, len(self.shards[0]))
        return Head(self.shards[shard][place], self.boxes[index], self.points[index], float(self.yaws[index]))


class HeadRenderer:
    """Renders heads by their numbers, with one thread.

    Args:
        face_model: ICT-FaceKit, see `read_face_model`.
        seed: decides every head.
    """

    def __init__(self, face_model: Path, seed: int) -> None:
        self._studio, self._seed = Studio(read_face_model(face_model), SIDE), seed
        self._threads = ThreadpoolController()

    def __call__(self, index: int) -> Head:
        with self._threads.limit(limits=1):
            return render_head(self._studio, np.random.default_rng((self._seed, index)))


def render_head(studio: Studio, random: np.random.Generator) -> Head:
    """Render a new person before black and before white; the difference is what the person does not cover.

    Source of the method: Smith & Blinn 1996, "Blue Screen Matting", triangulation.
    """
    expression = draw_emotion(random) if random.random() < 0.5 else draw_units(random)
    pixels = LARGE_FACE_PIXELS if random.random() < LARGE else FACE_PIXELS
    angles = (_draw_yaw(random), float(np.clip(random.normal(-2, 13), -40, 35)), 0.0)
    twin = copy.deepcopy(random)
    black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (255, 255, 255))
    dark = render(studio, expression, random, pixels, angles=angles, backdrop=black)
    light = render(studio, expression, twin, pixels, angles=angles, backdrop=white)
    difference = light.image.astype(np.int16) - dark.image
    alpha = 255 - difference.clip(0, 255).mean(axis=2)
    opaque = np.maximum(alpha, 1)[..., None]
    colour = (dark.image * 255.0 / opaque).clip(0, 255)
    rgba = np.concatenate([colour, alpha[..., None]], axis=2).astype(np.uint8)
    return Head(rgba, face_box(dark.landmarks68), five_points(dark), angles[0])


def face_box(marks: Floats) -> Floats:
    """(3,) centre and side of dlib's box of an upright face with these (68, 2) landmarks, in pixel corners."""
    side = BOX_SIDE * float(np.sqrt(np.prod(np.ptp(marks, axis=0))))
    x, y = marks.mean(axis=0) + 0.5
    return np.array([x, y - BOX_RISE * side, side], np.float32)


def five_points(picture: Render) -> Floats:
    """(5, 2) eyes, tip of the nose and corners of the mouth, in pixel corners."""
    marks = picture.landmarks68
    rows = [*(marks[eye].mean(axis=0) for eye in _EYES), marks[_NOSE], *marks[list(_MOUTH)]]
    return (np.array(rows) + 0.5).astype(np.float32)


def _draw_yaw(random: np.random.Generator) -> float:
    """Draw degrees: faces from all sides that show them, and a few backs of heads."""
    kind, sign = random.random(), float(random.choice((-1.0, 1.0)))
    if kind < 0.45:
        return float(random.normal(0, 16))
    if kind < 0.90:
        return sign * float(random.uniform(0, MOST_YAW))
    return sign * float(random.uniform(HIDDEN_YAW, 180))
