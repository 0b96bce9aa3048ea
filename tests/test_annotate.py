"""Sets built from photographs by a model behind a real HTTP server: questions, kept answers, cost."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import cycle

import numpy as np
import pytest
from chat_server import chat_server, completion, image_of, question_of
from PIL import Image

from sdk.errors import DataError
from sdk.faba.prompts import TASKS

pytest.importorskip("httpx")
pytest.importorskip("dlib")

from trainer.corpus.annotate import Prices, annotate
from trainer.corpus.answer_filter import label_of, unusable
from trainer.corpus.endpoint import ChatEndpoint, EndpointError
from trainer.corpus.records import read_records
from trainer.corpus.sampling import draw
from trainer.corpus.templates import QUESTION_TEMPLATES

HAPPY = "The person in this picture looks happy, with a broad smile."
UNITS = "AU6 and AU12 are active: the cheeks are raised and the lip corners pulled."


def describe(request):
    """A model that answers every question."""
    emotion = question_of(request) in QUESTION_TEMPLATES["emotion"]
    return 200, {}, completion(HAPPY if emotion else UNITS)


@pytest.fixture
def photographs(astronaut, tmp_path):
    """Three photographs of a face in two folders, one without a face, one that is broken, and a text file."""
    folder = tmp_path / "photographs"
    for index, name in enumerate(("a.png", "more/b.jpg", "more/c.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(astronaut[20 + index : 230, 110 + index : 320]).save(folder / name)
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(folder / "dark.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def run(photographs, out, answer=describe, **options):
    """Annotate against a server; returns the content of `about.json` and the requests."""
    with chat_server(answer) as (url, requests):
        endpoint = ChatEndpoint(url, "seer", retries=1, pause=0.01)
        return annotate(photographs, out, endpoint, **options), requests


def left_out(folder):
    with (folder / "left_out.csv").open(newline="") as file:
        return {(row["name"], row["task"]): row["reason"] for row in csv.DictReader(file)}


def test_a_training_set(photographs, tmp_path):
    """There is one question per face and task, and the records have the layout of FABA-Instruct."""
    about, requests = run(photographs, tmp_path / "out", prices=Prices(2.5, 10.0))
    assert about["usable"] == {"action_units": 3, "emotion": 3}
    assert (about["prompt_tokens"], about["completion_tokens"]) == (1800, 120)
    assert about["cost_dollars"] == pytest.approx((1800 * 2.5 + 120 * 10) / 1e6)
    assert json.loads((tmp_path / "out/train/about.json").read_text()) == about
    assert len({image_of(request) for request in requests}) == 3
    for task, name, answer in (("emotion", "emotion", HAPPY), ("action_units", "au", UNITS)):
        records = read_records(tmp_path / f"out/train/train_{name}_anno.json")
        assert [record.id for record in records] == ["a", "more_b", "more_c"]
        assert {record.answer for record in records} == {answer}
        assert all(record.question in QUESTION_TEMPLATES[task] for record in records)
        assert records[0].landmark == "train/landmarks/a.npy"
        assert not (tmp_path / "out/train/review.csv").exists()
        with Image.open(records[0].image_path) as picture:
            assert picture.width == picture.height


def test_photographs_that_give_no_face_are_listed(photographs, tmp_path):
    about, _ = run(photographs, tmp_path / "out")
    reasons = left_out(tmp_path / "out/train")
    assert reasons["dark", ""] == "no face was found"
    assert "broken.jpg" in reasons["broken", ""]
    assert sum(about["left_out"].values()) == 2


def test_questions_are_drawn_by_seed_and_name(photographs, tmp_path):
    """The same questions for any order of the answers; other questions with another seed."""

    def questions(name, seed, concurrency):
        _, requests = run(photographs, tmp_path / name, seed=seed, concurrency=concurrency)
        return Counter((image_of(request), question_of(request)) for request in requests)

    first = questions("first", 1, 1)
    assert len({question for _, question in first}) > 2
    assert questions("second", 1, 4) == first
    assert questions("third", 2, 4) != first


def test_an_evaluation_set_has_labels_and_a_review_sheet(photographs, tmp_path):
    about, _ = run(photographs, tmp_path, split="eval", tasks=("emotion", "action_units"))
    emotion = read_records(tmp_path / "eval/eval_emotion_anno.json", task="emotion")
    units = read_records(tmp_path / "eval/eval_au_anno.json", task="action_units")
    assert {record.label for record in emotion} == {"Happiness"}
    assert {record.label for record in units} == {"6, 12"}
    with (tmp_path / "eval/review.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == about["answers"] == 6
    assert {row["verdict"] for row in rows} == {""}
    assert {(row["answer"], row["label"]) for row in rows} == {(HAPPY, "Happiness"), (UNITS, "6, 12")}
    assert all((tmp_path / "eval" / row["image"]).is_file() for row in rows)
    page = (tmp_path / "eval/review.html").read_text()
    assert page.count("<img ") == 6
    assert page.count("<tr>") == 7


def test_a_sample_of_each_class(astronaut, tmp_path):
    """Two photographs of each folder, others with another seed; a class with one photograph gives one."""
    folder = tmp_path / "photographs"
    for place in (
        *(f"happy/{index}.png" for index in range(6)),
        *(f"sad/{index}.png" for index in range(6)),
        "fear/0.png",
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(astronaut[20:230, 110:320]).save(folder / place)

    def faces(name, seed):
        run(folder, tmp_path / name, tasks=("emotion",), seed=seed, sample=2)
        return sorted(path.stem for path in (tmp_path / name / "train/images").iterdir())

    first = faces("first", 1)
    assert Counter(name.split("_")[0] for name in first) == {"happy": 2, "sad": 2, "fear": 1}
    assert faces("again", 1) == first
    assert faces("other", 2) != first
    with pytest.raises(DataError, match=r"sample \(found 2, expected 3\)"):
        run(folder, tmp_path / "first", tasks=("emotion",), seed=1, sample=3)


def test_the_classes_of_affectnet_are_read(tmp_path):
    """The class is in `annotations/N_exp.npy` beside `images`, as AffectNet is distributed."""
    pictures = {str(index): tmp_path / f"train_set/images/{index}.jpg" for index in range(8)}
    (tmp_path / "train_set/annotations").mkdir(parents=True)
    for index in range(8):
        np.save(tmp_path / f"train_set/annotations/{index}_exp.npy", np.array(str(index % 2)))
    drawn = draw(pictures, 3, 0)
    assert Counter(int(name) % 2 for name in drawn) == {0: 3, 1: 3}
    assert drawn == draw(dict(reversed(pictures.items())), 3, 0)
    with pytest.raises(DataError, match="at least 1 photograph"):
        draw(pictures, 0, 0)


def test_the_questions_of_the_paper_are_asked():
    """Sec. 3.1: 100 templates, among them the two that the paper prints."""
    assert {task: len(set(questions)) for task, questions in QUESTION_TEMPLATES.items()} == dict.fromkeys(TASKS, 50)
    assert "What is the emotion in this face?" in QUESTION_TEMPLATES["emotion"]
    assert "What are the action units present in this face?" in QUESTION_TEMPLATES["action_units"]


def test_the_review_page_shows_text_as_text(photographs, tmp_path):
    answer = lambda request: (200, {}, completion(f"<b>{HAPPY}</b> & more"))  # noqa: E731
    run(photographs, tmp_path, answer, split="eval", tasks=("emotion",))
    assert "&lt;b&gt;The person" in (tmp_path / "eval/review.html").read_text()


@pytest.mark.parametrize(
    ("text", "task", "reason"),
    [
        ("I'm sorry, but I can't help with identifying emotions.", "emotion", "refused"),
        ("I cannot determine which AUs are active, perhaps AU4.", "action_units", "refused"),
        ("As an AI, I have no view of happy faces.", "emotion", "refused"),
        ("Happy and glad.", "emotion", "too short"),
        ("The <image> shows a happy face with a smile.", "emotion", "holds a mark of the prompt"),
        ("The face is happy and shows a smile.</s>", "emotion", "holds a mark of the prompt"),
        ("", "emotion", "too short"),
        ("The picture is too blurred to tell anything from it.", "emotion", "names no emotion"),
        ("The cheeks are raised and the lips are pulled.", "action_units", "names no action unit"),
        ("AU4 is not visible, and neither is AU12 on this face.", "action_units", "names no action unit"),
        (HAPPY, "emotion", None),
        (UNITS, "action_units", None),
        ("The smile suggests happiness. However, I can't be certain from one picture.", "emotion", None),
    ],
)
def test_which_answers_are_usable(text, task, reason):
    assert unusable(text, task) == reason


def test_labels_are_what_is_affirmed():
    assert label_of("This is not anger but sadness, shown by the mouth.", "emotion") == "Sadness"
    assert label_of("AU12 and AU6 are active, AU4 is not present.", "action_units") == "6, 12"


def test_unusable_answers_are_paid_for_and_left_out(photographs, tmp_path):
    """A refusal, an answer cut off at the limit, a malformed reply, and a server that is busy once."""
    busy = [(429, {"Retry-After": "0"}, b"busy")]
    replies = iter(
        [
            (200, {}, completion("I'm sorry, I can't assist with that.")),
            (200, {}, completion(HAPPY, "length")),
            (200, {}, b"not JSON"),
        ]
    )
    answer = lambda request: busy.pop() if busy else next(replies)  # noqa: E731
    about, requests = run(photographs, tmp_path, answer, tasks=("emotion",), concurrency=1)
    assert len(requests) == 4
    assert (about["answers"], about["usable"], about["prompt_tokens"]) == (2, {}, 600)
    reasons = left_out(tmp_path / "train")
    assert [reasons[name, "emotion"] for name in ("a", "more_b")] == ["refused", "cut off"]
    assert "expected a chat completion" in reasons["more_c", "emotion"]
    assert not (tmp_path / "train/train_emotion_anno.json").exists()
    again, requests = run(photographs, tmp_path, tasks=("emotion",))
    assert len(requests) == 1  # only the question that got no answer
    assert (again["answers"], again["usable"]) == (3, {"emotion": 1})


def test_nothing_is_asked_twice(photographs, tmp_path):
    first, _ = run(photographs, tmp_path, tasks=("emotion",))
    second, requests = run(photographs, tmp_path)
    assert len(requests) == 3
    assert all(question_of(request) in QUESTION_TEMPLATES["action_units"] for request in requests)
    third, requests = run(photographs, tmp_path)
    assert (requests, third) == ([], second)
    assert (first["answers"], second["answers"]) == (3, 6)


def test_a_killed_run_goes_on(photographs, tmp_path):
    """After two SIGKILLs, no question with an answer in the journal is asked again, and the files are complete."""
    whole, _ = run(photographs, tmp_path / "whole")
    asked = Counter()

    def slow(request):
        time.sleep(0.15)
        asked[image_of(request), question_of(request)] += 1
        return describe(request)

    journal = tmp_path / "out/train/journal.jsonl"
    with chat_server(slow) as (url, _):
        command = [sys.executable, "-m", "sdk", "data", "annotate", photographs, tmp_path / "out"]
        options = ["--endpoint", url, "--model", "seer", "--concurrency", "1"]
        for lines in (2, 4):
            process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            deadline = time.monotonic() + 60
            while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        with journal.open("a") as file:
            file.write('{"name": "more_c", "ta')  # what a kill in mid-line leaves
        about = annotate(photographs, tmp_path / "out", ChatEndpoint(url, "seer"))
    assert about == whole
    assert len(asked) == 6
    assert sum(asked.values()) <= 6 + 2  # one question in flight at each kill
    for path in (tmp_path / "whole/train").glob("*.json"):
        assert (tmp_path / "out/train" / path.name).read_text() == path.read_text()


def test_a_hopeless_endpoint_stops_the_run(photographs, tmp_path):
    """With a wrong key, only the questions already in flight are asked, and no set is written."""
    with pytest.raises(EndpointError, match="OPENAI_API_KEY"):
        run(photographs, tmp_path, lambda request: (401, {}, b"no"), concurrency=1)
    assert not (tmp_path / "train/train_emotion_anno.json").exists()


def test_an_endpoint_that_only_fails_stops_the_run(photographs, tmp_path, monkeypatch):
    """Two failures in a row stop the run here; three that alternate with answers do not."""
    monkeypatch.setattr("trainer.corpus.annotate.MAX_FAILURES", 2)
    with pytest.raises(EndpointError, match="2 questions in a row failed.*status 400: bad"):
        run(photographs, tmp_path / "out", lambda request: (400, {}, b"bad"), concurrency=1)
    failures = cycle((True, False))

    def moody(request):
        time.sleep(0.05)
        return (400, {}, b"bad") if next(failures) else describe(request)

    about, _ = run(photographs, tmp_path / "other", moody, concurrency=1)
    assert about["answers"] == 3


def test_what_cannot_be_annotated(photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no picture"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="crops would be taken for photographs"):
        run(photographs, photographs / "out")
    (photographs / "more_b.png").write_bytes((photographs / "a.png").read_bytes())
    with pytest.raises(DataError, match=r"would both become more_b\.jpg"):
        run(photographs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (photographs / "more_b.png").unlink()
    run(photographs, tmp_path / "out", tasks=("emotion",))
    with pytest.raises(DataError, match=r"holds another annotated set: seed \(found 0, expected 1\) differ"):
        run(photographs, tmp_path / "out", seed=1)


def test_templates():
    """50 per task in one or two sentences of at most 20 words, all different, and the task can be told from each."""
    from trainer.corpus.records import Record
    from trainer.corpus.stats import task_of

    every = [question for task in TASKS for question in QUESTION_TEMPLATES[task]]
    assert len(every) == len({question.lower() for question in every}) == 100
    for task in TASKS:
        assert len(QUESTION_TEMPLATES[task]) == 50
        for question in QUESTION_TEMPLATES[task]:
            assert len(question.split()) <= 20
            assert question[0].isupper()
            assert question.endswith(("?", "."))
            assert task_of(Record("r", None, "", "", question, "")) == task, question
