"""Expressions: action units with intensities and sides.

Blendshape weights per action unit follow the descriptions of FACS (Ekman, Friesen & Hager 2002) and the names of ARKit.
"""

from dataclasses import dataclass

import numpy as np

from sdk.faba.vocabulary import Emotion
from trainer.synthetic.prototypes import draw_prototype

# Action unit -> blendshape -> weight at full intensity; names without _L and _R have no sides.
# OWN_SHAPES are not among the blendshapes of the head model: see `own_shapes`.
OWN_SHAPES = frozenset({"browKnit", "browLow", "eyesDeep", "browRidge", "lipsFull"})
SHAPES: dict[int, dict[str, float]] = {
    1: {"browInnerUp": 1.6},
    2: {"browOuterUp": 1.0, "browInnerUp": 0.1},
    4: {"browDown": 1.6, "browKnit": 1.0},
    5: {"eyeWide": 1.0},
    6: {"cheekRaiser": 0.9, "cheekSquint": 0.7, "eyeSquint": 0.1},
    7: {"eyeSquint": 1.2, "eyeBlink": 0.12},
    9: {"noseSneer": 1.3, "browDown": -0.35, "browInnerUp": 0.3, "eyeSquint": 0.25},  # noseSneer lowers brows, as AU4
    10: {"mouthUpperUp": 0.75, "noseSneer": 0.15, "mouthShrugUpper": 0.1},
    12: {"mouthSmile": 1.15, "cheekSquint": 0.25},
    14: {"mouthDimple": 0.9},
    15: {"mouthFrown": 1.1},
    16: {"mouthLowerDown": 1.0},
    17: {"mouthShrugLower": 1.1, "mouthShrugUpper": 0.35},
    20: {"mouthStretch": 1.1},
    23: {"mouthRollUpper": 0.6, "mouthRollLower": 0.6, "mouthPucker": 0.15},
    24: {"mouthPress": 1.3, "mouthRollUpper": 0.5, "mouthRollLower": 0.5, "mouthShrugLower": 0.35},
    25: {"jawOpen": 0.1, "mouthLowerDown": 0.3, "mouthUpperUp": 0.2},
    26: {"jawOpen": 0.4},
    27: {"jawOpen": 0.95},
    43: {"eyeBlink": 1.07},
}
UNITS = tuple(SHAPES)
MIN_INTENSITY = 0.3  # from which an action unit counts as present
_MIN_INTENSITIES = {5: 0.4, 23: 0.4, 24: 0.45, 26: 0.45, 27: 0.7, 43: 0.9}  # of units that look like others below

_UNIT_WEIGHTS = {12: 3.0, 6: 1.5, 10: 1.4, 14: 1.4, 17: 1.4, 23: 1.4, 24: 2.0, 43: 1.6, 7: 1.5, 16: 1.3}  # others: 1
_EXCLUSIVE_PAIRS = [
    {12, 15},
    {12, 20},
    {24, 25},
    {23, 25},
    {23, 24},
    {17, 25},
    {43, 5},
    {43, 7},
    {5, 7},
    {26, 27},
    {14, 26},
    {14, 27},
    {20, 24},
]
_SYMMETRIC = {17, 23, 26, 27, 43}  # their shapes have no sides; 43 on one side would be a wink
_IMPLIED = {26: 25, 27: 25, 16: 25}  # a dropped jaw and a lowered lip part the lips


@dataclass(frozen=True)
class Expression:
    """Action units with intensities in 0..1, the share of each side, and the emotion they were drawn for.

    Attributes:
        units: code -> intensity; other units are absent.
        sides: code -> (left, right) factors in 0..1.
        emotion: None for a free combination of units.
    """

    units: dict[int, float]
    sides: dict[int, tuple[float, float]]
    emotion: Emotion | None

    def weights(self) -> dict[str, float]:
        """Blendshape name -> weight."""
        found: dict[str, float] = {}
        for code, intensity in self.units.items():
            left, right = self.sides.get(code, (1.0, 1.0))
            for name, weight in SHAPES[code].items():
                for side, share in (("_L", left), ("_R", right), ("", (left + right) / 2)):
                    found[name + side] = found.get(name + side, 0.0) + weight * intensity * share
        grin = self.units.get(12, 0.0) * self.units.get(25, 0.0)  # a smile with parted lips shows the upper teeth
        slant = min(self.units.get(1, 0.0), self.units.get(4, 0.0))  # raised and drawn together, brows are not lowered
        for side in ("_L", "_R"):
            found["mouthUpperUp" + side] = found.get("mouthUpperUp" + side, 0.0) + 0.35 * grin
            found["browDown" + side] = found.get("browDown" + side, 0.0) - 1.0 * slant
        return {name: min(weight, 1.7) for name, weight in found.items()}


def draw_emotion(random: np.random.Generator, emotion: Emotion | None = None, *, weakest: float = 0.3) -> Expression:
    """Draw a varied prototype; weak expressions are as frequent as strong ones."""
    chosen, codes = draw_prototype(random, emotion)
    return _draw(random, codes, chosen, strength=random.uniform(weakest, 1.1))


def draw_units(random: np.random.Generator) -> Expression:
    """Draw a free combination of up to five action units."""
    count = random.choice(6, p=(0.08, 0.2, 0.26, 0.22, 0.14, 0.1))
    chances = np.array([_UNIT_WEIGHTS.get(code, 1.0) for code in UNITS])
    codes = random.choice(UNITS, size=count, replace=False, p=chances / chances.sum()).tolist()
    if 12 in codes:
        codes += [code for code, share in ((25, 0.5), (6, 0.3)) if random.random() < share]
    return _draw(random, codes, None, strength=random.uniform(0.5, 1.0))


def _draw(random: np.random.Generator, codes: list[int], emotion: Emotion | None, strength: float) -> Expression:
    """Draw intensities and sides of units; of two exclusive units the first is kept."""
    units: dict[int, float] = {}
    for code in codes:
        wanted = [code, _IMPLIED[code]] if code in _IMPLIED else [code]
        if any({one, other} in _EXCLUSIVE_PAIRS for one in wanted for other in units):
            continue
        for each in wanted:
            units.setdefault(
                each,
                float(np.clip(strength * random.uniform(0.75, 1.25), _MIN_INTENSITIES.get(each, MIN_INTENSITY), 1.0)),
            )
    sides = {}
    for code in units:
        share = 1 - abs(random.normal(0, 0.12)) if random.random() > 0.06 else random.uniform(0.25, 0.6)
        sides[code] = (1.0, max(share, 0.2)) if random.random() < 0.5 else (max(share, 0.2), 1.0)
    sides |= dict.fromkeys(_SYMMETRIC & units.keys(), (1.0, 1.0))
    return Expression(units, sides, emotion)
