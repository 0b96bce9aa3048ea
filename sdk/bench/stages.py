"""Time an analysis round by round: first `Analyzer.analyze`, then the same face again, stage by stage."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sdk.analyzer import Analyzer
from sdk.arrays import Pixels
from sdk.bench.report import CONTROL
from sdk.errors import BackendError, ImageError
from sdk.examine import Faces
from sdk.faba.answers import read_action_units, read_emotion
from sdk.faces.images import load_image
from sdk.faces.preprocess import LANDMARK_FEATURES
from sdk.results import Analysis
from sdk.runtime.clock import Clock
from sdk.runtime.encoded_face import EncodedFace

STAGES = ("load", "detect", "crop", "landmark", "vision", "prefill", "question", "step", "parse", "analyze", CONTROL)
_STEPS = 32


class Bench:
    """Times an opened Analyzer on one picture.

    Args:
        analyzer: an opened bundle.
        picture: path of the picture; its most prominent face is used for the stages.
        aligned: take the whole picture as the crop of one face.

    Attributes:
        rounds: stage -> milliseconds of every visit, by round.
        tokens_per_second: decoding speed of `analyze`, one value per round.

    Raises:
        ImageError: no face was found.
    """

    def __init__(self, analyzer: Analyzer, picture: Path, *, aligned: bool = False) -> None:
        self._analyzer, self._picture = analyzer, picture
        self._features = None if analyzer.manifest.landmark else np.zeros(LANDMARK_FEATURES, np.float32)
        self._faces: Faces = "aligned" if aligned or self._features is not None else "detect"
        self.rounds: defaultdict[str, list[tuple[float, ...]]] = defaultdict(list)
        self.tokens_per_second: list[float] = []
        self._numbers = np.random.default_rng(0).random(200_000)
        self._expected = self._analyze()  # also warms up
        if not self._expected.faces:
            raise ImageError(f"{picture}: no face was found; if it is the crop of one face, use --faces aligned")

    def round(self) -> None:
        """Time every stage once, and the decode step 32 times.

        Raises:
            BackendError: the answers differ from those of the first analysis.
        """
        clock, visits = Clock(), defaultdict[str, list[float]](list)

        @contextmanager
        def timed(stage: str) -> Iterator[None]:
            begin = time.perf_counter()
            yield
            visits[stage].append(1000 * (time.perf_counter() - begin))

        self._control(timed)
        with timed("analyze"):
            analysis = self._analyze()
        if analysis.faces != self._expected.faces:
            raise BackendError("the answers about the same picture changed between rounds; nothing was measured")
        if analysis.tokens_per_second:
            self.tokens_per_second.append(analysis.tokens_per_second)
        with timed("load"):
            pixels = load_image(self._picture)
        with self._encode(pixels, clock) as face:
            self._decode(face, timed)
        with timed("parse"):
            for found in analysis.faces:
                read_emotion(found.emotion.description if found.emotion else "")
                read_action_units(found.action_units_text or "")
        self._control(timed)
        for stage in STAGES:
            if stage in visits or stage in clock.elapsed_ms:
                self.rounds[stage].append(tuple(visits.get(stage, [clock.elapsed_ms.get(stage, 0.0)])))

    def step_for(self, seconds: float) -> int:
        """Run decode steps without pause for at least this many seconds; return their number."""
        decoder, end = self._analyzer.pipeline.backend.decoder, time.perf_counter() + seconds
        count = 0
        with self._encode(load_image(self._picture), Clock()) as face:
            row = decoder.embed([1])
            while time.perf_counter() < end:
                cache = face.rewind()
                for _ in range(min(_STEPS, cache.capacity - cache.length)):
                    decoder.extend(cache, row)
                    count += 1
        return count

    def _control(self, timed: Callable[[str], Any]) -> None:
        """Time the control, which is the same work in every run, to measure the current speed of the machine.

        It uses one thread: BLAS threads would wait for cores on which threads of ONNX Runtime still spin.
        """
        for _ in range(3):
            with timed(CONTROL):
                np.sort(self._numbers)

    def _analyze(self) -> Analysis:
        return self._analyzer.analyze(self._picture, faces=self._faces, landmark_features=self._features)

    def _encode(self, pixels: Pixels, clock: Clock) -> EncodedFace:
        return self._analyzer.examiner.encode_largest(pixels, self._faces, clock, self._features)

    def _decode(self, face: EncodedFace, timed: Callable[[str], Any]) -> None:
        """Time the first token of every question, then decode steps, by direct calls of the decoder."""
        pipeline = self._analyzer.pipeline
        decoder = pipeline.backend.decoder
        for task in pipeline.manifest.prompt.questions:
            cache = face.rewind()
            with timed("question"):
                token = int(decoder.extend(cache, decoder.embed(pipeline.question_ids(task)))[-1].argmax())
        for _ in range(min(_STEPS, cache.capacity - cache.length)):
            with timed("step"):
                token = int(decoder.extend(cache, decoder.embed([token]))[-1].argmax())
