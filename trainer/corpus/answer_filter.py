"""Usable answers of a vision-language model, and their labels."""

import re

from sdk.faba.answers import read_action_units, read_emotion
from sdk.faba.prompts import END, IMAGE, Task

MIN_WORDS = 5
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e|as an ai|as a language model)\b"
    r"|\bI(?:['’]m| am) (?:unable|not able|not allowed)\b"
    r"|\b(?:I|we) (?:can ?not|can['’]t|could not|couldn['’]t|do not|don['’]t|won['’]t)\b",
    re.IGNORECASE,
)


def unusable(text: str, task: Task) -> str | None:
    """The reason why an answer is not usable for training, or None.

    Only the first sentence is searched for a refusal: a caveat at the end does no harm.
    """
    if _REFUSAL.search(_SENTENCE.split(text.strip(), maxsplit=1)[0]):
        return "refused"
    if IMAGE in text or END in text:
        return "holds a mark of the prompt"
    if len(text.split()) < MIN_WORDS:
        return "too short"
    if not label_of(text, task):
        return "names no emotion" if task == "emotion" else "names no action unit"
    return None


def label_of(text: str, task: Task) -> str:
    """The label of an answer, as `sdk.faba.rege` reads it: "Happiness" or "1, 4"; empty if there is none."""
    if task == "emotion":
        return (read_emotion(text).label or "").capitalize()
    return ", ".join(str(unit.code) for unit in read_action_units(text) if unit.present)
