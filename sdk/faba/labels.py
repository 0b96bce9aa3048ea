"""Phrases that name a label. A label is scored by how the decoder would go on among them, without writing an answer.

The wording is that of FABA-Instruct's answers and of the one-word targets of the classic data sets. A phrase that the
model does not use does no harm: its probability is what the model itself puts on it, at every word where phrases part.
"""

from dataclasses import dataclass

from sdk.faba.vocabulary import ACTION_UNITS, DATASETS, Emotion

UNITS: tuple[int, ...] = DATASETS["FABA"].labelled

_WORDS: dict[Emotion, tuple[str, str]] = {
    "happiness": ("happy", "happiness"),
    "sadness": ("sad", "sadness"),
    "surprise": ("surprised", "surprise"),
    "anger": ("angry", "anger"),
    "neutral": ("neutral", "neutrality"),
    "disgust": ("disgusted", "disgust"),
    "fear": ("fearful", "fear"),
}
_DEGREES = ("", "a little ", "quite ", "very ")
_STRENGTHS = ("", "slight ", "clear ", "strong ")


def emotion_phrases() -> dict[str, Emotion]:
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
    1: "The inner brows are clearly raised",
    2: "The outer brows are clearly lifted",
    4: "The brows are clearly lowered and drawn together",
    5: "The eyes are clearly opened wide",
    6: "The cheeks are clearly raised",
    7: "The eyelids are clearly tightened",
    9: "The nose is clearly wrinkled",
    10: "The upper lip is clearly raised",
    12: "The corners of the mouth are clearly pulled up into a smile",
    14: "The corners of the mouth are clearly dimpled",
    15: "The corners of the mouth are clearly turned down",
    16: "The lower lip is clearly pulled down",
    17: "The chin is clearly pushed up",
    20: "The lips are clearly stretched sideways",
    23: "The lips are clearly tightened",
    24: "The lips are clearly pressed together",
    25: "The lips are clearly parted",
    26: "The jaw is clearly dropped",
    27: "The mouth is clearly stretched wide open",
    43: "The eyes are clearly closed",
}


@dataclass(frozen=True)
class UnitList:
    """A way of listing action units in the order of their numbers.

    Attributes:
        opening: what comes before the number of the first unit.
        ends: what may follow the last unit instead of another; "" is the end mark.
    """

    opening: str
    ends: tuple[str, ...]

    def first(self, code: int) -> str:
        """The list up to its first number."""
        return f"{self.opening}{code}"

    def after(self, code: int) -> str:
        """A list that has come to `code`, up to where the next number or the end follows."""
        if self.opening == "AU":
            return f"AU{code}"
        return f"{self.opening}{code} ({ACTION_UNITS[code]}): {_SIGNS[code]}."

    def following(self, code: int, following: int) -> str:
        return self.after(code) + (f", AU{following}" if self.opening == "AU" else f"\n2. AU{following}")


UNIT_LISTS = (
    UnitList("The following action units (AUs) are visible in this face:\n\n1. AU", ("", "\n\nThe", "\n\nContext")),
    UnitList("This image shows several facial action units (AUs):\n\n1. AU", ("", "\n\nPlease", "\n\nOverall")),
    UnitList("AU", ("",)),
)
NO_UNITS = ("No action units are visible in this face", "There are no action units visible", "None")
