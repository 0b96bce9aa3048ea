"""Many pictures at once: their faces share one KV pool, and every decode step serves all that are still being answered.

A decode step reads all weights of the model, however many rows it is given. A face that is done makes room for the next
at once (continuous batching), so short answers never wait for long ones. Every sequence has its own length and nothing
is padded: the answers are those of one-by-one decoding, on a GPU up to rounding where two tokens nearly tie.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sdk.arrays import Pixels
from sdk.errors import ImageError
from sdk.examine import Examiner, Faces, Reading, Request, Scores
from sdk.faba.prompts import Task
from sdk.faces.crop import FaceCrop
from sdk.faces.images import PICTURE_SUFFIXES, ImageSource, source_name
from sdk.results import Analysis
from sdk.runtime.backends.kv_cache import KVPool
from sdk.runtime.clock import Clock
from sdk.runtime.generate import Generation
from sdk.runtime.pipeline import Answer, EncodedFace


def pictures_in(folder: Path) -> list[Path]:
    """Every image file below a folder, by name.

    Raises:
        ImageError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not found:
        raise ImageError(f"{folder} holds no picture; expected files ending in {', '.join(sorted(PICTURE_SUFFIXES))}")
    return found


@dataclass
class _Picture:
    """A picture on its way; `readings` fills in any order."""

    source: str
    size: tuple[int, int] = (0, 0)
    clock: Clock = field(default_factory=Clock)
    crops: list[tuple[FaceCrop, float | None]] = field(default_factory=list)
    readings: dict[int, Reading] = field(default_factory=dict)
    failure: str | None = None


def analyze_pictures(
    examiner: Examiner,
    images: Iterable[ImageSource],
    request: Request,
    *,
    load: Callable[[ImageSource], Pixels],
    faces: Faces,
    seats: int,
    keep_going: bool,
) -> Iterator[Analysis]:
    """Analyses in the order of the pictures, each as soon as it and those before it are complete.

    Args:
        load: opens one of `images`.
        seats: faces that are decoded at once.
        keep_going: a picture that cannot be read becomes an Analysis with status "failed" instead of an error.
    """
    waiting: deque[_Picture] = deque()

    def found() -> "Iterator[tuple[_Picture, int]]":
        for image in images:
            waiting.append(_open(examiner, image, load, faces, keep_going))
            yield from ((waiting[-1], index) for index in range(len(waiting[-1].crops)))

    for picture, index, reading in _Table(examiner, request, seats).serve(found()):
        picture.readings[index] = reading
        while waiting and len(waiting[0].readings) == len(waiting[0].crops):
            yield _close(examiner, waiting.popleft(), request)
    yield from (_close(examiner, picture, request) for picture in waiting)


def _open(
    examiner: Examiner, image: ImageSource, load: Callable[[ImageSource], Pixels], faces: Faces, keep_going: bool
) -> _Picture:
    picture = _Picture(source_name(image))
    try:
        with picture.clock("load"):
            pixels = load(image)
    except ImageError as error:
        if not keep_going:
            raise
        picture.failure = str(error)
    else:
        picture.size = (pixels.shape[1], pixels.shape[0])
        picture.crops = examiner.find(pixels, faces, picture.clock)
    return picture


def _close(examiner: Examiner, picture: _Picture, request: Request) -> Analysis:
    readings = [picture.readings[index] for index in range(len(picture.crops))]
    found = [
        examiner.face(index, crop, score, readings[index], request) for index, (crop, score) in enumerate(picture.crops)
    ]
    analysis = examiner.analysis(found, picture.size, picture.source, picture.clock, readings, request)
    if picture.failure is None:
        return analysis
    return analysis.model_copy(update={"status": "failed", "warnings": (picture.failure,)})


@dataclass(eq=False)
class _Seat:
    """A face in the pool: what it was answered, what it is being answered, what is still to be asked."""

    picture: _Picture
    index: int
    face: EncodedFace
    scores: Scores | None
    tasks: deque[Task]
    answers: dict[Task, Answer] = field(default_factory=dict)
    generation: Generation | None = None
    tokens: list[int] = field(default_factory=list)


class _Table:
    """Serves faces at a limited number of seats; the face at seat i lives in cache i of the pool."""

    def __init__(self, examiner: Examiner, request: Request, seats: int) -> None:
        self._examiner, self._request, self._size = examiner, request, seats
        self._pipeline, self._decoder = examiner.pipeline, examiner.pipeline.backend.decoder
        self._pool: KVPool = self._decoder.new_pool(self._pipeline.capacity, seats)
        self._seats: list[_Seat] = []

    def serve(self, faces: "Iterator[tuple[_Picture, int]]") -> "Iterator[tuple[_Picture, int, Reading]]":
        while True:
            while len(self._seats) < self._size and (arrival := next(faces, None)):
                self._seats.append(self._seat(*arrival))
            if not self._seats:
                return
            for seat in self._seats:
                self._ask_next(seat)
            for seat in [seat for seat in self._seats if seat.generation is None]:
                yield seat.picture, seat.index, Reading(seat.face.features, seat.answers, seat.scores)
                self._leave(seat)
            if self._seats:
                self._step()

    def _seat(self, picture: _Picture, index: int) -> _Seat:
        self._request.check_cancel()
        crop, _ = picture.crops[index]
        cache = self._pool.caches[len(self._seats)]
        face = self._pipeline.encode(crop, picture.clock, cache=cache)
        scores = self._examiner.score(face, self._request, picture.clock)
        return _Seat(picture, index, face, scores, deque(self._request.tasks))

    def _ask_next(self, seat: _Seat) -> None:
        """Read questions until one has an answer to decode or none is left."""
        while seat.tasks and seat.generation is None:
            limit, cancel = self._request.max_new_tokens, self._request.cancel
            generation = self._pipeline.generate(seat.face, seat.tasks[0], limit, cancel=cancel, drafts=False)
            seat.generation, seat.tokens = generation, []
            with seat.picture.clock("question"):
                self._take(seat, next(generation, None))

    def _step(self) -> None:
        """One more token for everyone."""
        start = time.perf_counter()
        pending = [seat.generation.pending[0] for seat in self._seats if seat.generation]
        logits = self._decoder.step(self._pool, self._decoder.embed(pending))
        for seat, row in zip(self._seats, logits, strict=True):
            if seat.generation:
                self._take(seat, seat.generation.accept(row))
        share = 1000 * (time.perf_counter() - start) / len(pending)
        for seat in self._seats:
            seat.picture.clock.elapsed_ms["decode"] += share

    def _take(self, seat: _Seat, token: int | None) -> None:
        if token is not None:
            seat.tokens.append(token)
        elif seat.generation:
            seat.answers[seat.tasks.popleft()] = self._pipeline.answer(seat.tokens, seat.generation.truncated)
            seat.generation = None

    def _leave(self, seat: _Seat) -> None:
        """Free the seat; whoever sits last moves there."""
        row, last = self._seats.index(seat), self._seats.pop()
        if last is not seat:
            self._pool.move(len(self._seats), row)
            last.face.move_to(self._pool.caches[row])
            self._seats[row] = last
