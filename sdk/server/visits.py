"""A picture in progress: its faces are found and read once, and each question rewinds to that prefix."""

import hashlib
from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

from sdk.examine import Examiner, Faces, Reading, Request, most_prominent
from sdk.faba.prompts import Task
from sdk.faces.crop import Box, FaceCrop
from sdk.results import Analysis
from sdk.runtime.backends.interface import Sampling
from sdk.runtime.clock import Clock
from sdk.runtime.encoded_face import EncodedFace
from sdk.runtime.generate import Generation
from sdk.runtime.pipeline import Answer, Pipeline
from sdk.runtime.shared_steps import SharedSteps


@dataclass(frozen=True)
class Found:
    """The faces of a picture, from left to right, before they are read.

    Attributes:
        image_size: width and height in pixels.
        boxes_xyxy: one box per face, in pixels of the file.
    """

    image_size: tuple[int, int]
    boxes_xyxy: tuple[Box, ...]
    event: Literal["faces"] = "faces"


@dataclass(frozen=True)
class Piece:
    """A piece of an answer in words."""

    face: int
    task: Task
    text: str
    event: Literal["text"] = "text"


@dataclass(frozen=True)
class Done:
    """The complete analysis."""

    analysis: Analysis
    event: Literal["done"] = "done"


@dataclass
class Visit:
    """A picture, its crops, and the faces that were read so far.

    Attributes:
        key: hash of the file and how faces are found in it.
        size: width and height in pixels.
        crops: with their detection scores, from left to right.
        faces: encoded faces by index of the crop.
    """

    key: str
    size: tuple[int, int]
    crops: list[tuple[FaceCrop, float | None]]
    faces: dict[int, EncodedFace] = field(default_factory=dict)

    def face(self, pipeline: Pipeline, index: int, clock: Clock) -> EncodedFace:
        """The encoded face of a crop; it is read on first use."""
        if index not in self.faces:
            self.faces[index] = pipeline.encode(self.crops[index][0], clock)
        return self.faces[index]

    def close(self) -> None:
        """Give the KV caches back."""
        for face in self.faces.values():
            face.close()
        self.faces.clear()


class VisitCache:
    """Keeps visits for the next question, least recently used first out. A visit in use is not in it.

    Args:
        limit: bytes of KV caches; 0 keeps none.
        face_bytes: of the KV cache of one face.

    Attributes:
        hits, misses: requests that found their picture, and all others.
    """

    def __init__(self, limit: int, face_bytes: int) -> None:
        self._limit, self._face_bytes = limit, face_bytes
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._lock = Lock()
        self.hits = self.misses = 0

    @property
    def bytes(self) -> int:
        """Bytes of the KV caches that are kept."""
        return self._face_bytes * sum(len(visit.faces) for visit in self._visits.values())

    def has_room(self, faces: int) -> bool:
        """Whether a visit with so many read faces can be kept."""
        return faces * self._face_bytes <= self._limit

    def take(self, key: str) -> Visit | None:
        """Take a visit out; None if it is not there or in use."""
        with self._lock:
            found = self._visits.pop(key, None)
            self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
            return found

    def put(self, visit: Visit) -> None:
        """Keep a visit; others are closed until the limit is met."""
        with self._lock:
            dropped = self._visits.pop(visit.key, None)
            self._visits[visit.key] = visit
            if dropped:
                dropped.close()
            while self._visits and self.bytes > self._limit:
                self._visits.popitem(last=False)[1].close()


class Reception:
    """Answers requests about pictures, with a cache of the faces that were read.

    Args:
        examiner: of an opened Analyzer.
        cache: for visits.
        steps: which requests of several threads share; None: each decodes alone.
    """

    def __init__(self, examiner: Examiner, cache: VisitCache, steps: SharedSteps | None = None) -> None:
        self._examiner, self.cache, self._steps = examiner, cache, steps

    def analyze(self, image: bytes, faces: Faces, request: Request, clock: Clock) -> Iterator[Found | Piece | Done]:
        """Analyse a picture as `Analyzer.analyze` does; yield what is known as soon as it is known.

        Raises:
            ImageError: the picture cannot be used.
            CancelledError: the request was cancelled.
        """
        visit = self._visit(image, faces, clock)
        try:
            yield Found(visit.size, tuple(crop.box_in_file for crop, _ in visit.crops))
            found, readings = [], []
            for index, (crop, score) in enumerate(visit.crops):
                request.check_cancel()
                readings.append((yield from self._read(visit, index, request, clock)))
                if not self.cache.has_room(len(visit.faces)):
                    visit.faces.pop(index).close()
                found.append(self._examiner.face(index, crop, score, readings[-1], request))
            yield Done(self._examiner.analysis(found, visit.size, "bytes", clock, readings, request))
        finally:
            self.cache.put(visit)

    def ask(
        self, image: bytes, faces: Faces, question: str, request: Request, sampling: Sampling | None, clock: Clock
    ) -> Generator[str, None, Answer]:
        """Answer a question about the most prominent face; yield pieces of text and return the answer.

        Raises:
            ImageError: the picture cannot be used or shows no face.
            TaskError: the question is empty or too long.
            CancelledError: the request was cancelled.
        """
        pipeline = self._examiner.pipeline
        pipeline.question_ids(question)
        visit = self._visit(image, faces, clock)
        try:
            face = visit.face(pipeline, most_prominent(visit.crops), clock)
            generation = pipeline.generate(face, question, request.max_new_tokens, sampling, request.cancel)
            return (yield from self._timed(generation, clock))
        finally:
            self.cache.put(visit)

    def _visit(self, image: bytes, faces: Faces, clock: Clock) -> Visit:
        key = f"{hashlib.sha256(image).hexdigest()} {faces}"
        if known := self.cache.take(key):
            return known
        picture = self._examiner.load(image, clock)
        return Visit(key, picture.size, self._examiner.find(picture.pixels, faces, clock, picture.shrink))

    def _read(self, visit: Visit, index: int, request: Request, clock: Clock) -> Generator[Piece, None, Reading]:
        pipeline = self._examiner.pipeline
        face, answers = visit.face(pipeline, index, clock), {}
        for task in request.tasks:
            generation = pipeline.generate(face, task, request.max_new_tokens, cancel=request.cancel)
            answers[task] = yield from _named(self._timed(generation, clock), index, task)
        return Reading(face.features, answers, self._examiner.score(face, request, clock))

    def _timed(self, generation: Generation, clock: Clock) -> Generator[str, None, Answer]:
        """The pieces of an answer; up to the first it is the stage `question`, then `decode`."""
        tokens = self._steps.tokens(generation) if self._steps else None
        pieces, stage = self._examiner.pipeline.pieces(generation, tokens), "question"
        while True:
            with clock(stage):
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    answer: Answer = end.value
                    return answer
            stage = "decode"
            yield piece


def _named(pieces: Generator[str, None, Answer], index: int, task: Task) -> Generator[Piece, None, Answer]:
    while True:
        try:
            text = next(pieces)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
        if text:
            yield Piece(index, task, text)
