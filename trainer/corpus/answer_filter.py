"""Which answers of a vision-language model can be learnt from, and which label they carry."""

import re

from sdk.faba.answers import read_action_units, read_emotion
from sdk.faba.prompts import Task

MIN_WORDS = 5
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e|as an ai|as a language model)\b"
    r"|\bI(?:['’]m| am) (?:unable|not able|not allowed)\b"
    r"|\b(?:I|we) (?:can ?not|can['’]t|could not|couldn['’]t|do not|don['’]t|won['’]t)\b",
    re.IGNORECASE,
)


def unusable(text: str, task: Task) -> str | None:
    """Why an answer cannot be learnt from, or None if it can.

    A refusal is looked for in the first sentence only: a remark at the end that nobody can be sure does no harm.
    """
    if _REFUSAL.search(_SENTENCE.split(text.strip(), maxsplit=1)[0]):
        return "refused"
    if len(text.split()) < MIN_WORDS:
        return "too short"
    if not label_of(text, task):
        return "names no emotion" if task == "emotion" else "names no action unit"
    return None


def label_of(text: str, task: Task) -> str:
    """The label that an answer affirms, as `sdk.faba.rege` reads it: "Happiness" or "1, 4"; empty if there is none."""
    if task == "emotion":
        return (read_emotion(text).label or "").capitalize()
    return ", ".join(str(unit.code) for unit in read_action_units(text) if unit.present)
