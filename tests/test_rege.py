"""REGE equals the authors' evaluation code, case by case and to the digit printed."""

import random

import pytest
from conftest import golden_json

from sdk.errors import ScoreError
from sdk.faba import rege
from sdk.faba.vocabulary import DATASETS

GOLDEN = golden_json("golden_rege.json")
ANNOTATIONS = [{"label": "Happiness", "gpt4": "A smile."}, {"label": 1, "gpt4": "Tears."}]


def test_official_emotion_cases():
    for case in GOLDEN["emotion_cases"]:
        assert rege.official_emotion(case["prediction"]) == case["official_emotion_index"], case["prediction"]
        assert rege.rouge_l(case["prediction"], case["reference"]) == case["rouge_l_f"], case["prediction"]


def test_official_action_unit_cases():
    for case in GOLDEN["au_cases"]:
        found = rege.official_action_units(case["prediction"])
        for name in ("FABA", "DISFA", "BP4D", "GFT"):
            vector = [int(code in found) for code in DATASETS[name].labelled]
            assert vector == case[f"labels_{name}"], case["prediction"]
        assert rege.rouge_l(case["prediction"], case["reference"]) == case["rouge_l_f"], case["prediction"]


@pytest.mark.parametrize("run", GOLDEN["runs"], ids=lambda run: f"{run['task']}-{run['dataset']}")
def test_official_runs_to_the_digit(run):
    found = rege.score(run["predictions"], run["annotations"], task=run["task"], dataset=run["dataset"])
    assert found.official_text() == run["official_output"]
    assert found.s_rege == found.s_re + found.s_ge


def test_rouge_equals_the_package():
    """2,000 random texts with blank sentences, repeated words and line breaks, against rouge 1.0.1 itself."""
    package = pytest.importorskip("rouge").Rouge(metrics=["rouge-l"])
    draw = random.Random(0)
    pieces = ["a ", "b ", "c ", "d ", "A ", ". ", ".", "\n", " "]
    for _ in range(2000):
        guess, truth = ("".join(draw.choices(pieces, k=draw.randrange(1, 25))) for _ in range(2))
        try:
            expected = package.get_scores(guess, truth)[0]["rouge-l"]["f"]
        except ValueError:
            expected = None
        assert rege.rouge_l(guess, truth) == expected, (guess, truth)


def test_what_the_official_code_dies_of_is_a_value():
    found = rege.score(["happy without a full stop", "Sad tears."], ANNOTATIONS, task="emotion")
    assert [failure.index for failure in found.failures] == [0]
    assert found.s_re == 0  # "sad" is no official synonym


def test_an_empty_answer_has_no_rouge():
    """The official mean leaves it out, the paper's counts it as 0."""
    predictions = ["", "Tears."]
    official = rege.score(predictions, ANNOTATIONS, task="emotion")
    paper = rege.score(predictions, ANNOTATIONS, task="emotion", protocol="paper")
    assert official.s_ge == pytest.approx(2 * paper.s_ge)
    assert {failure.index for failure in official.failures} == {0}


def test_paper_protocol_reads_whole_words_and_spaced_units():
    assert rege.official_emotion("Her nose wrinkles. She is happy.") == 0  # "nose" holds "no": both sentences fall
    assert rege.paper_emotion("Her nose wrinkles in disgust. She is not happy.") == 5
    assert rege.official_action_units("AU 4 and Action Unit 9 and AU12") == {12}
    assert rege.paper_action_units("AU 4 and Action Unit 9 and AU12") == {4, 9, 12}


def test_the_protocols_read_the_same_answers_differently():
    """A perfect model that says "sad" and "AU 4": official and paper do not know these forms, the runtime does."""
    annotations = [{"label": "Sadness", "gpt4": "A sad face."}, {"label": "Anger", "gpt4": "An angry face."}]
    answers = ["A sad face.", "An angry face."]
    found = {name: rege.score(answers, annotations, task="emotion", protocol=name) for name in rege.PROTOCOLS}
    assert {name: (score.s_re, score.unread) for name, score in found.items()} == {
        "official": (0, 2),
        "paper": (0, 2),
        "runtime": (100, 0),
    }
    units = [{"label": "4", "gpt4": "AU 4."}, {"label": "none", "gpt4": "No AU."}]
    answers = ["AU 4 is active.", "There is no AU 12."]
    found = {name: rege.score(answers, units, task="au", protocol=name) for name in ("paper", "runtime")}
    assert [(score.per_au[4], score.unread) for score in found.values()] == [(100, 0), (100, 0)]
    assert rege.score(["AU 4.", "AU4."], units, task="au").unread == 1


def test_units_with_one_outcome_leave_the_official_mean_only():
    annotations = [{"label": "4", "gpt4": "AU4."}, {"label": "4, 12", "gpt4": "AU4, AU12."}]
    predictions = ["AU4.", "AU4, AU12."]
    official = rege.score(predictions, annotations, task="au", dataset="DISFA")
    paper = rege.score(predictions, annotations, task="au", dataset="DISFA", protocol="paper")
    assert official.s_re == 100
    assert official.per_au[4] is None  # present everywhere
    assert official.per_au[1] is None  # present nowhere
    assert paper.s_re == pytest.approx(200 / 8)


@pytest.mark.parametrize(("label", "expected"), [(3, 3), ("3", 3), ("Fear", 6)])
def test_emotion_labels(label, expected):
    assert rege.emotion_index(label) == expected


@pytest.mark.parametrize(("label", "expected"), [("4, 9", {4, 9}), ("AU4, AU9", {4, 9}), ("", set()), ("none", set())])
def test_action_unit_labels(label, expected):
    assert rege.annotated_action_units(label) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(predictions=["a"]), "found 1 predictions and 2 annotations"),
        (dict(task="smile"), "task must be"),
        (dict(dataset="FER2013"), "dataset must be"),
        (dict(protocol="mine"), "protocol must be"),
        (dict(annotations=[{"label": 0}, {"label": 0}]), "annotation 0 has no 'gpt4'"),
        (dict(annotations=[{"label": 9, "gpt4": ""}] * 2), "label must be 0..6"),
        (dict(task="au", annotations=[{"label": "x", "gpt4": ""}] * 2), "label must be a text"),
        (dict(predictions=[None, "b"]), "prediction 0 must be a text"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message):
    arguments = {"predictions": ["a.", "b."], "annotations": ANNOTATIONS, "task": "emotion", **arguments}
    with pytest.raises(ScoreError, match=message):
        rege.score(**arguments)
