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
_DEGREES = ("", "a little ", "slightly ", "very ")
_STRENGTHS = ("", "a hint of ", "clear ", "strong ", "deep ")


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


@dataclass(frozen=True)
class UnitList:
    """A way of listing action units in the order of their numbers.

    Attributes:
        opening: what comes before the number of the first unit.
        ends: what may follow the last unit instead of another; "" is the end mark.
    """

    opening: str
    ends: tuple[str, ...]

    def rest(self, code: int) -> str:
        """What follows a number at once."""
        return ", AU" if self.opening == "AU" else f" ({ACTION_UNITS[code]}"

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
