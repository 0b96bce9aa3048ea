"""Score labels without generating an answer, from the decoder's probabilities at the branches of a trie of phrases.

The face and the question are read once; for every branch the cache is rewound to them. At a branch, the model's softmax
is normalised over the tokens that continue in the trie, as in grammar-constrained decoding.
"""

import heapq
import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Generic, TypeVar

import numpy as np

from sdk.arrays import Floats
from sdk.bundles.phrases import UnitList, read_default_phrases
from sdk.faba.prompts import Task
from sdk.faba.vocabulary import EMOTIONS, FABA_UNITS, Emotion
from sdk.runtime.encoded_face import EncodedFace
from sdk.runtime.generate import check_cancel
from sdk.runtime.pipeline import Pipeline

Label = TypeVar("Label", bound=Hashable)
Tokens = tuple[int, ...]

SCORED_SHARE = 0.98  # of the probability mass; branches are visited until their labels have this share
MIN_SHARE = 0.05  # probability from which the units that follow a unit are scored too


@dataclass
class Trie(Generic[Label]):
    """A prefix tree of token sequences, with a label at the end of each."""

    children: "dict[int, Trie[Label]]" = field(default_factory=dict)
    label: Label | None = None

    @classmethod
    def of(cls, phrases: "Mapping[Tokens, Label]") -> "Trie[Label]":
        root = cls()
        for tokens, label in phrases.items():
            node = root
            for token in tokens:
                node = node.children.setdefault(token, cls())
            node.label = label
        return root


class PathReader:
    """Reads a path of tokens after a question; returns (vocabulary,) log probabilities of the next token.

    It remembers what the cache holds and reads only the tokens that differ.
    """

    def __init__(self, pipeline: Pipeline, face: EncodedFace, question: Task, cancel: Event | None = None) -> None:
        self._decoder, self._cache = pipeline.backend.decoder, face.rewind()
        self._question: Tokens = tuple(pipeline.question_ids(question))
        self._start, self._held = face.prefix, ()  # type: int, Tokens
        self._cancel = cancel

    def __call__(self, path: Tokens) -> Floats:
        check_cancel(self._cancel)
        sequence = self._question + path
        shared = 0
        while shared < min(len(self._held), len(sequence) - 1) and self._held[shared] == sequence[shared]:
            shared += 1
        self._cache.length = self._start + shared
        logits = self._decoder.extend(self._cache, self._decoder.embed(sequence[shared:]))[-1].astype(np.float64)
        self._held = sequence
        shifted = logits - logits.max()
        found: Floats = shifted - np.log(np.exp(shifted).sum())
        return found


def score_trie(
    read: PathReader, trie: "Trie[Label]", before: Tokens = (), coverage: float = SCORED_SHARE
) -> "dict[Label, float]":
    """Compute the probability of each label, most probable branches first, until `coverage` is reached.

    Args:
        read: returns next-token log probabilities after a path.
        before: tokens between the question and the trie.
        coverage: probability mass in 0..1 after which the search stops.

    Returns:
        Probability in 0..1 by label; they sum to 1. Labels of branches that were not visited are missing.
    """
    found: dict[Label, float] = {}
    waiting: list[tuple[float, Tokens, Trie[Label]]] = [(-1.0, before, trie)]
    while waiting and sum(found.values()) < coverage:
        mass, path, node = heapq.heappop(waiting)
        while node.label is None and len(node.children) == 1:  # a single continuation needs no forward
            ((token, node),) = node.children.items()
            path += (token,)
        if not node.children:
            found[node.label] = found.get(node.label, 0.0) - mass  # type: ignore[index, arg-type]
            continue
        tokens = list(node.children)
        share = np.exp(read(path)[tokens])
        if node.label is None:
            share /= share.sum()
        else:  # any other token ends the label here
            found[node.label] = found.get(node.label, 0.0) - mass * (1 - share.sum())
        for token, part in zip(tokens, share.tolist(), strict=True):
            heapq.heappush(waiting, (mass * part, (*path, token), node.children[token]))
    total = sum(found.values())
    return {label: probability / total for label, probability in found.items()}


