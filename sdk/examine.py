"""Examine one face at a time: requests, readings, and the records made from them."""

import operator
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any, Literal, TypeAlias

from sdk.arrays import Floats, Pixels
from sdk.errors import ImageError, TaskError
from sdk.faba.answers import ActionUnitReading, EmotionReading, action_unit, read_action_units, read_emotion
from sdk.faba.calibration import sharpen, sharpen_each
from sdk.faba.prompts import TASKS, Task
from sdk.faba.vocabulary import Emotion
from sdk.faces.crop import Box, FaceCrop, aligned_face, crop_face
from sdk.faces.detect import Detection, Detector, FaceLimits, open_detector
from sdk.faces.images import Color, ImageSource, Picture, load_picture
from sdk.faces.pose import eye_openness, head_pose, landmark_scheme
from sdk.ranges import COUNT
from sdk.results import Analysis, Face, FrameInfo, HeadPose, ModelInfo
from sdk.runtime.clock import Clock
from sdk.runtime.encoded_face import EncodedFace
from sdk.runtime.generate import check_cancel
from sdk.runtime.labels import LabelScorer
from sdk.runtime.pipeline import Answer, Pipeline

Faces = Literal["detect", "aligned"]
RequestedTask = Literal["emotion", "action_units", "labels"]
Tasks: TypeAlias = RequestedTask | Sequence[RequestedTask]


@dataclass(frozen=True)
class Request:
    """The questions about every face, and their limits.

    Attributes:
        tasks: questions that are answered in words, in this order.
        scores: also compute label scores; without tasks, label scores only.
        max_new_tokens: limit of each answer; None takes the limit of the bundle.
        abstain_below: probability in 0..1 below which a label is withheld; 0 gives every label.
        cancel: event that stops the analysis within one token.
    """

    tasks: tuple[Task, ...] = TASKS
    scores: bool = False
    max_new_tokens: int | None = None
    abstain_below: float = 0.0
    cancel: Event | None = None

    def check_cancel(self) -> None:
        """Raise CancelledError if `cancel` is set."""
        check_cancel(self.cancel)


@dataclass(frozen=True)
class Scores:
    """Probabilities in 0..1 of the emotions, which sum to 1, and of each action unit."""

    emotions: Mapping[Emotion, float]
    action_units: Mapping[int, float]


@dataclass(frozen=True)
class Reading:
    """What the model reads from one face.

    Attributes:
        features: (212,) outputs of the landmark network.
        answers: answer in words for each task.
        scores: label scores, or None if not requested.
    """

    features: Floats
    answers: Mapping[Task, Answer] = field(default_factory=dict)
    scores: Scores | None = None


