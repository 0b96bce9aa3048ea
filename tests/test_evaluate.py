"""`emola evaluate`: torch, bundles and endpoints; resumed runs, comparisons and refusals."""

import base64
import json
from pathlib import Path

import pytest
from chat_server import chat_server, completion, image_of
from conftest import GOLDEN

pytest.importorskip("torch")

from sdk.cli import main
from sdk.errors import DataError
from trainer.commands.evaluate import lines_of
from trainer.corpus.records import Record
from trainer.evaluation.evaluate import EvaluationSet, answer, evaluate, read_answers

ADAPTER = GOLDEN / "llava-lora-emola-trained"
BASE = ("--base", str(GOLDEN / "llava-base"), "--vision-tower", str(GOLDEN / "clip"))
ANSWERS = ("The face looks happy.", "The face looks sad.", "An angry face.", "A surprised face.", "The face is calm.")


@pytest.fixture
def data(tmp_path) -> Path:
    """Five labelled faces of the goldens."""
    rows = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text())[:5]
    labels = (0, 1, 3, 2, 4)
    content = [
        {"image": row["image"], "landmark": row["landmark"], "label": label, "gpt4": text}
        for row, label, text in zip(rows, labels, ANSWERS, strict=True)
    ]
    path = tmp_path / "eval_emotion_anno.json"
    path.write_text(json.dumps(content))
    return path


def command(data: Path, output: Path, *options: str) -> list[str]:
    files = ("--data", str(data), "--root", str(GOLDEN / "data"), "--output", str(output))
    return ["evaluate", *options, *files, "--task", "emotion", "--max-new-tokens", "6"]


@pytest.mark.parametrize("options", [(), ("--visual-tokens", "8")], ids=["all rows", "eight rows"])
def test_torch_and_its_bundle_are_scored_alike(data, tmp_path, bundle, capsys, options):
    """The float32 bundle gives the torch model's five answers, so `--against` finds a difference of 0."""
    assert main(command(data, tmp_path / "torch", str(ADAPTER), *BASE, *options)) == 0
    against = ("--against", str(tmp_path / "torch"), "--json", *options)
    assert main(command(data, tmp_path / "bundle", str(bundle("trained")), *against)) == 0
    assert all(
        ("8 visual" in (tmp_path / run / "run.json").read_text()) == bool(options) for run in ("torch", "bundle")
    )
    torch_answers, bundle_answers = (
        read_answers(tmp_path / name / "predictions.jsonl") for name in ("torch", "bundle")
    )
    assert len(torch_answers) == 5
    assert {n: _legible(text) for n, text in torch_answers.items()} == {
        n: _legible(text) for n, text in bundle_answers.items()
    }
    found = json.loads(capsys.readouterr().out.split("\n{", 1)[1].join(("{", "")))
    assert found["against"]["s_rege"]["difference"] == 0


def _legible(text: str) -> str:
    """A text without invalid bytes, which random weights generate and tokenizers show in different ways."""
    return "".join(letter for letter in text if letter.isprintable() and letter != "\ufffd")


def test_an_endpoint_is_scored_by_the_same_command(data, tmp_path, capsys):
    """A served model that always answers happy is right about one face of five: accuracy 20 %."""
    with chat_server(lambda request: (200, {}, completion(ANSWERS[0]))) as (url, requests):
        options = ("--endpoint", url, "--model", "seer", "--batch-size", "2", "--json")
        assert main(command(data, tmp_path / "run", *options)) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(requests) == 5
    assert found["official"]["s_re"] == 20
    low, high = found["intervals"]["s_re"]
    assert low < 20 < high


def test_a_refused_record_counts_as_an_empty_answer(data, tmp_path, capsys):
    """If a served model refuses the third face, the run finishes, reports the reason and asks no question twice."""
    third = json.loads(data.read_text())[2]["image"]
    picture = base64.b64encode((GOLDEN / "data" / third).read_bytes()).decode()

    def reply(request):
        refused = picture in image_of(request)
        return (400, {}, b"content filter") if refused else (200, {}, completion(ANSWERS[0]))

    with chat_server(reply) as (url, requests):
        options = ("--endpoint", url, "--model", "seer", "--batch-size", "1")
        for _ in range(2):
            assert main(command(data, tmp_path / "run", *options)) == 0
            assert "1 records were refused and count as empty answers; the first: " in capsys.readouterr().out
    assert len(requests) == 5
    assert read_answers(tmp_path / "run/predictions.jsonl")[2] == ""
    assert "content filter" in json.loads((tmp_path / "run/scores.json").read_text())["refused"]["2"]


