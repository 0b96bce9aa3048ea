"""Statistics of a data set: Table 2 (counts, lengths) and Fig. 6 (distributions, frequent words) of the paper."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdk.errors import DataError, DependencyError
from sdk.faba.answers import read_action_units, read_emotion
from sdk.faba.prompts import TASKS, Task
from sdk.faba.vocabulary import EMOTIONS
from sdk.files import replacing
from trainer.corpus.records import Record

WORD_COUNT = 100  # frequent words that are listed
_UNITS = re.compile(r"\bAUs?\b|\bAU\d|\baction units?\b", re.IGNORECASE)
_STOP_WORDS = (
    "a about above after again all also although an and another any are around as at au aus be because been being "
    "below between both but by can cannot could did do does doing down during each either else every few for from "
    "further had has have having he her here hers him his how however i if in into is it its itself just like may "
    "me might more most much must my neither no nor not nothing of off on once one only or other our out over own "
    "rather same she should so some such than that the their them then there these they this those through to "
    "together too under until up upon very was we were what when where whether which while who whom why will with "
    "within without would yet you your"
)


def asks_for_units(question: str) -> bool:
    """Whether a question is about action units."""
    return bool(_UNITS.search(question))


def task_of(record: Record) -> Task:
    """The task of a record, found from the question or, if that is unclear, from the answer."""
    if asks_for_units(record.question):
        return "action_units"
    named = read_action_units(record.answer) and "emotion" not in record.question.lower()
    return "action_units" if named else "emotion"


def describe(records: Sequence[Record]) -> dict[str, Any]:
    """Counts, lengths, distributions and frequent words.

    Args:
        records: of training and evaluation files; those with a label count as test samples.

    Returns:
        `images`; `samples` per task: train, test and the mean length of the answers in words; `emotions` and
        `action_units`: how many answers affirm each of them, as the SDK reads answers; `unread` per task: how many
        answers affirm none; `words` per task: the most frequent words except stop words, with their counts.
    """
    by_task: dict[Task, list[Record]] = {task: [r for r in records if task_of(r) == task] for task in TASKS}
    labels = [read_emotion(record.answer).label for record in by_task["emotion"]]
    present = [_present(record.answer) for record in by_task["action_units"]]
    emotions, units = Counter(labels), Counter(code for codes in present for code in codes)
    unread = {"emotion": emotions[None], "action_units": present.count([])}
    return {
        "images": len({record.image_path for record in records}),
        "samples": {task: _samples(chosen) for task, chosen in by_task.items() if chosen},
        "emotions": {emotion: emotions[emotion] for emotion in EMOTIONS},
        "action_units": {f"AU{code}": units[code] for code in sorted(units)},
        "unread": {task: unread[task] for task, chosen in by_task.items() if chosen},
        "words": {task: _frequent_words(chosen) for task, chosen in by_task.items() if chosen},
    }


def _present(answer: str) -> list[int]:
    return [unit.code for unit in read_action_units(answer) if unit.present]


def _samples(records: Sequence[Record]) -> dict[str, float]:
    test = sum(record.label is not None for record in records)
    words = sum(len(record.answer.split()) for record in records)
    return {"train": len(records) - test, "test": test, "mean_words": round(words / len(records), 2)}


def _frequent_words(records: Sequence[Record]) -> dict[str, int]:
    words = (word for record in records for word in re.findall(r"[a-z]{2,}", record.answer.lower()))
    stop_words = set(_STOP_WORDS.split())
    return dict(Counter(word for word in words if word not in stop_words).most_common(WORD_COUNT))


def plot(stats: dict[str, Any], path: Path) -> None:
    """Draw Fig. 6 as one picture: frequencies of the action units and emotions, and a word cloud per task."""
    try:
        from matplotlib.figure import Figure
        from wordcloud import WordCloud
    except ImportError as error:
        raise DependencyError(error.name or "matplotlib", "train", "draw the figure") from None
    figure, kind = Figure(figsize=(12, 8), layout="constrained"), path.suffix.removeprefix(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise DataError(f"{path}: .{kind} is no kind of picture that can be drawn; choose a name such as stats.png")
    (units, emotions), clouds = figure.subplots(2, 2)
    for axes, key, title in ((units, "action_units", "(a) action units"), (emotions, "emotions", "(b) emotions")):
        axes.bar(list(stats[key]), list(stats[key].values()))
        axes.tick_params(axis="x", rotation=60)
        axes.set(title=title, ylabel="answers")
    for axes, task in zip(clouds, ("action_units", "emotion"), strict=True):
        axes.set(title=f"(c) words about {task.replace('_', ' ')}")
        axes.axis("off")
        if stats["words"].get(task):
            cloud = WordCloud(width=900, height=520, background_color="white", random_state=0)
            axes.imshow(cloud.generate_from_frequencies(stats["words"][task]))
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format=kind)
