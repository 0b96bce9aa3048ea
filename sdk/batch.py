"""Analyse many pictures at once: their faces share one KV pool, and each decode step serves all unfinished answers.

A decode step reads all weights of the model, regardless of the number of rows. With continuous batching the next face
takes the slot of a finished one at once, so short answers never wait for long ones. Every sequence has its own length
and nothing is padded: the answers equal those of one-by-one decoding. On a GPU, rounding can change an answer where two
tokens are almost equally probable.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from sdk.arrays import Pixels
from sdk.errors import ImageError
from sdk.examine import Examiner, Faces, Reading, Request, Scores
from sdk.faba.prompts import Task
from sdk.faces.crop import FaceCrop
from sdk.faces.formats import READ, SUFFIXES, UNREAD_SUFFIXES
from sdk.faces.images import Color, ImageSource, source_name
from sdk.results import Analysis
from sdk.runtime.backends.interface import KVPool
from sdk.runtime.clock import Clock
from sdk.runtime.encoded_face import EncodedFace
from sdk.runtime.generate import Generation
from sdk.runtime.pipeline import Answer

logger = logging.getLogger(__name__)


def pictures_in(folder: Path) -> list[Path]:
    """The picture files in a folder and its subfolders, sorted by path; a log message names what is skipped.

    Raises:
        ImageError: the folder holds no picture of a format that is read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    skipped = [path for path in files if path.suffix.lower() in UNREAD_SUFFIXES]
    endings = ", ".join(sorted({path.suffix.lower() for path in skipped}))
    note = f"{len(skipped)} pictures are skipped, the first is {skipped[0]}: {endings} is not read" if skipped else ""
    if not found:
        raise ImageError(f"{folder} holds no picture; expected {READ}" + (f" ({note})" if note else ""))
    if note:
        logger.warning("%s; convert them to JPEG", note)
    strange = [path for path in files if path.suffix.lower() not in SUFFIXES | UNREAD_SUFFIXES and path.name[0] != "."]
    if strange:
        logger.warning(
            "%s: skipped %d without the ending of a picture, the first is %s", folder, len(strange), strange[0]
        )
    return found


def every_picture(images: "str | os.PathLike[str] | Iterable[ImageSource]") -> Iterator[ImageSource]:
    """The pictures that were given, and in the place of a folder those in it.

    Raises:
        ImageError: the argument is one picture, or a folder holds none.
    """
    if isinstance(images, (str, os.PathLike)) and os.path.isdir(images):
        return iter(pictures_in(Path(images)))
    if isinstance(images, (str, os.PathLike)) or _is_one(images):
        raise ImageError("expected several pictures, found one: pass a list of pictures or a folder, or call analyze")
    if not isinstance(images, Iterable):
        raise ImageError(f"expected a list of pictures or a folder, found {type(images).__name__}")
    return chain.from_iterable(map(_pictures_of, images))


def _is_one(images: object) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim == 3 and images.shape[2] == 3
    return isinstance(images, (bytes, Image.Image)) or hasattr(images, "read")


def _pictures_of(image: ImageSource) -> Iterable[ImageSource]:
    if isinstance(image, (str, os.PathLike)) and os.path.isdir(image):
        return pictures_in(Path(image))
    return (image,)


@dataclass
class _Picture:
    """A picture in progress; its readings may complete in any order."""

    source: str
    size: tuple[int, int] = (0, 0)
    clock: Clock = field(default_factory=Clock)
    crops: list[tuple[FaceCrop, float | None]] = field(default_factory=list)
    readings: dict[int, Reading] = field(default_factory=dict)
    failure: str | None = None
    pixels: Pixels | None = None  # only where they are kept


def analyze_pictures(
    examiner: Examiner,
    images: Iterable[ImageSource],
    request: Request,
    *,
    color: Color | None,
    faces: Faces,
    slots: int,
    keep_going: bool,
) -> Iterator[Analysis]:
    """Yield analyses in the order of the pictures, each as soon as it and all earlier ones are complete.

    Args:
        color: channel order of the arrays with three channels.
        slots: number of faces that are decoded at once.
        keep_going: for a picture that cannot be read, yield an Analysis with status "failed" instead of raising.
    """
    if examiner.pipeline.backend.decoder.batches:
        yield from _in_threads(examiner, images, request, color, faces, slots, keep_going)
        return
    waiting: deque[_Picture] = deque()

    def found() -> "Iterator[tuple[_Picture, int]]":
        for image in images:
            waiting.append(_open(examiner, image, color, faces, keep_going))
            yield from ((waiting[-1], index) for index in range(len(waiting[-1].crops)))

    with closing(examiner.pipeline.backend.decoder.new_pool(examiner.pipeline.capacity, slots)) as pool:
        for picture, index, reading in _Scheduler(examiner, request, pool).serve(found()):
            picture.readings[index] = reading
            while waiting and len(waiting[0].readings) == len(waiting[0].crops):
                yield _close(examiner, waiting.popleft(), request)
    yield from (_close(examiner, picture, request) for picture in waiting)


