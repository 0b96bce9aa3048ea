"""REGE, the score of FABA-Bench: recognition (accuracy or mean F1) plus generation (ROUGE-L), both in percent.

Source: Sec. 3.2 of the EmoLA paper. Three protocols:

official  the authors' evaluation code with its quirks, the basis of the published figures.
paper     the text of the paper: drop the negative sentences, count the synonyms, the highest count wins. Action units
          may be written "AU 4" or "Action Unit 4". Every unit of the set counts; F1 = 0 if it occurs in neither truth
          nor prediction.
runtime   the labels that the SDK reads from an answer (`sdk.faba.answers`); every unit of the set counts.

A sample that crashes the official code or that the code leaves out is scored as wrong and listed in `failures`.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from reprlib import repr as short
from typing import Any, Literal, SupportsIndex

from sdk.errors import ScoreError
from sdk.faba.answers import read_action_units, read_emotion
from sdk.faba.rouge import rouge_l
from sdk.faba.vocabulary import DATASETS, EMOTIONS, SYNONYMS

Protocol = Literal["official", "paper", "runtime"]
PROTOCOLS: dict[Protocol, str] = {
    "official": "the authors' evaluation code with its quirks, which gave the published figures",
    "paper": "the rule in the text of the paper, drop the negative sentences and count the synonyms",
    "runtime": "the labels that `emola analyze` reports for these answers",
}

_LABEL_NAMES = {name.capitalize(): index for index, name in enumerate(EMOTIONS)}
_NEGATIVE_PARTS = ("not", "no", "isn't ", "nothing", "cannot", "won't", "shouldn't", "neither", "nor")
_NEGATIVE_WORD = re.compile(r"\b(?:not|no|isn't|nothing|cannot|won't|shouldn't|neither|nor)\b")
_SENTENCE_END = re.compile(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=\.|\?)\s")
_FIRST_SENTENCE = re.compile(r"^(.*?)[.!?]")
_OFFICIAL_AU = re.compile(r"AU(\d{1,4})(?!\d)")  # a longer number is not an action unit
_PAPER_AU = re.compile(r"\b(?:AU|action\s+unit)[\s-]*0*(\d{1,4})(?!\d)", re.IGNORECASE)
_NO_UNIT = re.compile(r"\b(?:no|none|not|without)\b", re.IGNORECASE)
_MAX_DIGITS = 4  # of the number of an action unit
MAX_CHARACTERS = 100_000  # of a prediction or a reference: ROUGE-L compares each word with each


@dataclass(frozen=True)
class Failure:
    """A sample that could not be scored by the protocol: its index in the annotations and the reason."""

    index: int
    reason: str


@dataclass(frozen=True)
class RegeScore:
    """The score of one run, in percent.

    Attributes:
        s_re: recognition: accuracy (emotion) or mean F1 over the scored action units.
        s_ge: generation: mean ROUGE-L F of the PyPI package rouge 1.0.1.
        accuracy: accuracy (emotion) or mean accuracy over the scored action units.
        per_au: F1 of each scored action unit; None if the official protocol leaves it out of the mean.
        failures: samples that could not be scored by the protocol.
        unread: number of answers without a label that the protocol knows; the official one takes an emotion that it
            does not know for happiness. An answer that denies every action unit is not one of them.
    """

    task: Literal["au", "emotion"]
    dataset: str
    protocol: Protocol
    samples: int
    s_re: float
    s_ge: float
    accuracy: float
    per_au: Mapping[int, float | None]
    failures: tuple[Failure, ...]
    unread: int

    @property
    def s_rege(self) -> float:
        return self.s_re + self.s_ge

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "s_rege": self.s_rege}

    def official_text(self, name: str | None = None) -> str:
        """The report of the authors' code, with the same digits.

        As in their code, the line of F1 values pairs the names of the set in order with the values that are not None.
        """
        name = name or f"{'AU' if self.task == 'au' else self.task}_{self.dataset}"
        if self.task == "emotion":
            body = f"Dataset: {name}, Acc: {self.s_re:.2f}, Average rouge: {self.s_ge:.2f}%"
        else:
            values = [f1 for f1 in self.per_au.values() if f1 is not None]
            units = "".join(f"AU{code}: {f1:.2f}, " for code, f1 in zip(self.per_au, values, strict=False))
            body = (
                f"Dataset: {name}\n{units}\nF1: {self.s_re:.2f}%, Acc: {self.accuracy:.2f}, "
                f"Average rouge: {self.s_ge:.2f}%"
            )
        return "\n".join(["*" * 80, body, "*" * 80, ""])


def score(
    predictions: Sequence[str],
    annotations: Sequence[Mapping[str, Any]],
    *,
    task: str,
    dataset: str = "FABA",
    protocol: str = "official",
) -> RegeScore:
    """Score the answers of a model.

    Args:
        predictions: one text per annotation, in the same order.
        annotations: records of the FABA-Instruct evaluation files: `label` (emotion: 0..6, "0".."6" or a name such as
            "Happiness"; action units: "4, 9, 15" or "AU4, AU9") and `gpt4` (the reference text).
        task: "au" or "emotion".
        dataset: a key of `sdk.faba.vocabulary.DATASETS`; decides which action units are scored.
        protocol: "official", "paper" or "runtime".

    Raises:
        ScoreError: a name is unknown, the lists have different lengths, or an annotation has another form.
    """
    if task.lower() not in ("au", "emotion"):
        raise ScoreError(f"task must be 'au' or 'emotion', not {task!r}")
    if dataset not in DATASETS:
        raise ScoreError(f"dataset must be one of {', '.join(DATASETS)}, not {dataset!r}")
    if protocol not in PROTOCOLS:
        raise ScoreError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {protocol!r}")
    if len(predictions) != len(annotations) or not annotations:
        raise ScoreError(
            f"expected one prediction per annotation and at least one; found {len(predictions)} predictions "
            f"and {len(annotations)} annotations"
        )
    _check(predictions, annotations)
    score_task = _score_emotion if task.lower() == "emotion" else _score_action_units
    return score_task(predictions, annotations, dataset, protocol)


def _check(predictions: Sequence[str], annotations: Sequence[Mapping[str, Any]]) -> None:
    for index, (prediction, annotation) in enumerate(zip(predictions, annotations, strict=True)):
        _check_text(prediction, f"prediction {index}")
        if not isinstance(annotation, Mapping):
            raise ScoreError(f"annotation {index} must be an object with label and gpt4, not {short(annotation)}")
        missing = [key for key in ("label", "gpt4") if key not in annotation]
        if missing:
            raise ScoreError(
                f"annotation {index} has no {' and no '.join(map(repr, missing))}: expected label and gpt4"
            )
        _check_text(annotation["gpt4"], f"gpt4 of annotation {index}")


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise ScoreError(f"{what} must be a text, not {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise ScoreError(f"{what} has {len(text)} characters, at most {MAX_CHARACTERS} are scored; cut it off")


def _score_emotion(
    predictions: Sequence[str], annotations: Sequence[Mapping[str, Any]], dataset: str, protocol: Protocol
) -> RegeScore:
    predicted = [EMOTION_READERS[protocol](text) for text in predictions]
    failures = [Failure(i, "no emotion can be read from the answer") for i, p in enumerate(predicted) if p is None]
    truth = [emotion_index(annotation["label"], i) for i, annotation in enumerate(annotations)]
    accuracy = 100 * sum(p == t for p, t in zip(predicted, truth, strict=True)) / len(truth)
    s_ge, ungraded = _mean_rouge(predictions, annotations, protocol)
    unread = sum(map(_official_guesses, predictions)) if protocol == "official" else len(failures)
    listed = tuple(failures + ungraded)
    return RegeScore("emotion", dataset, protocol, len(truth), accuracy, s_ge, accuracy, {}, listed, unread)


def _score_action_units(
    predictions: Sequence[str], annotations: Sequence[Mapping[str, Any]], dataset: str, protocol: Protocol
) -> RegeScore:
    predicted = [UNIT_READERS[protocol](text) for text in predictions]
    truth = [annotated_action_units(annotation["label"], i) for i, annotation in enumerate(annotations)]
    per_au: dict[int, float | None] = {}
    accuracies = []
    for code in DATASETS[dataset].scored:
        pairs = Counter((code in t, code in p) for t, p in zip(truth, predicted, strict=True))
        hits, missed, wrong = pairs[True, True], pairs[True, False], pairs[False, True]
        if protocol == "official" and (pairs[False, False] == len(truth) or hits == len(truth)):
            per_au[code] = None  # the official code skips a 1 x 1 confusion matrix
            continue
        per_au[code] = 100 * 2 * hits / (2 * hits + missed + wrong) if hits else 0.0
        accuracies.append(100 * (hits + pairs[False, False]) / len(truth))
    scored = [f1 for f1 in per_au.values() if f1 is not None]
    if not scored:
        raise ScoreError(f"none of the action units of {dataset} occurs in the annotations or the predictions")
    s_ge, ungraded = _mean_rouge(predictions, annotations, protocol)
    return RegeScore(
        task="au",
        dataset=dataset,
        protocol=protocol,
        samples=len(truth),
        s_re=sum(scored) / len(scored),
        s_ge=s_ge,
        accuracy=sum(accuracies) / len(accuracies),
        per_au=per_au,
        failures=tuple(ungraded),
        unread=sum(not (found or _NO_UNIT.search(text)) for found, text in zip(predicted, predictions, strict=True)),
    )


def official_emotion(text: str) -> int | None:
    """The label number that the official code reads from a description, or None where it crashes."""
    positive = _without_negative_parts(text)
    first = _FIRST_SENTENCE.match(positive)
    if first is None:
        return None
    for word in re.findall(r"\b\w+\b", first[1].lower()):
        for index, emotion in enumerate(EMOTIONS):
            if word in SYNONYMS[emotion]:
                return index
    return _most_frequent(_FIRST_SENTENCE.sub("", positive)) or 0


def _without_negative_parts(text: str) -> str:
    kept = [s for s in _SENTENCE_END.split(text) if not any(part in s.lower() for part in _NEGATIVE_PARTS)]
    return " ".join(kept) or text


def _official_guesses(text: str) -> bool:
    """Whether the official code crashes, or finds no synonym and takes the first emotion."""
    return official_emotion(text) is None or _most_frequent(_without_negative_parts(text)) is None


def paper_emotion(text: str) -> int | None:
    """The label number by the method of the paper, or None if no synonym is left."""
    sentences = re.split(r"(?<=[.!?])\s+", text.lower().replace("’", "'"))
    return _most_frequent(" ".join(s for s in sentences if not _NEGATIVE_WORD.search(s)))


def _most_frequent(text: str) -> int | None:
    words = re.findall(r"\b\w+\b", text.lower())
    counts = [sum(word in SYNONYMS[emotion] for word in words) for emotion in EMOTIONS]
    return counts.index(max(counts)) if any(counts) else None


def official_action_units(text: str) -> set[int]:
    """Every number directly after "AU"; "AU 4" is missed, negated mentions count, "AU08" is not 8."""
    return {int(number) for number in _OFFICIAL_AU.findall(text) if not number.startswith("0")}


def paper_action_units(text: str) -> set[int]:
    """Every number after "AU" or "action unit"."""
    return {int(number) for number in _PAPER_AU.findall(text)}


def _runtime_emotion(text: str) -> int | None:
    label = read_emotion(text).label
    return None if label is None else EMOTIONS.index(label)


def _runtime_action_units(text: str) -> set[int]:
    return {unit.code for unit in read_action_units(text) if unit.present}


EMOTION_READERS: dict[Protocol, Callable[[str], int | None]] = {
    "official": official_emotion,
    "paper": paper_emotion,
    "runtime": _runtime_emotion,
}
UNIT_READERS: dict[Protocol, Callable[[str], set[int]]] = {
    "official": official_action_units,
    "paper": paper_action_units,
    "runtime": _runtime_action_units,
}


def emotion_index(label: object, index: int = 0) -> int:
    """Convert the label of an annotation, an int, a digit text or a name such as "Happiness", to 0..6."""
    number: object = label
    if isinstance(label, str):
        named = _LABEL_NAMES.get(label)
        number = int(label) if named is None and re.fullmatch(r"\s*\d\s*", label) else named
    whole = number.__index__() if isinstance(number, SupportsIndex) and not isinstance(number, bool) else -1
    if not 0 <= whole < len(EMOTIONS):
        raise ScoreError(
            f"annotation {index}: label must be 0..6 or one of {', '.join(_LABEL_NAMES)}, not {short(label)}"
        )
    return whole


def annotated_action_units(label: object, index: int = 0) -> set[int]:
    """Read the codes from "4, 9, 15" or "AU4, AU9"; an empty text or "none" means no active unit."""
    if not isinstance(label, str):
        raise ScoreError(f"annotation {index}: label must be a text such as '4, 9, 15', not {short(label)}")
    if label.strip().lower() == "none":
        return set()
    names = [name.strip().upper().removeprefix("AU").strip() for name in label.split(",") if name.strip()]
    if not all(name.isdecimal() and len(name) <= _MAX_DIGITS for name in names):
        raise ScoreError(f"annotation {index}: label must be a text such as '4, 9, 15', not {short(label)}")
    return {int(name) for name in names}


def _mean_rouge(
    predictions: Sequence[str], annotations: Sequence[Mapping[str, Any]], protocol: Protocol
) -> tuple[float, list[Failure]]:
    """Mean ROUGE-L in percent; an undefined value is left out (official) or counts as 0 (the others)."""
    values, failures = [], []
    for index, (text, annotation) in enumerate(zip(predictions, annotations, strict=True)):
        value = rouge_l(text, annotation["gpt4"])
        if value is None:
            failures.append(Failure(index, "empty answer or empty reference: ROUGE-L is undefined"))
        if value is not None or protocol != "official":
            values.append(value or 0.0)
    return 100 * sum(values) / len(values) if values else 0.0, failures
