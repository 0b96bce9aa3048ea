"""Encode a face once, then ask questions about it: the data path from pixels to text."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from sdk.arrays import Floats
from sdk.bundles.manifest import Manifest
from sdk.errors import ImageError, TaskError
from sdk.faba.prompts import Task
from sdk.faces.crop import FaceCrop
from sdk.faces.patches import patch_order
from sdk.faces.preprocess import landmark_pixels, landmark_points, vision_pixels
from sdk.runtime.backends.interface import Backend, KVCache, Sampling
from sdk.runtime.clock import Clock
from sdk.runtime.drafts import Drafter
from sdk.runtime.encoded_face import EncodedFace
from sdk.runtime.generate import Generation
from sdk.runtime.language import TokenRule, TokenRules
from sdk.runtime.memory import positions_per_face
from sdk.runtime.ngrams import ContextTree, Ngrams
from sdk.runtime.pair import draw_together
from sdk.runtime.pruning import prune, rows_to_read, visual_rows
from sdk.runtime.speculate import DraftedGeneration
from sdk.runtime.tokenizer import read_tokenizer
from sdk.untrusted_json import is_utf8


@dataclass(frozen=True)
class Answer:
    """An answer of the decoder.

    Attributes:
        text: decoded, without surrounding white space.
        token_ids: its tokens, without the stop token.
        truncated: the answer reached its limit of tokens.
    """

    text: str
    token_ids: tuple[int, ...]
    truncated: bool


class Pipeline:
    """One opened bundle.

    Args:
        bundle: its folder.
        manifest: its manifest.
        backend: an opened variant.
        visual_tokens: visual rows of a face that the decoder reads (`sdk.runtime.pruning`); None reads all.
        pairs: whether there is memory for a second KV cache of a face, so that two answers can be decoded together.

    Attributes:
        image_rows: rows of a face that the decoder reads, including the landmark row.
        drafter: proposes tokens for every answer.

    Raises:
        TaskError: `visual_tokens` is larger than the bundle's number of visual rows, or less than 1.
        IntegrityError: the tokenizer or the table of n-grams is damaged.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        backend: Backend,
        visual_tokens: int | None = None,
        *,
        pairs: bool = True,
    ) -> None:
        self.manifest = manifest
        self.backend = backend
        self.image_rows = rows_to_read(manifest.prompt.image_rows, visual_tokens)
        path = bundle / manifest.tokenizer
        self.tokenizer = read_tokenizer(path, manifest.geometry.vocabulary)
        self._free_caches: list[KVCache] = []
        self.drafter = Drafter(_read_tree(bundle, manifest))
        # vLLM chooses the tokens itself
        self._rules = None if backend.decoder.batches else TokenRules.of(manifest, self.tokenizer)
        # Drafts from a table are as fast, and with an answer language a description depends on the list of action units
        self._pairs = pairs and backend.decoder.drafts and manifest.ngrams is None and self._rules is None
        backend.files.check_opened()

    @property
    def notice(self) -> str | None:
        """The notice that every result must carry: that of the model, and whether visual rows are pruned."""
        made, left_out = visual_rows(self.manifest.prompt.image_rows), self.manifest.prompt.image_rows - self.image_rows
        pruned = f"read from {made - left_out} of the picture's {made} rows" if left_out else None
        return "; ".join(filter(None, (self.manifest.notice, pruned))) or None

    def encode(
        self, crop: FaceCrop, clock: Clock, features: Floats | None = None, cache: KVCache | None = None
    ) -> EncodedFace:
        """Run both encoders and prefill the decoder with the face.

        Args:
            crop: the picture of the face.
            clock: gets the times of the stages `landmark`, `vision` and `prefill`.
            features: (212,) landmark features; None computes them with the landmark network.
            cache: cache to use, which stays the caller's; None takes a free one.

        Raises:
            ImageError: no features are given and the bundle has no landmark network.
        """
        if features is None:
            features = self.landmark_features(crop, clock)
        with clock("vision"):
            settings, wanted = self.manifest.preprocessing, self.image_rows
            pixels = vision_pixels(crop, features, settings)
            rows = self.backend.vision(pixels[None], features.astype(np.float32)[None])[0]  # (577, D)
            if len(rows) > wanted:
                rows = prune(rows, patch_order(crop, features, settings, isqrt(len(rows))), wanted)
        with clock("prefill"):
            return self.encode_rows(rows, features, cache)

    def encode_rows(self, rows: Floats, features: Floats, cache: KVCache | None = None) -> EncodedFace:
        """Prefill the decoder with the system text and (rows, D) image and landmark rows.

        Raises:
            IntegrityError: a file of the bundle was changed while it was open.
        """
        self.backend.files.check()
        decoder = self.backend.decoder
        home = self._free_caches if cache is None else []  # the caller keeps a cache of its own
        cache = cache or self._take_cache()
        cache.length = 0
        prefix = decoder.embed(self.manifest.prompt.prefix_ids)
        decoder.prefill(cache, np.concatenate([prefix, rows]))
        return EncodedFace(features, cache, home)

    def landmarks(self, features: Floats, crop: FaceCrop) -> Floats | None:
        """(106, 2) points in pixels of the file; None in mode "emola", whose features are not coordinates."""
        if self.manifest.preprocessing.landmark_mode == "emola":
            return None
        points = landmark_points(features, crop.box_in_crop) + np.array(crop.origin, np.float32)
        return points * np.float32(crop.shrink)

    def question_ids(self, question: str) -> Sequence[int]:
        """Token ids of a fixed task or a free question, from the end of the image rows to the start of the answer.

        Raises:
            TaskError: the question is empty, too long or no text.
        """
        prompt = self.manifest.prompt
        if not isinstance(question, str) or not question.strip():
            raise TaskError(f"the question is empty or no text: {question!r:.60}")
        if question in prompt.questions:
            return prompt.questions[question].token_ids
        if not is_utf8(question):
            raise TaskError("the question contains halves of surrogate pairs, which are no letters: decode it as UTF-8")
        text = prompt.free_question.replace("{question}", question)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > self._room_for_question:
            raise TaskError(f"the question has {len(ids)} tokens; at most {self._room_for_question} fit: shorten it")
        return ids

    def generate(
        self,
        face: EncodedFace,
        question: "Task | str",
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        cancel: Event | None = None,
        *,
        drafts: bool = True,
        cache: KVCache | None = None,
    ) -> Generation:
        """Start an answer about a face: an iterator over token ids.

        Args:
            face: the encoded face.
            question: a task or a free question.
            max_new_tokens: limit of the answer; None takes the bundle's.
            sampling: None is greedy.
            cancel: set it to stop within one token.
            drafts: verify several drafted tokens per forward, if the answer is greedy and the decoder supports it. The
                tokens are the same. Pass False to step several answers together.
            cache: one that holds the face; None takes that of the face.
        """
        self.backend.files.check()
        rule = self._rule(face, question, sampling, cancel)
        prompt, cache = self.manifest.prompt, cache or face.rewind()
        question_ids = self.question_ids(question)
        room = cache.capacity - face.prefix - len(question_ids)
        limits: dict[str, Any] = {
            "stop_ids": prompt.stop_ids,
            "max_new_tokens": min(max_new_tokens or prompt.max_new_tokens, room),
            "cancel": cancel,
            "rule": rule,
        }
        decoder = self.backend.decoder
        if drafts and sampling is None and decoder.drafts:
            return DraftedGeneration(decoder, cache, question_ids, drafter=self.drafter, **limits)
        return Generation(decoder, cache, question_ids, sampling=sampling, **limits)

    def _rule(
        self, face: EncodedFace, question: "Task | str", sampling: Sampling | None, cancel: Event | None
    ) -> TokenRule | None:
        """The rule of an answer; all but the list of action units need that list, which is decoded before."""
        if self._rules is None or not any(scope := self._rules.scope_of(question)):
            return None
        if scope != (("action_units",), ()):
            if face.list_rule is None or not face.list_rule.ended:
                deque(self.generate(face, "action_units", cancel=cancel), maxlen=0)
            return self._rules.rule(scope, face.list_rule.evidence() if face.list_rule else None)
        rule = self._rules.rule(scope)
        if sampling is None and not (face.list_rule and face.list_rule.ended):
            face.list_rule = rule
        return rule

    def ask(
        self,
        face: EncodedFace,
        question: "Task | str",
        clock: Clock,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        cancel: Event | None = None,
    ) -> Answer:
        """Ask a fixed task or a free question, and wait for the whole answer.

        Args:
            clock: gets the times of the stages `question` (up to the first token) and `decode` (all others).
            max_new_tokens: limit of the answer; None takes the bundle's.
            sampling: None is greedy.
            cancel: set it to stop within one token.

        Raises:
            CancelledError: `cancel` was set.
        """
        with clock("question"):
            generation = self.generate(face, question, max_new_tokens, sampling, cancel)
            first = next(generation, None)
        with clock("decode"):
            token_ids = () if first is None else (first, *generation)
        return self.answer(token_ids, generation.truncated)

    def ask_all(
        self, face: EncodedFace, tasks: Sequence[Task], clock: Clock, limit: int | None, cancel: Event | None
    ) -> dict[Task, Answer]:
        """Ask fixed tasks and wait for all answers. Two are decoded together where that is faster; they are the same.

        Args:
            face: encoded in a cache of this pipeline.
            limit: of each answer in tokens; clock, limit, cancel and errors as in `ask`.
        """
        if len(tasks) != 2 or not self._pairs:
            return {task: self.ask(face, task, clock, limit, cancel=cancel) for task in tasks}
        with clock("question"):
            first = self.generate(face, tasks[0], limit, cancel=cancel)
            second = self.generate(face, tasks[1], limit, cancel=cancel, cache=face.copy())
        assert isinstance(first, DraftedGeneration)
        assert isinstance(second, DraftedGeneration)
        tokens = draw_together(self.backend.decoder, self.drafter, (first, second), clock)
        answers = map(self.answer, tokens, (first.truncated, second.truncated))
        return dict(zip(tasks, answers, strict=True))

    def answer(self, token_ids: Sequence[int], truncated: bool) -> Answer:
        """Decode the tokens of an answer."""
        return Answer(self.tokenizer.decode(list(token_ids)).strip(), tuple(token_ids), truncated)

    def stream(
        self,
        face: EncodedFace,
        question: "Task | str",
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        cancel: Event | None = None,
    ) -> Iterator[str]:
        """Yield the text of an answer piece by piece, as it is decoded; arguments as in `generate`."""
        yield from self.pieces(self.generate(face, question, max_new_tokens, sampling, cancel))

    def pieces(self, generation: Generation, tokens: Iterator[int] | None = None) -> Generator[str, None, Answer]:
        """Yield the text of a started answer, whose `tokens` may be drawn elsewhere; return the whole answer."""
        token_ids: list[int] = []
        sent = 0
        for token in tokens or generation:
            token_ids.append(token)
            if (self.tokenizer.id_to_token(token) or "").startswith("<0x"):
                continue  # single bytes are not text before their sequence is complete
            text = self.tokenizer.decode(token_ids)
            yield text[sent:]
            sent = len(text)
        yield self.tokenizer.decode(token_ids)[sent:]
        return self.answer(token_ids, generation.truncated)

    def landmark_features(self, crop: FaceCrop, clock: Clock) -> Floats:
        """Compute the (212,) outputs of the landmark network.

        Raises:
            ImageError: the bundle has none.
        """
        if self.backend.landmark is None:
            raise ImageError(
                "this bundle was exported without a landmark network: pass landmark_features=, or export it again "
                "with --landmark-model"
            )
        with clock("landmark"):
            mode = self.manifest.preprocessing.landmark_mode
            pixels = landmark_pixels(crop.pixels, mode=mode, box_xyxy=crop.box_in_crop)
            features: Floats = self.backend.landmark(pixels[None])[0]
            return features

    def _take_cache(self) -> KVCache:
        try:
            return self._free_caches.pop()  # atomic, unlike a check followed by a pop
        except IndexError:
            return self.backend.decoder.new_pool(self.capacity, 2 if self._pairs else 1).caches[0]

    @property
    def _prefix_length(self) -> int:
        return len(self.manifest.prompt.prefix_ids) + self.image_rows

    @property
    def capacity(self) -> int:
        """Number of positions of a face's cache."""
        return positions_per_face(self.manifest, self.image_rows)

    @property
    def _room_for_question(self) -> int:
        return self.capacity - self._prefix_length - 1


def _read_tree(bundle: Path, manifest: Manifest) -> ContextTree | None:
    """The table of training answers for drafts; None if the bundle has none."""
    if manifest.ngrams is None:
        return None
    return ContextTree(Ngrams.load(bundle / manifest.ngrams, manifest.geometry.vocabulary))
