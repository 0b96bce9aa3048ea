"""Hair, caps and scarves: their place and thickness, the direction of strands, and long hair beside the face."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from sdk.arrays import Floats
from trainer.synthetic.noise import NoiseBank
from trainer.synthetic.raster import sample_map, vertex_normals

Cut = Literal["bald", "short", "full", "long", "cap", "scarf"]


@dataclass(frozen=True)
class HairStyle:
    """Hair, cap or scarf of a head.

    Attributes:
        front: height of the hair line above the middle of the brow, in centimetres at rest (brows end at 6.3).
        temple, slope, wave: fall of the line to the sides, its slope, and (height, frequency, phase) of its waves.
        thickness: distance from the scalp in centimetres.
        side: height down to which hair covers the ears.
        parting: place of the parting, in centimetres to the right of the middle.
        curl: sideways movement of the strands.
        cloth: sRGB of a cap or scarf.
    """

    cut: Cut
    front: float
    temple: float
    slope: float
    wave: tuple[float, float, float]
    thickness: float
    side: float
    parting: float
    curl: float
    cloth: tuple[float, float, float]

    @property
    def is_cloth(self) -> bool:
        return self.cut in ("cap", "scarf")


def draw_style(random: np.random.Generator, colour: npt.ArrayLike) -> HairStyle:
    """Draw a style; `colour` is that of a cap or scarf."""
    cuts: tuple[Cut, ...] = ("bald", "short", "full", "long", "cap", "scarf")
    cut = cuts[random.choice(6, p=(0.07, 0.3, 0.24, 0.29, 0.06, 0.04))]
    fringe = cut in ("full", "long", "short") and random.random() < 0.18
    front = random.uniform(6.9, 8.4) if fringe else random.uniform(9.4, 13.0)
    thickness = {"short": (0.1, 1.2), "full": (0.7, 2.6), "long": (0.4, 1.6), "cap": (0.3, 0.9), "scarf": (0.3, 0.7)}
    wave = (random.uniform(0.05, 0.3), random.uniform(0.5, 1.5), random.uniform(0, 6.3))
    return HairStyle(
        cut=cut,
        front=random.uniform(7.2, 9.5) if cut == "cap" else front,
        temple=random.uniform(0.0, 0.05 if fringe or cut == "cap" else 0.1),
        slope=random.normal(0, 0.05) * (3 if fringe else 1),
        wave=(0.0, 1.0, 0.0) if cut in ("cap", "scarf") else wave,
        thickness=random.uniform(*thickness.get(cut, (0.0, 0.01))),
        side={"short": random.uniform(2.5, 5.0), "cap": 20.0}.get(cut, random.uniform(-1.0, 4.0)),
        parting=float(random.choice((0.0, -2.5, 2.5))) + random.normal(0, 0.6),
        curl=random.beta(1, 2.5),
        cloth=tuple(np.asarray(colour, float).tolist()),
    )


def grow(
    style: HairStyle, rest: Floats, skin: npt.NDArray[np.bool_], vertices: Floats, triangles: npt.NDArray[np.int32]
) -> tuple[Floats, Floats]:
    """Vertices with the scalp moved outwards, and (V,) the covered share of each."""
    if style.cut == "bald":
        return vertices, np.zeros(len(rest), np.float32)
    x, y, z = rest.T
    height, frequency, phase = style.wave
    line = style.front - style.temple * x**2 + style.slope * x + height * np.sin(frequency * x + phase)
    back = z < (1.0 if style.cut != "cap" else -99.0)
    amount = 0.5 + 0.5 * np.tanh(np.where(back, y + 6 + z, y - line) / 0.8)
    if style.cut == "scarf":
        edge = np.minimum(6.2 - np.abs(x) - 0.1 * np.maximum(y - 3, 0), 8.9 - y - 0.02 * x**2)
        amount = 0.5 - 0.5 * np.tanh(np.minimum(edge, y + 8.4 - 0.8 * np.maximum(z - 8, 0)) / 0.3)
    else:
        aside = (np.abs(x) > 6.4) & (z < 3.6) & (y > style.side) & ~back
        amount = np.where(aside, np.maximum(amount, 0.9), amount)
    amount = (amount * skin).astype(np.float32)
    bumps = 1 + 0.2 * np.sin(x * frequency * 1.3 + phase) * np.cos(y * frequency)
    normals = vertex_normals(vertices, triangles)
    return (vertices + normals * (amount * style.thickness * bumps)[:, None]).astype(np.float32), amount


def strands(style: HairStyle, rest: Floats, noise: NoiseBank, random: np.random.Generator) -> Floats:
    """(N,) brightness of strands at (3, N) places, with a spread of about 1; strands run from the parting down."""
    x, y, z = rest
    turn = np.arctan2(x - style.parting * (z > 0), np.maximum(z + 5.0, 0.3))
    down = 14.0 - y + 0.6 * z
    turn = turn + 0.05 * style.curl * np.sin(down * 1.7 + random.uniform(0, 6)) + 0.02 * style.curl * np.sin(down * 4)
    across = 320 + 170 * turn + random.uniform(-40, 40)
    along = down * random.uniform(9, 14) + random.uniform(0, 250)
    streaks: Floats = sample_map(noise.strands, across, along)[0]
    return streaks


def locks(style: HairStyle, marks: Floats, size: int, random: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Masks of long hair: the part behind the head and the part in front of it."""
    width = max(float(np.ptp(marks[:17, 0])), 1.0)
    up = (marks[27] - marks[8]) / max(float(np.linalg.norm(marks[27] - marks[8])), 1.0)
    right = np.array([-up[1], up[0]])

    def at(mark: int, outwards: float, upwards: float) -> Floats:
        """A place beside a landmark; distances in widths of the face."""
        sign = -1 if mark in (0, 4, 17) else 1
        place: Floats = marks[mark] + width * (sign * outwards * right + upwards * up)
        return place

    length, reach = random.uniform(0.0, 1.4) * width, random.uniform(0.06, 0.26)
    top, part = marks[27] + up * 0.84 * width, marks[27] + up * 0.66 * width + right * style.parting * width / 14.5
    behind, front = [top], []
    covered = random.uniform(-0.08, 0.1)
    for temple, jaw, brow in ((0, 4, 17), (16, 12, 26)):
        low = np.array([at(temple, reach + random.uniform(-0.05, 0.12), 0)[0], marks[8][1] + length])
        outer = [
            low,
            at(jaw, reach + 0.18, 0),
            at(temple, reach, 0),
            at(temple, 0.8 * reach, 0.35),
            at(brow, -0.05, 0.62),
        ]
        behind += outer if temple else outer[::-1]
        turned_away = float(np.linalg.norm(marks[temple] - marks[27])) < 0.32 * width
        if random.random() < 0.85 and not turned_away:
            inside = covered + random.normal(0, 0.025)
            tip = np.array([at(jaw, 0.0, 0)[0], marks[8][1] + length * random.uniform(0.8, 1.0)])
            inner = [
                part,
                at(brow, 0.0, 0.36),
                at(temple, -inside, 0.12),
                at(temple, -inside, -0.1),
                at(jaw, 0.06 - 0.5 * inside, 0),
                tip,
            ]
            front.append([*inner, *outer, top])
    return _mask([behind], size), _mask(front, size)