def _in_threads(
    examiner: Examiner,
    images: Iterable[ImageSource],
    request: Request,
    color: Color | None,
    faces: Faces,
    slots: int,
    keep_going: bool,
) -> Iterator[Analysis]:
    """Read each picture in its own thread, for a decoder that batches what several threads ask."""

    def analyse(image: ImageSource) -> Analysis:
        picture = _open(examiner, image, color, faces, keep_going)
        for index, (crop, _) in enumerate(picture.crops):
            picture.readings[index] = examiner.read(crop, request, picture.clock)
        return _close(examiner, picture, request)

    running: deque[Future[Analysis]] = deque()
    with ThreadPoolExecutor(slots) as threads:
        try:
            for image in images:
                running.append(threads.submit(analyse, image))
                if len(running) >= 2 * slots:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for each in running:
                each.cancel()


def _open(examiner: Examiner, image: ImageSource, color: Color | None, faces: Faces, keep_going: bool) -> _Picture:
    picture = _Picture(source_name(image))
    try:
        loaded = examiner.load(image, picture.clock, color if isinstance(image, np.ndarray) else None)
    except ImageError as error:
        if not keep_going:
            raise
        picture.failure = str(error)
    else:
        picture.size, picture.pixels = loaded.size, loaded.pixels if examiner.keep_image else None
        picture.crops = examiner.find(loaded.pixels, faces, picture.clock, loaded.shrink)
    return picture


def _close(examiner: Examiner, picture: _Picture, request: Request) -> Analysis:
    readings = [picture.readings[index] for index in range(len(picture.crops))]
    found = [
        examiner.face(index, crop, score, readings[index], request) for index, (crop, score) in enumerate(picture.crops)
    ]
    analysis = examiner.analysis(
        found, picture.size, picture.source, picture.clock, readings, request, pixels=picture.pixels
    )
    if picture.failure is None:
        return analysis
    return analysis.model_copy(update={"status": "failed", "warnings": (picture.failure,)})


@dataclass(eq=False)
class _Slot:
    """A face in the KV pool: its answers so far, the answer that is being decoded, and the tasks still to ask."""

    picture: _Picture
    index: int
    face: EncodedFace
    scores: Scores | None
    tasks: deque[Task]
    answers: dict[Task, Answer] = field(default_factory=dict)
    generation: Generation | None = None
    tokens: list[int] = field(default_factory=list)


class _Scheduler:
    """Continuous batching over the sequences of a pool; the face in slot i has cache i."""

    def __init__(self, examiner: Examiner, request: Request, pool: KVPool) -> None:
        self._examiner, self._request = examiner, request
        self._pipeline, self._decoder = examiner.pipeline, examiner.pipeline.backend.decoder
        self._pool, self._capacity = pool, len(pool.lengths)
        self._slots: list[_Slot] = []

    def serve(self, faces: "Iterator[tuple[_Picture, int]]") -> "Iterator[tuple[_Picture, int, Reading]]":
        while True:
            while len(self._slots) < self._capacity and (arrival := next(faces, None)):
                self._slots.append(self._slot(*arrival))
            if not self._slots:
                return
            for slot in self._slots:
                self._ask_next(slot)
            for slot in [slot for slot in self._slots if slot.generation is None]:
                yield slot.picture, slot.index, Reading(slot.face.features, slot.answers, slot.scores)
                self._release(slot)
            if self._slots:
                self._step()

    def _slot(self, picture: _Picture, index: int) -> _Slot:
        self._request.check_cancel()
        crop, _ = picture.crops[index]
        cache = self._pool.caches[len(self._slots)]
        face = self._pipeline.encode(crop, picture.clock, cache=cache)
        scores = self._examiner.score(face, self._request, picture.clock)
        return _Slot(picture, index, face, scores, deque(self._request.tasks))

    def _ask_next(self, slot: _Slot) -> None:
        """Read the questions of a slot until one has an answer to decode or none is left."""
        while slot.tasks and slot.generation is None:
            limit, cancel = self._request.max_new_tokens, self._request.cancel
            generation = self._pipeline.generate(slot.face, slot.tasks[0], limit, cancel=cancel, drafts=False)
            slot.generation, slot.tokens = generation, []
            with slot.picture.clock("question"):
                self._take(slot, next(generation, None))

    def _step(self) -> None:
        """Decode one more token for every slot."""
        start = time.perf_counter()
        pending = [slot.generation.pending[0] for slot in self._slots if slot.generation]
        logits = self._decoder.step(self._pool, self._decoder.embed(pending))
        for slot, row in zip(self._slots, logits, strict=True):
            if slot.generation:
                self._take(slot, slot.generation.accept(row))
        share = 1000 * (time.perf_counter() - start) / len(pending)
        for slot in self._slots:
            slot.picture.clock.elapsed_ms["decode"] += share

    def _take(self, slot: _Slot, token: int | None) -> None:
        if token is not None:
            slot.tokens.append(token)
        elif slot.generation:
            slot.answers[slot.tasks.popleft()] = self._pipeline.answer(slot.tokens, slot.generation.truncated)
            slot.generation = None

    def _release(self, slot: _Slot) -> None:
        """Free a slot; the face in the last slot moves there, so that the used slots stay consecutive."""
        row, last = self._slots.index(slot), self._slots.pop()
        if last is not slot:
            self._pool.copy(self._pool.caches[len(self._slots)], row)
            last.face.move_to(self._pool.caches[row])
            self._slots[row] = last
