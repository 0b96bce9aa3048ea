"""The figures of a set equal those counted by hand, and the picture is drawn."""

import numpy as np
import pytest
from PIL import Image

from sdk.errors import DataError
from trainer.corpus.records import Record
from trainer.corpus.stats import describe, plot, task_of

EMOTION, UNITS = "What is the emotion of this face?", "Which AUs are active?"


def record(question, answer, image="a.png", label=None, root="set"):
    from pathlib import Path

    return Record("r", Path(root), image, "", question, answer, label)


RECORDS = [
    record(EMOTION, "The face looks happy, really happy.", "a.png"),
    record(EMOTION, "The face looks sad.  It shows sadness.", "b.png"),
    record(EMOTION, "The smile is bright.", "c.png", label="Happiness"),
    record(UNITS, "AU6 is raised, AU12 too.", "a.png"),
    record(UNITS, "AU12 pulls the lips.", "c.png", label="12"),
]


def test_table_2():
    stats = describe(RECORDS)
    assert stats["images"] == 3
    assert stats["samples"] == {
        "emotion": {"train": 2, "test": 1, "mean_words": round((6 + 7 + 4) / 3, 2)},
        "action_units": {"train": 1, "test": 1, "mean_words": 4.5},
    }


def test_figure_6():
    """As the SDK reads answers: "sad" is sadness, and a denied unit is not counted."""
    stats = describe(RECORDS)
    assert stats["action_units"] == {"AU6": 1, "AU12": 2}
    assert {name: count for name, count in stats["emotions"].items() if count} == {"happiness": 2, "sadness": 1}
    assert stats["words"]["emotion"] == {
        "face": 2,
        "looks": 2,
        "happy": 2,
        "really": 1,
        "sad": 1,
        "shows": 1,
        "sadness": 1,
        "smile": 1,
        "bright": 1,
    }


def test_answers_without_a_label_are_counted():
    stats = describe(
        [*RECORDS, record(EMOTION, "A face."), record(UNITS, "There is no AU4."), record(UNITS, "AU4, AU9")]
    )
    assert stats["unread"] == {"emotion": 1, "action_units": 1}
    assert stats["action_units"] == {"AU4": 1, "AU6": 1, "AU9": 1, "AU12": 2}
    assert sum(stats["emotions"].values()) == 3


def test_plain_words_count_as_their_emotion():
    """Sixteen of each: with the words of the authors' code all would count as happiness."""
    words = ("A happy face.", "A sad face.", "An angry face.")
    stats = describe([record(EMOTION, word) for word in words for _ in range(16)])
    assert [stats["emotions"][name] for name in ("happiness", "sadness", "anger")] == [16, 16, 16]


def test_pictures_of_two_folders_are_different():
    assert describe([record(EMOTION, "Happy."), record(EMOTION, "Happy.", root="other")])["images"] == 2


@pytest.mark.parametrize(
    ("question", "answer", "task"),
    [
        ("What is the emotion in this face?", "AU12 suggests happiness.", "emotion"),
        ("In this face, what are the discernible action units?", "None.", "action_units"),
        ("What AUs are conveyed by this face?", "AU4", "action_units"),
        ("What do you see in this face?", "AU4 is active.", "action_units"),
        ("What do you see in this face?", "A smile.", "emotion"),
    ],
)
def test_the_task_of_a_record(question, answer, task):
    assert task_of(record(question, answer)) == task


def test_the_golden_set(golden):
    from trainer.corpus.records import read_records

    stats = describe(read_records(golden / "data/FABAInstruct/train/train_anno.json"))
    assert stats["images"] == 12
    assert sum(part["train"] for part in stats["samples"].values()) == 12
    assert sum(stats["emotions"].values()) == stats["samples"]["emotion"]["train"]


@pytest.mark.parametrize("records", [RECORDS, RECORDS[:1]], ids=["both tasks", "emotion only"])
def test_plot(records, tmp_path):
    pytest.importorskip("wordcloud")
    pytest.importorskip("matplotlib")
    path = tmp_path / "stats.png"
    plot(describe(records), path)
    with Image.open(path) as picture:
        assert picture.size == (1320, 880)
        assert np.asarray(picture.convert("L")).std() > 10


def test_a_drawing_needs_the_name_of_a_picture(tmp_path):
    pytest.importorskip("wordcloud")
    pytest.importorskip("matplotlib")
    with pytest.raises(DataError, match="expected the name of a picture, such as stats.png"):
        plot(describe(RECORDS), tmp_path / "stats.xyz")
    assert not list(tmp_path.iterdir())