def _mask(outlines: list[list[Floats]], size: int) -> Image.Image:
    """(S, S) mask of the inside of closed outlines with rounded corners."""
    picture = Image.new("L", (size, size))
    for outline in outlines:
        points = np.array(outline)
        for _ in range(3):  # Chaikin's corner cutting
            after = np.roll(points, -1, axis=0)
            points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], axis=1).reshape(-1, 2)
        ImageDraw.Draw(picture).polygon([tuple(point) for point in points], fill=255)
    return picture.filter(ImageFilter.BoxBlur(1.5))


def lock_colours(
    style: HairStyle, colour: npt.ArrayLike, size: int, noise: NoiseBank, random: np.random.Generator
) -> Floats:
    """(3, S, S) sRGB of long hair: wavy vertical streaks."""
    rows = np.arange(size, dtype=np.float32)[:, None]
    sway = random.uniform(0, 6) * (1 + 2 * style.curl) * np.sin(rows / random.uniform(14, 45) + random.uniform(0, 6))
    across = rows.T * 1.3 + sway + random.uniform(20, 250)
    along = np.broadcast_to(rows * 0.6 + random.uniform(0, 300), across.shape)
    streaks = sample_map(noise.strands, across.ravel(), along.ravel()).reshape(1, size, size)
    base = np.asarray(colour, np.float32)[:, None, None]
    colours: Floats = (base * (0.92 + 0.2 * streaks) + 0.02 * (1 + streaks)).clip(0, 1)
    return colours