def test_a_model_that_refuses_everything_is_no_score(data, tmp_path, capsys):
    """The run stops without recording anything that a run with the right options would read as answers."""
    with chat_server(lambda request: (400, {}, b"unknown option")) as (url, _):
        options = ("--endpoint", url, "--model", "seer", "--batch-size", "2")
        assert main(command(data, tmp_path / "run", *options)) == 1
    assert "5 records in a row were refused" in capsys.readouterr().err
    assert not read_answers(tmp_path / "run/predictions.jsonl")


class Scripted:
    """Gives scripted answers and records the batches; raises an error after a number of them."""

    name, batch_size = "scripted", 2

    def __init__(self, stop_after: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self._stop_after = stop_after

    def answer(self, records):
        if len(self.batches) == self._stop_after:
            raise KeyboardInterrupt
        self.batches.append([record.id for record in records])
        return [f"{ANSWERS[int(record.id) % 5]} ({len(records)} at once)" for record in records]


def records(count: int = 7) -> EvaluationSet:
    faces = [
        Record(str(n), Path(), f"{n}.png", f"{n}.npy", "?", ANSWERS[n % 5], (0, 1, 3, 2, 4)[n % 5])
        for n in range(count)
    ]
    return EvaluationSet(faces, "emotion")


@pytest.mark.parametrize("cut", [0, 12], ids=["between batches", "within a line"])
def test_a_resumed_run_is_an_uninterrupted_one(tmp_path, cut):
    """A run stopped after two of four batches, with or without an incomplete last line, gives the same answers."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    expected = answer(Scripted(), records(), straight, lambda done, total: None)
    with pytest.raises(KeyboardInterrupt):
        answer(Scripted(stop_after=2), records(), resumed, lambda done, total: None)
    path = resumed / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[: -cut or None])
    again = Scripted()
    assert answer(again, records(), resumed, lambda done, total: None) == expected
    assert again.batches[-2:] == [["4", "5"], ["6"]]
    assert len(again.batches) == (3 if cut else 2)
    assert evaluate(expected, records(), straight) == evaluate(expected, records(), resumed)
    assert (straight / "scores.json").read_bytes() == (resumed / "scores.json").read_bytes()


def test_a_folder_of_another_model_or_set_is_refused(tmp_path):
    answer(Scripted(), records(), tmp_path, lambda done, total: None)
    other = Scripted()
    other.name = "another"
    with pytest.raises(DataError, match=r"holds another evaluation: model \(found 'scripted', expected 'another'\)"):
        answer(other, records(), tmp_path, lambda done, total: None)
    with pytest.raises(DataError, match=r"holds another evaluation: data \(found '[0-9a-f]{55,64}"):
        answer(Scripted(), records(6), tmp_path, lambda done, total: None)


def test_nouns_of_raf_db_have_an_accuracy_and_an_interval(tmp_path):
    """Table 3: "happiness." is Happiness; three of four are right, between 25 and 100 % with four samples."""
    found = evaluate(["happiness.", "Anger", "Sadness", "Neutral"], nouns(), tmp_path)
    assert found["accuracy"] == found["literal_accuracy"] == 75
    low, high = found["intervals"]["accuracy"]
    assert 0 <= low < 75 < high <= 100


def test_words_and_sentences_about_raf_db_are_read(tmp_path):
    """The paper's "Happy" and a sentence with a negation are right, noise is not; one of four is the noun itself."""
    answers = ["Happy", "The face is not sad but angry.", "Fear", "Blue."]
    found = evaluate(answers, nouns(), tmp_path)
    assert (found["accuracy"], found["literal_accuracy"], found["unread"]) == (75, 25, 1)
    assert [line.split(" (95 %")[0] for line in lines_of(found)] == [
        "RAF-DB: accuracy 75.00 % ",
        "  1 of 4 answers name no emotion",
        "  25.00 % of the answers are the noun of the label and nothing else",
    ]


def nouns() -> EvaluationSet:
    faces = [Record(noun, Path(), noun, noun, "?", noun, noun) for noun in ("Happiness", "Anger", "Fear", "Neutral")]
    return EvaluationSet(faces, "emotion", "RAF-DB")


def test_every_protocol_is_shown(data, tmp_path, capsys):
    """Of `ANSWERS`, the official code does not know "sad" and "angry", which the SDK reads; "calm" is neutral."""
    answers = iter(ANSWERS)
    with chat_server(lambda request: (200, {}, completion(next(answers)))) as (url, _):
        options = ("--endpoint", url, "--model", "seer", "--batch-size", "1")
        assert main(command(data, tmp_path / "run", *options)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["FABA", "emotion,", "5", "samples", "official", "paper", "runtime"]
    assert [cell for cell in shown[1].split() if "." in cell and cell != ".."][::3] == ["60.00", "60.00", "100.00"]
    assert shown[4].split() == ["answers", "not", "read", "2", "2", "0"]
    assert shown[-3].startswith("official: the authors' evaluation code")


def test_the_mean_of_three_folds(tmp_path, capsys):
    """Table 4: the F1 of each unit is averaged over folds, then over units."""
    for fold, values in enumerate(((10.0, 40.0), (20.0, 50.0), (30.0, 60.0))):
        (tmp_path / str(fold)).mkdir()
        scores = {"official": {"dataset": "DISFA", "per_au": dict(zip(("1", "2"), values, strict=True))}}
        (tmp_path / str(fold) / "scores.json").write_text(json.dumps(scores))
    assert main(["evaluate", "--average", *(str(tmp_path / str(fold)) for fold in range(3))]) == 0
    assert capsys.readouterr().out == "DISFA, mean of 3 folds: AU1 20.0  AU2 50.0  Avg. 35.0\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "missing: the model"),
        ((str(ADAPTER),), "say which model it belongs to (--base)"),
        (("--endpoint", "http://localhost:1/v1"), "--endpoint needs --model"),
        ((str(ADAPTER), "--endpoint", "http://localhost:1/v1"), "expected a model or --endpoint, found both"),
        ((str(ADAPTER), *BASE, "--question", "Who is <image>?"), "expected a question without <image>"),
        ((str(ADAPTER), *BASE, "--question", " "), "expected a question without <image>"),
        ((str(ADAPTER), *BASE, "--against", "nowhere"), "nowhere holds no run on this set"),
        ((str(ADAPTER), *BASE, "--dataset", "DISFA"), "DISFA has no records of the task emotion; expected one of FABA"),
    ],
)
def test_wrong_usage_is_one_line(data, tmp_path, capsys, options, message):
    assert main(command(data, tmp_path / "run", *options)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--batch-size", "--limit", "--max-new-tokens", "--visual-tokens"])
def test_a_number_below_one_is_wrong_usage(data, tmp_path, capsys, option):
    """A batch of -1 never ended."""
    assert main([*command(data, tmp_path / "run", str(ADAPTER), *BASE), option, "-1"]) == 2
    assert f"{option} must be at least 1, not -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "weird"}, "annotation 3: label must be 0..6"),
        ({"label": None}, "eval_emotion_anno.json[3] has no label; expected evaluation records"),
        ({"image": "none.png"}, "1 of 5 pictures cannot be read, first eval_emotion_anno.json[3]"),
    ],
)
def test_a_record_that_cannot_be_scored_is_found_before_any_is_answered(data, tmp_path, capsys, change, message):
    rows = json.loads(data.read_text())
    rows[3] |= change
    data.write_text(json.dumps(rows))
    assert main(command(data, tmp_path / "run", str(ADAPTER), *BASE)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_root_that_is_not_there_is_named(data, tmp_path, capsys):
    assert main([*command(data, tmp_path / "run", str(ADAPTER), *BASE), "--root", "nowhere"]) == 1
    assert "nowhere is not a folder; expected the one that the paths in eval_emotion" in capsys.readouterr().err
