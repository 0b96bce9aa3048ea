"""Terms of facial affective behaviour analysis: emotions, action units, scored units of each dataset.

Sources: synonyms, Fig. 5 of the EmoLA paper (as spelled in the authors' evaluation code); action unit names, Ekman,
Friesen & Hager, Facial Action Coding System (2002); scored units, Tables 4 to 7 of the paper and the same code.
"""

from dataclasses import dataclass
from typing import Literal

Emotion = Literal["happiness", "sadness", "surprise", "anger", "neutral", "disgust", "fear"]

# In the order of the official label numbers 0..6; earlier emotions win ties.
EMOTIONS: tuple[Emotion, ...] = ("happiness", "sadness", "surprise", "anger", "neutral", "disgust", "fear")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SYNONYMS: dict[Emotion, frozenset[str]] = {
    "happiness": _words(
        "happiness happy smiling smile pleasant content contentment relaxed relaxation cheerful joy amusement amused "
        "positivity positive lightheartedness joyful friendly warmth bright"
    ),
    "sadness": _words("sadness crying distress concern discomfort anguish somber"),
    "surprise": _words(
        "surprise surprised startled puzzled astonishment disbelief wonder curiosity curious confusion bewilderment "
        "skepticism excitement uncertainty"
    ),
    "anger": _words(
        "anger mad irate outraged agitation irritated enraged annoyed incensed serious frustration displeased stern"
    ),
    "neutral": _words("neutral neutrality calm contemplative concerned thoughtful focused solemn mild"),
    "disgust": _words("disgust distaste disgusted discomfort displeasure displeased disapproval disdain contempt"),
    "fear": _words("fear shock anxiety apprehension tension panic alertness focus worry alarm curiosity contemplation"),
}

# Words for the categories. The official lists lack several of them ("sad", "angry", "afraid"), so the official
# protocol does not use this table.
CATEGORY_WORDS: dict[Emotion, frozenset[str]] = {
    "happiness": _words("happiness happy happily joy joyful"),
    "sadness": _words("sadness sad sadly sorrow sorrowful unhappy unhappiness"),
    "surprise": _words("surprise surprised surprising astonished astonishment"),
    "anger": _words("anger angry angrily furious fury rage"),
    "neutral": _words("neutral neutrality expressionless"),
    "disgust": _words("disgust disgusted revulsion"),
    "fear": _words("fear fearful afraid scared frightened terrified"),
}

ACTION_UNITS: dict[int, str] = {
    1: "Inner Brow Raiser",
    2: "Outer Brow Raiser",
    4: "Brow Lowerer",
    5: "Upper Lid Raiser",
    6: "Cheek Raiser",
    7: "Lid Tightener",
    8: "Lips Toward Each Other",
    9: "Nose Wrinkler",
    10: "Upper Lip Raiser",
    11: "Nasolabial Deepener",
    12: "Lip Corner Puller",
    13: "Sharp Lip Puller",
    14: "Dimpler",
    15: "Lip Corner Depressor",
    16: "Lower Lip Depressor",
    17: "Chin Raiser",
    18: "Lip Pucker",
    19: "Tongue Show",
    20: "Lip Stretcher",
    21: "Neck Tightener",
    22: "Lip Funneler",
    23: "Lip Tightener",
    24: "Lip Pressor",
    25: "Lips Part",
    26: "Jaw Drop",
    27: "Mouth Stretch",
    28: "Lip Suck",
    29: "Jaw Thrust",
    30: "Jaw Sideways",
    31: "Jaw Clencher",
    32: "Lip Bite",
    33: "Cheek Blow",
    34: "Cheek Puff",
    35: "Cheek Suck",
    36: "Tongue Bulge",
    37: "Lip Wipe",
    38: "Nostril Dilator",
    39: "Nostril Compressor",
    41: "Lid Droop",
    42: "Slit",
    43: "Eyes Closed",
    44: "Squint",
    45: "Blink",
    46: "Wink",
}


@dataclass(frozen=True)
class DatasetUnits:
    """The action units of one dataset: all labelled ones, and the scored ones."""

    labelled: tuple[int, ...]
    scored: tuple[int, ...]


def _units(labelled: str, scored: str | None = None) -> DatasetUnits:
    codes = tuple(map(int, labelled.split()))
    return DatasetUnits(codes, tuple(map(int, scored.split())) if scored else codes)


DATASETS: dict[str, DatasetUnits] = {
    "FABA": _units(
        "1 2 4 5 6 7 9 10 12 14 15 16 17 20 23 24 25 26 27 43",
        scored="1 2 4 5 6 10 12 17 24 25 26 43",
    ),
    "DISFA": _units("1 2 4 6 9 12 25 26"),
    "BP4D": _units("1 2 4 6 7 10 12 14 15 17 23 24"),
    "GFT": _units(
        "1 2 4 5 6 7 9 10 12 14 15 16 17 18 20 23 24 25 26",
        scored="1 2 4 6 10 12 14 15 23 24",
    ),
    "EmotioNet": _units("1 2 4 5 6 9 12 17 20 25 26 43"),
}

FABA_UNITS: tuple[int, ...] = DATASETS["FABA"].labelled  # the 20 units of FABA-Instruct