class Examiner:
    """Finds faces and reads them. Several threads may use one Examiner: every call has its own KV cache.

    Args:
        pipeline: an opened bundle.
        detector: as in `open_detector`; opened on first use.
        limits: which detected faces are analysed; None is all.
        threads: of the detector, as in `open_detector`.
        max_pixels: largest picture, as in `sdk.faces.images.load_picture`.
        keep_image: keep the picture in every analysis.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        detector: "str | os.PathLike[str] | Detector",
        *,
        limits: FaceLimits | None = None,
        threads: int | None = None,
        max_pixels: int | None = None,
        keep_image: bool = False,
    ) -> None:
        self.pipeline, self.keep_image, self._max_pixels = pipeline, keep_image, max_pixels
        self._limits, self._threads = limits or FaceLimits(), threads
        self._scorer = LabelScorer(pipeline)
        self._detector_choice = detector
        self._detector: Detector | None = None
        self._detecting = threading.Lock()

    def request(
        self,
        tasks: Tasks,
        scores: bool,
        *,
        max_new_tokens: int | None = None,
        abstain_below: float = 0.0,
        cancel: Event | None = None,
    ) -> Request:
        """Check the options of an analysis and make a Request.

        Raises:
            TaskError: a task is unknown or not supported by this bundle, the limit is below 1, or there are no scores
                that `abstain_below` could be compared with.
        """
        COUNT.check("max_new_tokens", max_new_tokens, optional=True)
        if not isinstance(tasks, Iterable):
            raise TaskError(f"tasks must be the names of tasks, not {tasks!r}")
        tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        manifest, can_score = self.pipeline.manifest, self.pipeline.backend.decoder.scores
        questions = manifest.prompt.questions
        offered = (*questions, *["labels"] * (can_score and set(TASKS) <= set(questions)))
        for task in tasks:
            if task not in offered:
                raise TaskError(f"unknown task {task!r}; this bundle answers {' and '.join(map(repr, offered))}")
        if scores and not can_score:
            raise TaskError("label scores need the probabilities of all tokens: start vLLM with --max-logprobs -1")
        answered = [task for task in tasks if task != "labels"]
        if manifest.language:  # which lets a description say only what the list of units bears out
            answered.sort(key=lambda task: task != "action_units")
        scores = scores or "labels" in tasks
        if abstain_below and not scores:
            raise TaskError("abstain_below needs label scores: pass scores=True or request the task 'labels'")
        return Request(tuple(answered), scores, max_new_tokens, abstain_below, cancel)

    def load(self, image: ImageSource, clock: Clock, color: Color | None = None) -> Picture:
        """Read a picture; arguments and errors as in `sdk.faces.images.load_picture`."""
        with clock("load"):
            return load_picture(image, color=color, max_pixels=self._max_pixels)

    def find(self, pixels: Pixels, faces: Faces, clock: Clock, shrink: int = 1) -> list[tuple[FaceCrop, float | None]]:
        """Crop every face, from left to right; return each crop with its detection score.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            shrink: pixels of the file per pixel, see `sdk.faces.images.Picture`.
        """
        scale = self.pipeline.manifest.preprocessing.face_scale
        if faces == "aligned":
            return [(replace(aligned_face(pixels, scale), shrink=shrink), None)]
        if faces != "detect":
            raise TaskError(f"faces must be 'detect' or 'aligned', not {faces!r}")
        with clock("detect"):
            found = self._limits.choose(self.detect(pixels), shrink)
        crops = self.cut(pixels, [face.box_xyxy for face in found], clock, shrink)
        return [(crop, face.score) for crop, face in zip(crops, found, strict=True)]

    def cut(self, pixels: Pixels, boxes: Sequence[Box], clock: Clock, shrink: int = 1) -> list[FaceCrop]:
        """Crop the faces at boxes of the detector; arguments as in `find`."""
        scale = self.pipeline.manifest.preprocessing.face_scale
        extent = self._detector.box_extent if self._detector else 1.0
        with clock("crop"):
            return [replace(crop_face(pixels, box, scale, extent), shrink=shrink) for box in boxes]

    def searched_pixels(self, height: int, width: int) -> float:
        """Pixels of a picture of H x W that the detector, once it is open, works on; detectors of users may not say."""
        counted = getattr(self._detector, "searched_pixels", operator.mul)
        return float(counted(height, width))

    def detect(self, pixels: Pixels) -> list[Detection]:
        """The faces that the detector finds in an (H, W, 3) uint8 RGB picture, before `limits` choose among them."""
        with self._detecting:  # detectors are not required to be thread-safe
            if self._detector is None:
                lowest, threads = self._limits.min_score, self._threads
                self._detector = open_detector(self._detector_choice, min_score=lowest, threads=threads)
            return self._detector.detect(pixels)

    def read(self, crop: FaceCrop, request: Request, clock: Clock, features: Floats | None = None) -> Reading:
        """Encode a face and answer all questions of a request."""
        request.check_cancel()
        with self.pipeline.encode(crop, clock, features) as face:
            answers = self.pipeline.ask_all(face, request.tasks, clock, request.max_new_tokens, request.cancel)
            return Reading(face.features, answers, self.score(face, request, clock))

    def encode_largest(
        self, pixels: Pixels, faces: Faces, clock: Clock, features: Floats | None = None, shrink: int = 1
    ) -> EncodedFace:
        """Encode the most prominent face of a picture.

        Args:
            pixels, shrink: as in `find`.
            features: (212,) landmark features, for bundles without a landmark network.

        Raises:
            ImageError: no face was found.
        """
        crops = self.find(pixels, faces, clock, shrink)
        return self.pipeline.encode(crops[most_prominent(crops)][0], clock, features)

    def score(self, face: EncodedFace, request: Request, clock: Clock) -> Scores | None:
        """Label scores of an encoded face at the temperature of the bundle, or None if not requested."""
        if not request.scores:
            return None
        with clock("labels"):
            emotions = self._scorer.emotions(face, cancel=request.cancel)
            units = self._scorer.action_units(face, cancel=request.cancel)
        return Scores(
            sharpen(emotions, *self._calibration("emotion")), sharpen_each(units, *self._calibration("action_units"))
        )

    def _calibration(self, task: Task) -> tuple[float, int | None]:
        """The temperature of a task, and the number of faces that it was fitted to."""
        found = self.pipeline.manifest.calibration_of(task)
        return (found.temperature, found.samples) if found else (1.0, None)

    def face(
        self,
        index: int,
        crop: FaceCrop,
        score: float | None,
        reading: Reading,
        request: Request,
        age_ms: float | None = None,
    ) -> tuple[Face, list[str]]:
        """Make the record of a face, and the warnings about it."""
        points = self.pipeline.landmarks(reading.features, crop)
        emotion, doubts = _emotion(reading, request)
        units = reading.answers.get("action_units")
        scores = reading.scores
        face = Face(
            id=index,
            box_xyxy=crop.box_in_file,
            detection_score=score,
            landmarks=None if points is None else tuple(map(tuple, points.tolist())),
            emotion=emotion,
            action_units=_units(reading, request),
            action_units_text=units.text if units else None,
            action_unit_scores={f"AU{code}": p for code, p in scores.action_units.items()} if scores else None,
            age_ms=age_ms,
            **({} if points is None else self._geometry(points)),
        )
        cut = [
            f"the {task} answer was cut off after {len(answer.token_ids)} tokens"
            for task, answer in reading.answers.items()
            if answer.truncated
        ]
        return face, [f"face {index}: {warning}" for warning in (*cut, *doubts)]

    def _geometry(self, points: Floats) -> dict[str, Any]:
        """Fields of a face that are computed from its (106, 2) landmarks."""
        scheme = landmark_scheme(self.pipeline.manifest.preprocessing)
        pose = head_pose(points, scheme) if scheme else None
        turned = HeadPose(yaw=pose[0], pitch=pose[1], roll=pose[2]) if pose else None
        return {"head_pose": turned, "eye_openness": eye_openness(points, scheme) if scheme else None}

    def analysis(
        self,
        found: Sequence[tuple[Face, list[str]]],
        size: tuple[int, int],
        source: str,
        clock: Clock,
        readings: Sequence[Reading],
        request: Request,
        frame: FrameInfo | None = None,
        pixels: Pixels | None = None,
    ) -> Analysis:
        """Make the record of a picture.

        Args:
            found: the faces and the warnings about each.
            size: width and height of the picture in pixels.
            readings: readings that were made for this picture; its decoding speed is computed from them.
            pixels: (H, W, 3) uint8 RGB: the picture, which is kept if this Examiner keeps pictures.
        """
        tokens = sum(max(len(a.token_ids) - 1, 0) for reading in readings for a in reading.answers.values())
        decode_ms = clock.elapsed_ms.get("decode", 0.0)
        cut = any(answer.truncated for reading in readings for answer in reading.answers.values())
        calibrated = all(self.pipeline.manifest.temperature(task) for task in TASKS)
        analysis = Analysis(
            faces=tuple(face for face, _ in found),
            image_size=size,
            source=source,
            model=self.model,
            timing_ms=dict(clock.elapsed_ms),
            tokens_per_second=1000 * tokens / decode_ms if tokens and decode_ms else None,
            status="no_face" if not found else "truncated" if cut else "ok",
            warnings=tuple(warning for _, warnings in found for warning in warnings),
            score_calibration=("temperature" if calibrated else "uncalibrated") if request.scores else None,
            frame=frame,
        )
        return analysis if pixels is None or not self.keep_image else analysis.with_picture(pixels)

    @property
    def model(self) -> ModelInfo:
        manifest = self.pipeline.manifest
        backend = self.pipeline.backend.name
        return ModelInfo(name=manifest.name, digest=manifest.digest, backend=backend, notice=self.pipeline.notice)


def most_prominent(crops: Sequence[tuple[FaceCrop, float | None]]) -> int:
    """The index of the largest crop that `Examiner.find` returned.

    Raises:
        ImageError: there is none.
    """
    if not crops:
        raise ImageError("no face was found; if the picture is the crop of a face, pass faces='aligned'")
    return max(range(len(crops)), key=lambda index: crops[index][0].pixels.size)


def _emotion(reading: Reading, request: Request) -> tuple[EmotionReading | None, list[str]]:
    """Take the label from the words, or without words the most probable one. Withhold it below the limit."""
    answer, scores = reading.answers.get("emotion"), reading.scores
    if answer is None and (scores is None or request.tasks):
        return None, []
    if scores is None:
        return read_emotion(answer.text) if answer else None, []
    best = max(scores.emotions, key=lambda emotion: scores.emotions[emotion])
    reading_of_words = read_emotion(answer.text) if answer else EmotionReading(label=best, description="")
    label, warnings = reading_of_words.label, []
    if label and label != best:
        shares = f"{scores.emotions[best]:.2f} to {scores.emotions[label]:.2f}"
        warnings.append(f"the words say {label}, the label scores prefer {best} ({shares})")
    share = scores.emotions[label] if label else 0.0
    update: dict[str, object] = {"scores": dict(scores.emotions)}
    if label and share < request.abstain_below:
        warnings.append(f"{label} has a score of {share:.2f}, below {request.abstain_below:.2f}: no label is given")
        update["label"] = None
    return reading_of_words.model_copy(update=update), warnings


def _units(reading: Reading, request: Request) -> tuple[ActionUnitReading, ...] | None:
    """Take the units from the words, or without words those that the scores decide clearly enough."""
    answer, scores = reading.answers.get("action_units"), reading.scores
    if answer:
        return tuple(read_action_units(answer.text))
    if scores is None or request.tasks:
        return None
    sure = max(request.abstain_below, 0.5)
    return tuple(
        action_unit(code, share >= 0.5) for code, share in scores.action_units.items() if max(share, 1 - share) >= sure
    )
