"""Portraits of calm people: brows that rest low, open eyes, beards.

Measured by the landmark network on labelled photographs, the brows of neutral faces lie 0.27 of the distance between
the outer corners of the eyes above the eyes, and the lids are 0.09 apart. On other renders it is 0.30 and 0.07, and
0.26 with a strong AU4. So AU4 of portraits is never weak, and their resting brows reach as low as those of AU4 do.
"""

from dataclasses import replace

import numpy as np

from sdk.faba.vocabulary import Emotion
from trainer.synthetic.expression import Expression, draw_emotion
from trainer.synthetic.prototypes import choose_emotion
from trainer.synthetic.skin import Skin

EMOTION_SHARE = 0.9  # of faces drawn for an emotion
_SHARES: dict[Emotion, float] = {"neutral": 0.5, "happiness": 0.18, "anger": 0.12}
_WEAKEST = 0.45  # strength of an expression
_LEAST = {4: 0.55, 5: 0.6, 7: 0.5}  # intensities of units that resting brows and lids resemble
_RAISING = {1, 2, 5}  # units beside which low brows would hide what they do


def draw_portrait(random: np.random.Generator) -> Expression:
    """Draw an expression: half of them are neutral, and the others are clear."""
    drawn = draw_emotion(random, choose_emotion(_SHARES, random), weakest=_WEAKEST)
    units = {code: max(intensity, _LEAST.get(code, 0.0)) for code, intensity in drawn.units.items()}
    return replace(drawn, units=units)


def rest_as_portrait(weights: dict[str, float], expression: Expression, random: np.random.Generator) -> None:
    """Change the weights of `at_rest`: low brows, deep eyes, and lids that are open."""
    low = float(np.clip(random.normal(0.45, 0.4), -0.3, 1.3))
    if not expression.units.keys().isdisjoint(_RAISING):
        low *= 0.4
    weights["eyesDeep"] = random.uniform(0.1, 1.0) if random.random() < 0.5 else random.uniform(-0.25, 0.3)
    weights["browRidge"] = random.uniform(0.2, 1.0) if random.random() < 0.45 else random.uniform(-0.3, 0.3)
    wide = random.uniform(0, 0.3) if random.random() < 0.5 else 0.0
    for side in ("_L", "_R"):
        weights["browLow" + side] = low * random.uniform(0.85, 1.15)
        if "eyeBlink" + side in weights and random.random() < 0.9:
            weights["eyeBlink" + side] *= 0.4
            weights["eyeWide" + side] = wide


def portrait_skin(skin: Skin, random: np.random.Generator) -> Skin:
    """Change the skin of `draw_skin`: straight or slanting brows, more beards, bright eyes."""
    bearded = not skin.beard and not skin.lip_strength and random.random() < 0.25
    return replace(
        skin,
        beard=random.uniform(0.3, 1.0) if bearded else skin.beard,
        brow_bend=random.uniform(0.3, 1.1),
        brow_slope=random.normal(0.04, 0.07),
        iris=random.uniform(0.8, 2.2),
    )
