"""Answers are read as a person would read them: negations, lists, prose and bare labels."""

import pytest

from sdk.faba.answers import read_action_units, read_emotion


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
