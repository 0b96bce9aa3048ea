"""Phrases by which labels are scored: those of FABA-Instruct's answers and of the texts about rendered faces."""

from sdk.bundles.phrases import LabelPhrases, UnitList
from sdk.faba.vocabulary import FABA_UNITS, Emotion
from trainer.synthetic.describe import appearance_of, meaning_of

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


_CLEAR = 0.6  # intensity
# Beside this companion a unit suggests what it usually does in the training answers.
_COMPANIONS = {6: 12, 10: 9, 12: 6, 20: 1, 23: 4, 24: 4}
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
    signs = {
        code: f"{appearance_of(code, _CLEAR)}, {meaning_of(code, {_COMPANIONS.get(code, code)})}" for code in FABA_UNITS
    }
    return LabelPhrases(emotions=_emotion_phrases(), lists=_LISTS, signs=signs, no_units=_NO_UNITS)
