"""Every problem of a file is reported once; good records are not reported."""

import json

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

from sdk.errors import DataError

pytest.importorskip("torch")

from trainer.corpus.checks import Problem, check_files, check_rows
from trainer.corpus.records import parse_record
from trainer.tokenization import load_tokenizer

CASE = SHARED / "cases/data/answer_with_image_mark.json"


@pytest.fixture
def root(tmp_path):
    """A folder with good and bad pictures and landmark files."""
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    np.save(tmp_path / "good.npy", np.zeros(212, np.float32))
    np.save(tmp_path / "short.npy", np.zeros(211, np.float32))
    np.save(tmp_path / "nan.npy", np.full(212, np.nan, np.float32))
    return tmp_path


def training(question="What?\n<image>", answer="A face.", **changes):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"image": "good.png", "landmark": "good.npy", "conversations": turns, **changes}


def evaluation(label, **changes):
    return {"image": "good.png", "landmark": "good.npy", "gpt4": "A face.", "label": label, **changes}


def problems(rows, root, **options):
    found = list(check_rows(rows, root / "set.json", root, **options))
    return [(problem.record, problem.message) for problem in found]


BROKEN = [
    ("a text", "expected an object, found str"),
    ({"conversations": []}, "image and landmark missing or not a text"),
    (training(image="none.png"), "none.png does not exist"),
    (training(image="text.png"), "not an image that Pillow can read"),
    (training(image="empty.png"), "0 bytes"),
    (training(image="cut.png"), "damaged or truncated"),
    (training(landmark="none.npy"), "none.npy cannot be read"),
    (training(landmark="short.npy"), "expected 212 finite numbers, found float32 of shape (211,)"),
    (training(landmark="nan.npy"), "expected 212 finite numbers"),
    (training(answer="  "), "the answer is empty"),
    (training(question="What?"), "must contain <image> once"),
    (training(answer="The <image> shows joy."), "the answer contains <image>"),
    (training(answer="A face.</s> Another."), "contains </s>, which ends an answer"),
    (training(question="What?</s>\n<image>"), "contains </s>, which ends an answer"),
    (training(answer="A face \ud83d."), "the answer is empty or not a text"),
    (training(image="none\0.png"), "none"),
    (training(conversations=[]), "one turn from 'human' and one from 'gpt'"),
]


def test_every_broken_record_is_reported(root):
    rows = [training(), *(row for row, _ in BROKEN), training()]
    found = problems(rows, root)
    assert [record for record, _ in found] == [f"set.json[{index}]" for index in range(1, len(BROKEN) + 1)]
    for (_, message), (_, expected) in zip(found, BROKEN, strict=True):
        assert expected in message
        assert "set.json[" not in message


def test_all_problems_of_one_record(root):
    row = training(question="What?", image="none.png", landmark="short.npy")
    assert len(problems([row], root)) == 3


def test_a_problem_prints_as_one_line():
    assert str(Problem("set.json[3]", "the answer is empty")) == "set.json[3]: the answer is empty"


def test_ids_are_unique(root):
    rows = [training(id="a"), training(id=7), training(id="a"), training(id="7"), training()]
    assert problems(rows, root) == [
        ("set.json[2]", "its id 'a' is also that of set.json[0]"),
        ("set.json[3]", "its id '7' is also that of set.json[1]"),
    ]


def test_answers_longer_than_the_context(root, golden):
    """A conversation that fits exactly is accepted; one token more is a problem."""
    tokenizer = load_tokenizer(golden / "llava-base")
    rows = [training(answer="smile " * 50)]
    (message,) = [text for _, text in problems(rows, root, tokenizer=tokenizer, max_tokens=10)]
    length = int(message.split()[4])
    assert problems(rows, root, tokenizer=tokenizer, max_tokens=length) == []
    assert len(problems(rows, root, tokenizer=tokenizer, max_tokens=length - 1)) == 1


@pytest.mark.parametrize(
    ("task", "good", "bad"),
    [
        ("emotion", ["Happiness", 0, "6"], ["Joy", 7, None, ["Happiness"]]),
        ("action_units", ["4, 9", "AU1, AU4", "", "none"], ["brow", 4, None, "4, 99"]),
    ],
)
def test_labels_of_evaluation_records(root, task, good, bad):
    assert problems([evaluation(label) for label in good], root, task=task) == []
    assert len(problems([evaluation(label) for label in bad], root, task=task)) == len(bad)


def test_evaluation_records(root):
    found = problems([evaluation("Fear", gpt4=" "), evaluation("Fear", image="none.png")], root, task="emotion")
    assert "is empty" in found[0][1]
    assert "does not exist" in found[1][1]
    with pytest.raises(DataError, match="say which task"):
        problems([evaluation("Fear")], root)


def test_headers_only(root):
    """Without decoding, a picture truncated after its header passes; one truncated before does not."""
    rows = [training(image="cut.png"), training(image="text.png")]
    assert [record for record, _ in problems(rows, root, decode=False)] == ["set.json[1]"]


def test_files_before_a_run(root):
    """The quick check of records that could be read: it names those whose files are missing or of another kind."""
    rows = [row for row, _ in BROKEN[2:9]]
    records = [
        parse_record(training(), "good", root),
        *(parse_record(row, f"r{i}", root) for i, row in enumerate(rows)),
    ]
    found = check_files(records)
    assert [problem.record for problem in found] == ["r0", "r1", "r2", "r4", "r5", "r6"]  # r3 has a whole header
    assert "none.png does not exist" in str(found[0])
    assert "not an image" in str(found[1])


def test_the_golden_set_is_whole(golden):
    from trainer.corpus.records import read_rows

    path = golden / "data/FABAInstruct/train/train_anno.json"
    assert list(check_rows(read_rows(path), path, golden / "data")) == []


@pytest.mark.skipif(not CASE.exists(), reason="the case files are not here")
def test_the_image_mark_inside_an_answer_is_named(root):
    """The case file: the answer's mark is a second picture token, which stops the training at that record."""
    rows = [
        {**row, "image": "good.png", "landmark": "good.npy"} for row in json.loads(CASE.read_text(encoding="utf-8"))
    ]
    assert [record for record, message in problems(rows, root) if "contains <image>" in message] == ["set.json[0]"]
