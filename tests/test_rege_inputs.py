"""Annotations and predictions that no one can score are refused in one line; every other text is scored."""

import json
import random

import pytest

from sdk.cli import main
from sdk.commands.rege import read_predictions
from sdk.errors import ScoreError
from sdk.faba import rege, rouge

LONG = "9" * 4400  # more digits than Python turns into a number
GOOD = {"label": 0, "gpt4": "A smile."}


def run(tmp_path, capsys, annotations: str, predictions: str, task: str = "emotion", name: str = "pred.json"):
    """Exit code and stderr of `emola rege` for two files."""
    (tmp_path / "anno.json").write_text(annotations, encoding="utf-8", errors="surrogatepass")
    (tmp_path / name).write_text(predictions, encoding="utf-8", errors="surrogatepass")
    files = ["--annotations", str(tmp_path / "anno.json"), "--predictions", str(tmp_path / name)]
    code = main(["rege", "--task", task, *files])
    return code, capsys.readouterr().err


NO_JSON = {"Infinity", "-Infinity", "NaN", "9" * 400}  # as `sdk.untrusted_json` reads it
LABELS = [*sorted(NO_JSON), "2.5", "true", "null", "[0]", '{"a": 0}', f'"{LONG}"', '"1e0"']


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("task", ["emotion", "au"])
def test_a_label_of_another_kind_is_one_line(tmp_path, capsys, label, task):
    """int(Infinity) is an OverflowError, 2.5 was read as 2 and true as 1."""
    code, error = run(tmp_path, capsys, f'[{{"label": {label}, "gpt4": "A smile."}}]', '["Happy."]', task)
    assert code == 1
    assert error.count("\n") == 1
    assert ("is not JSON" if label in NO_JSON else "annotation 0: label must be") in error
    assert len(error) < 300


@pytest.mark.parametrize(
    "row", ["7", '"text"', "null", "[1]", "[[[[1]]]]", '{"label": 0}', '{"label": 0, "gpt4": {"a": [1]}}']
)
def test_an_annotation_of_another_kind_is_one_line(tmp_path, capsys, row):
    code, error = run(tmp_path, capsys, f"[{row}]", '["Happy."]')
    assert (code, error.count("\n")) == (1, 1)
    assert "unexpected" not in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"prediction": [["nested"]]}]', "expected a JSON list of texts"),
        ('{"0": {"text": "Happy."}}', "expected a JSON list of texts"),
        ('{"0": "a", "00": "b"}', "two predictions for index 0"),
        ('[{"index": Infinity, "prediction": "a"}]', "Infinity is not a number of JSON"),
        ('[{"index": 0.5, "prediction": "a"}]', "expected indices from 0, found 0.5"),
        ('[{"index": true, "prediction": "a"}]', "expected indices from 0, found True"),
        (f'{{"{LONG}": "a"}}', "expected indices from 0, found '999"),
        ('[{"index": 0, "prediction": "a"}, {"prediction": "b"}]', "expected indices from 0, found None"),
        ('[{"index": 1, "prediction": "a"}]', "no prediction for index 0"),
        ('[{"text": "a"}]', "object 0 has no 'prediction'"),
        ('[{"prediction": "a"}, "b"]', "expected a JSON list of texts"),
    ],
)
def test_predictions_of_another_kind_are_refused(tmp_path, content, message):
    """An index given twice replaced the first answer; a fraction was cut to a whole number."""
    (tmp_path / "pred.json").write_text(content)
    with pytest.raises(ScoreError, match=message):
        read_predictions(tmp_path / "pred.json")


def test_numbers_that_are_no_action_units():
    text = f"AU{LONG} and AU12 and action unit {LONG}"
    assert rege.official_action_units(text) == rege.paper_action_units(text) == {12}
    assert rege.paper_action_units("AU 000000012") == {12}
    with pytest.raises(ScoreError, match="label must be a text such as"):
        rege.annotated_action_units(f"4, AU{LONG}")


def test_a_long_text_is_scored_and_an_endless_one_refused():
    """The table of the longest common subsequence held one number per pair of words: 36 GB for these two."""
    assert rege.rouge_l("a " * 30_000, "a b " * 20_000) == pytest.approx(2 / 3, abs=1e-6)
    with pytest.raises(ScoreError, match="prediction 0 has 100001 characters"):
        rege.score(["x" * 100_001], [GOOD], task="emotion")
    sentences = ". ".join(map(str, range(400)))
    with pytest.raises(ScoreError, match="prediction of 400 different sentences"):
        rege.rouge_l(sentences, sentences)


def test_the_common_subsequence_is_that_of_the_table():
    """Against the table of the rouge package, kept here, on random words."""

    def by_table(a, b):
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, word in enumerate(a, 1):
            for j, other in enumerate(b, 1):
                same = table[i - 1][j - 1] + 1
                table[i][j] = same if word == other else max(table[i - 1][j], table[i][j - 1])
        common, i, j = set(), len(a), len(b)
        while i and j:
            if a[i - 1] == b[j - 1]:
                common.add(a[i - 1])
                i, j = i - 1, j - 1
            elif table[i - 1][j] > table[i][j - 1]:
                i -= 1
            else:
                j -= 1
        return common

    draw = random.Random(3)
    for _ in range(300):
        words = "abcdefgh"[: draw.randint(1, 8)]
        a, b = ([draw.choice(words) for _ in range(draw.randint(0, 20))] for _ in "ab")
        assert rouge._common_subsequence(a, b) == by_table(a, b), (a, b)


def test_a_file_that_scores(tmp_path, capsys):
    code, error = run(tmp_path, capsys, json.dumps([GOOD, {"label": " 1 ", "gpt4": "Tears."}]), '["Happy.", "Sad."]')
    assert (code, error) == (0, "")
