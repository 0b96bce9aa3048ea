"""Phrases by which labels are scored: those of FABA-Instruct's answers and of the texts about rendered faces."""

from sdk.bundles.phrases import LabelPhrases, UnitList
from sdk.faba.vocabulary import Emotion

_WORDS: dict[Emotion, tuple[str, str]] = {
    "happiness": ("happy", "happiness"),
    "sadness": ("sad", "sadness"),
    "surprise": ("surprised", "surprise"),
    "anger": ("angry", "anger"),
    "neutral": ("neutral", "neutrality"),
    "disgust": ("disgusted", "disgust"),
    "fear": ("fearful", "fear"),
}
_DEGREES = ("", "a little ", "slightly ", "very ")
_STRENGTHS = ("", "a hint of ", "clear ", "strong ", "deep ")


def _emotion_phrases() -> dict[str, Emotion]:
    """Beginnings of an answer that end with the word for an emotion."""
    phrases: dict[str, Emotion] = {}
    for emotion, (adjective, noun) in _WORDS.items():
        forms = [f"The person appears {degree}{adjective}" for degree in _DEGREES]
        for strength in _STRENGTHS:
            forms += [f"The face conveys {strength}{noun}", f"The person appears to feel {strength}{noun}"]
        forms += [
            f"The person in the image appears to express {noun}",
            f"The person in the image appears to be {adjective}",
            f"The face appears {adjective}",
            f"The person shows a {adjective} expression",
            noun.capitalize(),
        ]
        phrases |= dict.fromkeys(forms, emotion)
    return phrases


# What each unit looks like: an item of a list has to say something before the next item can come.
_SIGNS: dict[int, str] = {
    1: "The inner brows are clearly raised, which can be a sign of worry or sadness",
    2: "The outer brows are clearly lifted, which is typical of surprise",
    4: "The brows are clearly lowered and drawn together, which suggests concentration or anger",
    5: "The eyes are clearly opened wide, which suggests alertness",
    6: "The cheeks are clearly raised, as in a genuine smile",
    7: "The eyelids are clearly tightened, which narrows the gaze",
    9: "The nose is clearly wrinkled, which is typical of disgust",
    10: "The upper lip is clearly raised, as seen in disgust",
    12: "The corners of the mouth are clearly pulled up into a smile, as seen in happiness",
    14: "The corners of the mouth are clearly dimpled, which can be a sign of contempt",
    15: "The corners of the mouth are clearly turned down, which is typical of sadness",
    16: "The lower lip is clearly pulled down, which shows the lower teeth",
    17: "The chin is clearly pushed up, which bunches the skin of the chin",
    20: "The lips are clearly stretched sideways, as seen in fear",
    23: "The lips are clearly tightened, as seen in anger",
    24: "The lips are clearly pressed together, as seen in anger",
    25: "The lips are clearly parted, which leaves a gap between them",
    26: "The jaw is clearly dropped, which opens the mouth",
    27: "The mouth is stretched wide open, which opens the mouth as far as it goes",
    43: "The eyes are closed, which hides the gaze",
}


_LISTS = (
    UnitList(
        opening="The following action units (AUs) are visible in this face:\n\n1. AU",
        ends=("", "\n\nThe", "\n\nContext"),
    ),
    UnitList(
        opening="This image shows several facial action units (AUs):\n\n1. AU", ends=("", "\n\nPlease", "\n\nOverall")
    ),
    UnitList(opening="AU", ends=("",)),
)
_NO_UNITS = ("No action units are visible in this face", "There are no action units visible", "None")


def label_phrases() -> LabelPhrases:
    """What an export writes into the manifest."""
    return LabelPhrases(emotions=_emotion_phrases(), lists=_LISTS, signs=_SIGNS, no_units=_NO_UNITS)
