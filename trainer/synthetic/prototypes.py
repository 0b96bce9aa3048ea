"""Which action units a face shows for each emotion: the clichés, and how photographs differ from them.

The clichés follow EMFACS (Friesen & Ekman 1983). Spontaneous faces show parts of them, with the mouth open or shut:
anger in the brows alone or shouting, crying with an open mouth, surprise and fear without all of their signs (Keltner
et al. 2019, "Emotional Expression: Advances in Basic Emotion Theory").
"""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from sdk.faba.vocabulary import EMOTIONS, Emotion

Prototype: TypeAlias = tuple[tuple[int, ...], dict[int, float]]  # required units, and the probability of others

# About two of five faces in photographs are neutral, and smiles are the most frequent expression.
_SHARES: dict[Emotion, float] = {"neutral": 0.4, "happiness": 0.16}
_PROTOTYPES: dict[Emotion, tuple[Prototype, ...]] = {
    "happiness": (
        ((6, 12), {25: 0.7, 26: 0.15, 7: 0.1, 14: 0.05, 2: 0.08, 1: 0.06}),
        ((6, 12, 25), {26: 0.2, 43: 0.06}),
        ((6, 12, 25, 26), {7: 0.3, 43: 0.2, 1: 0.1, 2: 0.1}),
        ((6, 12, 25, 27), {43: 0.2, 4: 0.1}),
        ((12,), {25: 0.45, 14: 0.1}),
        ((12,), {1: 0.25, 2: 0.3, 25: 0.6, 5: 0.1, 17: 0.05}),
    ),
    "sadness": (
        ((1, 4, 15), {17: 0.4, 43: 0.08, 25: 0.15}),
        ((1, 15), {17: 0.3, 4: 0.3, 43: 0.1}),
        ((1, 4), {15: 0.3, 17: 0.2, 25: 0.25, 43: 0.1}),
        ((15, 17), {1: 0.4, 4: 0.3, 24: 0.1}),
        ((4, 15, 17), {1: 0.5, 7: 0.3, 24: 0.15}),  # about to cry
        ((1, 4, 6, 15, 25), {17: 0.1, 43: 0.3, 20: 0.3}),
        ((1, 4, 7, 20, 25), {15: 0.4, 26: 0.5, 10: 0.2}),  # crying
        ((1, 4, 43, 25), {20: 0.5, 26: 0.4, 15: 0.4, 6: 0.4}),
    ),
    "surprise": (
        ((1, 2, 5, 26), {}),
        ((1, 2, 26), {5: 0.5}),
        ((1, 2, 5, 27), {}),
        ((1, 2, 25), {5: 0.5}),
        ((1, 2, 5), {25: 0.4}),
        ((5, 26), {1: 0.3, 2: 0.4}),
        ((1, 2, 27), {5: 0.3}),
    ),
    "anger": (
        ((4,), {7: 0.5, 17: 0.15, 24: 0.15}),
        ((4, 7), {23: 0.4, 17: 0.3}),
        ((4, 7, 24), {17: 0.4, 5: 0.1}),
        ((4, 5), {23: 0.3, 24: 0.2, 17: 0.2, 25: 0.3}),
        ((4, 5, 23), {17: 0.3}),
        ((4, 7, 25, 26), {16: 0.5, 10: 0.3}),  # shouting
        ((4, 7, 25, 27), {16: 0.5, 10: 0.3, 9: 0.05}),
        ((4, 5, 25, 27), {16: 0.5, 10: 0.25}),
        ((4, 7, 10, 25), {16: 0.4, 9: 0.1, 26: 0.4}),
    ),
    "neutral": (((), {25: 0.2, 26: 0.05, 14: 0.03, 43: 0.05, 7: 0.04, 2: 0.02, 17: 0.03, 24: 0.03}),),
    "disgust": (
        ((9, 10), {25: 0.4, 4: 0.05, 17: 0.2, 7: 0.1}),
        ((9,), {10: 0.5, 15: 0.2, 17: 0.3, 6: 0.1}),
        ((10, 15), {9: 0.6, 17: 0.4}),
        ((10,), {9: 0.3, 17: 0.3, 25: 0.3, 43: 0.05}),
        ((9, 10, 25, 26), {16: 0.3, 43: 0.1}),
        ((9, 10, 15), {17: 0.5, 43: 0.1}),
    ),
    "fear": (
        ((1, 2, 4, 5, 20), {25: 0.7, 26: 0.3}),
        ((1, 2, 4, 5, 26), {20: 0.5}),
        ((1, 4, 5, 20), {25: 0.6}),
        ((1, 4, 5, 25), {20: 0.4, 26: 0.3}),
        ((1, 2, 4, 5), {25: 0.5}),
        ((1, 5, 20, 25), {2: 0.3, 4: 0.5}),
        ((1, 2, 4, 5, 27), {20: 0.4, 16: 0.2}),  # screaming
        ((1, 4, 20, 25), {5: 0.3, 7: 0.2, 16: 0.2}),
    ),
}


def choose_emotion(shares: Mapping[Emotion, float], random: np.random.Generator) -> Emotion:
    """Draw an emotion; those without a share of their own have equal parts of the rest."""
    rest = (1 - sum(shares.values())) / (len(EMOTIONS) - len(shares))
    return EMOTIONS[random.choice(len(EMOTIONS), p=[shares.get(each, rest) for each in EMOTIONS])]


def draw_prototype(random: np.random.Generator, emotion: Emotion | None = None) -> tuple[Emotion, list[int]]:
    """Draw an emotion, unless it is given, and units that show it."""
    chosen = emotion or choose_emotion(_SHARES, random)
    prototypes = _PROTOTYPES[chosen]
    core, joins = prototypes[random.integers(len(prototypes))]
    return chosen, [*core, *(code for code, share in joins.items() if random.random() < share)]