class LabelScorer:
    """Scores the labels of encoded faces. Each trie is built when it is first needed.

    Args:
        pipeline: an opened bundle; its tokenizer splits the phrases as in training.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._phrases = pipeline.manifest.labels or read_default_phrases()
        self._emotions: Trie[Emotion] | None = None
        self._firsts: Trie[tuple[int, int]] | None = None
        self._lists: dict[tuple[int, int], tuple[Tokens, Trie[int]]] = {}
        self._lock = threading.Lock()

    def emotions(
        self, face: EncodedFace, coverage: float = SCORED_SHARE, cancel: Event | None = None
    ) -> dict[Emotion, float]:
        """Compute the probability of each of the seven emotions.

        Args:
            face: the encoded face.
            coverage: as in `score_trie`.
            cancel: set it to stop within one call of the decoder.

        Raises:
            CancelledError: `cancel` was set.
        """
        with self._lock:
            if self._emotions is None:
                self._emotions = Trie.of(self.emotion_paths())
        found = score_trie(PathReader(self._pipeline, face, "emotion", cancel), self._emotions, coverage=coverage)
        return {emotion: found.get(emotion, 0.0) for emotion in EMOTIONS}

    def action_units(
        self, face: EncodedFace, coverage: float = SCORED_SHARE, cancel: Event | None = None
    ) -> dict[int, float]:
        """Compute the probability that each of FABA-Instruct's 20 units is listed; arguments as in `emotions`.

        Lists are in ascending order, and the next unit is assumed to depend on the last one only. So one pass over the
        units adds up, for each, the probability that it follows any earlier one.
        """
        read = PathReader(self._pipeline, face, "action_units", cancel)
        with self._lock:
            if self._firsts is None:
                self._firsts = Trie.of(self._first_phrases())
        found = score_trie(read, self._firsts, coverage=coverage)
        forms = [sum(p for (form, _), p in found.items() if form == index) for index in range(len(self._phrases.lists))]
        form = int(np.argmax(forms))
        usual = found.get((-1, 0), 0.0) + forms[form]  # the other forms are practically unused
        present = {code: found.get((form, code), 0.0) / max(usual, 1e-12) for code in FABA_UNITS}
        for code in FABA_UNITS:
            if present[code] >= MIN_SHARE:
                for following, share in self._after(read, form, code, coverage).items():
                    present[following] = present.get(following, 0.0) + present[code] * share
        return {code: min(present[code], 1.0) for code in FABA_UNITS}

    def emotion_paths(self) -> dict[Tokens, Emotion]:
        """The token ids of every phrase that names an emotion."""
        return {self._tokens("emotion", text, ". The"): label for text, label in self._phrases.emotions.items()}

    def _first_phrases(self) -> dict[Tokens, tuple[int, int]]:
        phrases = {
            self._tokens("action_units", style.first(code), style.rest(code)): (index, code)
            for index, style in enumerate(self._phrases.lists)
            for code in FABA_UNITS
        }
        return phrases | {self._tokens("action_units", text, "."): (-1, 0) for text in self._phrases.no_units}

    def _after(self, read: PathReader, form: int, code: int, coverage: float) -> dict[int, float]:
        """Probability of each unit to come next in a list whose last unit is `code`."""
        if code == FABA_UNITS[-1]:
            return {}
        with self._lock:
            if (form, code) not in self._lists:
                self._lists[form, code] = self._list_trie(self._phrases.lists[form], code)
            before, trie = self._lists[form, code]
        found = score_trie(read, trie, before, coverage)
        return {following: share for following, share in found.items() if following}

    def _list_trie(self, style: UnitList, code: int) -> tuple[Tokens, "Trie[int]"]:
        item = self._tokens("action_units", self._phrases.after(style, code))
        phrases = {
            self._tokens(
                "action_units", self._phrases.following(style, code, following), style.rest(following)
            ): following
            for following in FABA_UNITS
            if following > code
        }
        for end in style.ends:
            stop = () if end else (self._pipeline.manifest.prompt.stop_ids[0],)
            phrases[self._tokens("action_units", self._phrases.after(style, code) + end) + stop] = 0
        shared = _common_prefix(item, *phrases)
        return item[:shared], Trie.of({tokens[shared:]: label for tokens, label in phrases.items()})

    def _tokens(self, task: Task, phrase: str, rest: str = "") -> Tokens:
        """Token ids of an answer that begins with `phrase`, as in the training text after the question.

        Args:
            rest: how the answer continues. Its tokens are dropped, but it decides how the end of the phrase is split if
                a piece of the tokenizer crosses a space: "12 (" may be one piece.
        """
        question = self._pipeline.manifest.prompt.questions[task]
        frame = self._pipeline.manifest.prompt.free_question.replace("{question}", question.text)
        encoding = self._pipeline.tokenizer.encode(f"{frame} {phrase}{rest}", add_special_tokens=False)
        end = len(frame) + 1 + len(phrase)
        ids = [token for token, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if start < end]
        return tuple(ids[len(question.token_ids) :])


def _common_prefix(*sequences: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    count = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
