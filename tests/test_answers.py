"""Answers are read as a person would read them: negations, lists, prose and bare labels."""

import pytest

from sdk.faba import answers
from sdk.faba.answers import MAX_CHARACTERS, read_action_units, read_emotion


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The person looks happy.", "happiness"),
        ("The person is not happy. The brows are drawn together, which suggests anger.", "anger"),
        ("She isn't smiling; she seems sad.", "sadness"),
        ("No sign of fear, but there is surprise.", "surprise"),
        ("A calm, relaxed face that conveys a neutral expression.", "neutral"),
        ("He is afraid.", "fear"),
        ("A bright look and a friendly smile.", "happiness"),
        ("There is nothing to be seen here", None),
        ("", None),
    ],
)
def test_emotion(text, label):
    reading = read_emotion(text)
    assert reading.label == label
    assert reading.description == text


def units(text):
    return {unit.code: unit.present for unit in read_action_units(text)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AU1, AU4", {1: True, 4: True}),
        ("4, 9, 15", {4: True, 9: True, 15: True}),
        ("AUs 4, 9 and 15 are visible, but AU12 is not present.", {4: True, 9: True, 12: False, 15: True}),
        ("There is no AU6 visible.", {6: False}),
        ("AU 25 isn't visible. Action Unit 26 is.", {25: False, 26: True}),
        ("AU12 is present, without AU6.", {12: True, 6: False}),
        ("Neither AU1 nor AU2 can be seen.", {1: False, 2: False}),
        ("AU6 is not present. Yet AU6 may be active.", {6: True}),
        ("AU6 (Cheek Raiser): absent", {6: False}),
        ("AU6: The cheeks are raised, but not strongly.", {6: True}),
        ("AU08 and AU99 and AU4.5", {8: True, 4: True}),
        ("no units", {}),
        ("", {}),
    ],
)
def test_presence(text, expected):
    assert units(text) == expected


def test_reasons_are_the_sentences_about_a_unit():
    text = (
        "The face shows:\n\n"
        "1. AU4 (Brow Lowerer): The brows are drawn together. This hints at focus.\n"
        "2. **AU7 - Lid Tightener**\nThe lids are tight.\n\n"
        "Interpretation can be subjective."
    )
    four, seven = read_action_units(text)
    assert (four.id, four.name) == ("AU4", "Brow Lowerer")
    assert four.reason == "The brows are drawn together. This hints at focus."
    assert seven.reason == "AU7 - Lid Tightener The lids are tight."
    assert four.intensity is None


class Counting:
    """A compiled pattern that counts the characters it was given to search."""

    def __init__(self, pattern):
        self.pattern, self.characters = pattern, 0

    def search(self, text, start=0, end=None):
        self.characters += (len(text) if end is None else end) - start
        return self.pattern.search(text, start, len(text) if end is None else end)

    def finditer(self, text, start=0, end=None):
        self.characters += (len(text) if end is None else end) - start
        return self.pattern.finditer(text, start, len(text) if end is None else end)


@pytest.mark.parametrize("unit", ["AU4 ", "1, ", "not AU4, ", "AU4 is not ", "action unit 4 and ", "AU4. ", "AU4\n"])
def test_time_is_linear_in_the_length_of_an_answer(monkeypatch, unit):
    """A looping model repeats a mention: each one searched the whole sentence, 7 s for 100 KB."""
    patterns = [Counting(getattr(answers, name)) for name in ("_MENTION", "_CLAUSE_END", "_NEGATION", "_DENIAL")]
    for name, pattern in zip(("_MENTION", "_CLAUSE_END", "_NEGATION", "_DENIAL"), patterns, strict=True):
        monkeypatch.setattr(answers, name, pattern)
    text = "AUs " + 2000 * unit
    assert read_action_units(text)
    searched = sum(pattern.characters for pattern in patterns)
    assert searched < 5 * len(text), f"{searched} characters were searched in a text of {len(text)}"


def test_the_rest_of_an_endless_answer_is_not_read():
    text = "AU4 is present. " + "x" * MAX_CHARACTERS + " AU12 is present. She is happy."
    assert units(text) == {4: True}
    assert read_emotion(text).label is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Not AU1, 2 and 4; AU6.", {1: False, 2: False, 4: False, 6: True}),
        ("no smile.AU12 is present", {12: True}),  # a full stop without a blank ends the clause
        ("AU1 is not visible; AU2 is", {1: False, 2: True}),
        ("AU6 is seen but no AU6, AU6 never", {6: True}),
        ("AU99 is not here and AU1", {1: False}),
    ],
)
def test_each_mention_has_its_own_negation(text, expected):
    assert units(text) == expected
