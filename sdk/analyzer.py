"""The public interface: it takes pictures and returns explained faces."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sdk.arrays import Floats, Pixels
from sdk.bundles.hub import resolve_bundle
from sdk.bundles.manifest import read_manifest
from sdk.errors import BackendError, ImageError, TaskError, VideoError
from sdk.examine import Examiner, Faces, Request, RequestedTask
from sdk.faba.prompts import TASKS
from sdk.faces.detect import Detector
from sdk.faces.images import Color, ImageSource, load_image, load_picture, source_name
from sdk.faces.preprocess import LANDMARK_FEATURES
from sdk.results import Analysis
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.memory import Memory
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.pruning import rows_to_read

if TYPE_CHECKING:
    from sdk.frames import VideoSource
    from sdk.video import Freshness


class Analyzer:
    """Finds the faces of a picture and explains the emotion and the action units of each.

    Several threads may use one Analyzer at once: every call has its own KV cache, and the weights are shared. Call
    `close` last.

    Args:
        bundle: folder of a sealed bundle; "owner/name" or "owner/name@revision" of the Hugging Face hub ("./a/b" is
            always a folder); None takes the bundle embedded in the package.
        device: "auto", "cpu", "cuda" for a variant of `emola export --cuda` or `--keep-gptq`, "tensorrt" for the
            encoder engines that `emola engines` built, with the best decoder that runs here, or "openvino" for the
            decoder on OpenVINO, on an x86 CPU.
        detector: "auto" (the bundle's detector, or dlib), the path of a SCRFD .onnx file, or an object with `detect`
            (see `sdk.faces.detect`).
        offline: never use the network, as with HF_HUB_OFFLINE=1. Otherwise only a bundle of the hub uses it.
        scores: add the probability of every label to every analysis.
        abstain_below: probability in 0..1 below which a label is withheld; needs scores.
        memory_limit: bytes for weights and KV caches; fewer faces are decoded at once to stay within it.
        visual_tokens: number of picture rows that the decoder reads for each face: those nearest to brows, eyes, nose
            and mouth. None reads all. Fewer rows are faster and change the answers: see docs/performance-pruning.md.

    Attributes:
        manifest: manifest of the bundle, as it is on disk.
        examiner: the parts that do the work; for benchmarks and servers.

    Raises:
        BundleError: the bundle is missing, damaged, of another format, or cannot be downloaded.
        BackendError: no variant of the bundle runs here within the memory limit.
        TaskError: `abstain_below` or `visual_tokens` is out of range.
    """

    def __init__(
        self,
        bundle: "str | os.PathLike[str] | None" = None,
        *,
        device: str = "auto",
        detector: "str | os.PathLike[str] | Detector" = "auto",
        offline: bool = False,
        scores: bool = False,
        abstain_below: float = 0.0,
        memory_limit: int | None = None,
        visual_tokens: int | None = None,
    ) -> None:
        if not 0 <= abstain_below <= 1:
            raise TaskError(f"abstain_below is a probability in 0..1, not {abstain_below}")
        folder = resolve_bundle(bundle, offline=offline)
        self.manifest = read_manifest(folder)
        rows = rows_to_read(self.manifest.prompt.image_rows, visual_tokens)
        backend = open_backend(folder, self.manifest, device, memory_limit=memory_limit, image_rows=rows)
        self._memory = Memory.of(self.manifest, backend.variant, rows, backend.held_bytes)
        self._slots = self._memory.faces_within(memory_limit)
        carried = self.manifest.detector if detector == "auto" else None
        pipeline = Pipeline(folder, self.manifest, backend, visual_tokens)
        self.examiner = Examiner(pipeline, folder / carried if carried else detector)
        self._scores, self._abstain_below, self._offline = scores, abstain_below, offline

    @property
    def pipeline(self) -> Pipeline:
        """The opened bundle."""
        return self.examiner.pipeline

    def analyze(
        self,
        image: ImageSource,
        *,
        tasks: Sequence[RequestedTask] = TASKS,
        faces: Faces = "detect",
        color: Color | None = None,
        landmark_features: Floats | None = None,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
    ) -> Analysis:
        """Analyse one picture.

        Args:
            image: path, bytes, PIL image, or an (H, W, 3) uint8 array with `color`.
            tasks: any of "emotion", "action_units" and "labels"; "labels" alone gives label scores without words, in
                about forty short decoder calls.
            faces: "detect" finds the faces; "aligned" takes the whole picture as the crop of one face.
            color: channel order of an array: "rgb" or "bgr" (OpenCV).
            landmark_features: (212,) features of an aligned face, for bundles without a landmark network.
            max_new_tokens: limit of each answer; None takes the limit of the bundle.
            cancel: an event that any thread may set to stop the analysis within one token.

        Returns:
            An Analysis. Without a face it is empty and its status is "no_face".

        Raises:
            ImageError: the picture cannot be used.
            TaskError: a task is unknown.
            CancelledError: `cancel` was set.
        """
        clock, request = Clock(), self._request(tasks, max_new_tokens, cancel)
        if landmark_features is not None:
            landmark_features = _check_features(landmark_features, faces)
        with clock("load"):
            picture = load_picture(image, color=color)
        found, readings = [], []
        for index, (crop, score) in enumerate(self.examiner.find(picture.pixels, faces, clock, picture.shrink)):
            readings.append(self.examiner.read(crop, request, clock, landmark_features))
            found.append(self.examiner.face(index, crop, score, readings[-1], request))
        return self.examiner.analysis(found, picture.size, source_name(image), clock, readings, request)

    def analyze_batch(
        self,
        images: Iterable[ImageSource],
        *,
        tasks: Sequence[RequestedTask] = TASKS,
        faces: Faces = "detect",
        color: Color | None = None,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
        batch_size: int = 8,
        keep_going: bool = False,
    ) -> list[Analysis]:
        """Analyse pictures together: several faces are decoded at once.

        On a CPU the results equal those of `analyze`. A GPU adds numbers in another order, so an answer can differ
        where two tokens are almost equally probable.

        Args:
            images: any iterable; pictures are read when they are needed.
            tasks, faces, color, max_new_tokens, cancel: as in `analyze`.
            batch_size: number of faces that are decoded at once.
            keep_going: for a picture that cannot be read, return an Analysis with status "failed" and the reason in
                `warnings`, instead of raising ImageError.

        Returns:
            One Analysis per picture, in order.
        """
        return list(
            self.iterate_batch(
                images,
                tasks=tasks,
                faces=faces,
                color=color,
                max_new_tokens=max_new_tokens,
                cancel=cancel,
                batch_size=batch_size,
                keep_going=keep_going,
            )
        )

    def iterate_batch(
        self,
        images: Iterable[ImageSource],
        *,
        tasks: Sequence[RequestedTask] = TASKS,
        faces: Faces = "detect",
        color: Color | None = None,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
        batch_size: int = 8,
        keep_going: bool = False,
    ) -> Iterator[Analysis]:
        """Like `analyze_batch`, but yield each Analysis as soon as it and all earlier ones are complete."""
        from sdk.batch import analyze_pictures

        _check_several(images)
        if batch_size < 1:
            raise TaskError(f"batch_size must be at least 1, not {batch_size}")
        load = partial(load_picture, color=color)
        request, slots = self._request(tasks, max_new_tokens, cancel), min(batch_size, self._slots)
        return analyze_pictures(
            self.examiner, images, request, load=load, faces=faces, slots=slots, keep_going=keep_going
        )

    def analyze_video(
        self,
        source: "VideoSource",
        *,
        tasks: Sequence[RequestedTask] = TASKS,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
        sample_fps: float | None = None,
        deadline_s: float | None = None,
        freshness: "Freshness | None" = None,
    ) -> Iterator[Analysis]:
        """Analyse a video or a camera. Faces keep their ids, and the model reads a face again only when it changes.

        Args:
            source: path of a video, number of a camera (0 is the first), or a URL such as rtsp://...
            tasks, max_new_tokens, cancel: as in `analyze`.
            sample_fps: frames to analyse per second of video; None takes every frame.
            deadline_s: drop and count a frame that is more than this many seconds behind real time; None drops no
                frame of a file. Cameras and live streams always skip to the newest frame.
            freshness: thresholds for a changed face; None is `sdk.video.Freshness()`.

        Yields:
            One Analysis per analysed frame, with `frame` set. The `id` of a face is the number of its track.

        Raises:
            VideoError: the source cannot be opened or read, has no frame, or changes its frame size.
        """
        watched = self.watch(
            source,
            tasks=tasks,
            max_new_tokens=max_new_tokens,
            cancel=cancel,
            sample_fps=sample_fps,
            deadline_s=deadline_s,
            freshness=freshness,
        )
        return (analysis for _, analysis in watched)

    def watch(
        self,
        source: "VideoSource",
        *,
        tasks: Sequence[RequestedTask] = TASKS,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
        sample_fps: float | None = None,
        deadline_s: float | None = None,
        freshness: "Freshness | None" = None,
    ) -> "Iterator[tuple[Pixels, Analysis]]":
        """Like `analyze_video`, but yield each frame, (H, W, 3) uint8 RGB, with its Analysis."""
        from sdk.frames import is_url
        from sdk.video import watch

        if self._offline and is_url(source):
            raise VideoError(f"{source} needs the network, but this Analyzer was opened with offline=True")
        request = self._request(tasks, max_new_tokens, cancel)
        return watch(self.examiner, source, request, freshness=freshness, sample_fps=sample_fps, deadline_s=deadline_s)

    def ask(
        self,
        image: ImageSource,
        question: str,
        *,
        faces: Faces = "detect",
        color: Color | None = None,
        cancel: Event | None = None,
    ) -> str:
        """Answer any question about the most prominent face of a picture.

        Args:
            question: a question in words, or the name of a task.
            image, faces, color, cancel: as in `analyze`.

        Raises:
            ImageError: the picture cannot be used or shows no face.
            TaskError: the question is empty or too long.
            CancelledError: `cancel` was set.
        """
        return "".join(self.stream(image, question, faces=faces, color=color, cancel=cancel)).strip()

    def stream(
        self,
        image: ImageSource,
        question: str,
        *,
        faces: Faces = "detect",
        color: Color | None = None,
        cancel: Event | None = None,
    ) -> Iterator[str]:
        """Like `ask`, but yield the answer in pieces while it is decoded."""
        self.pipeline.question_ids(question)
        pixels = load_image(image, color=color)
        with self.examiner.encode_largest(pixels, faces, Clock()) as face:
            yield from self.pipeline.stream(face, question, cancel=cancel)

    def warmup(self) -> dict[str, float]:
        """Run every stage once, so that the first analysis is not slower; return milliseconds per stage."""
        grey = np.full((256, 256, 3), 127, np.uint8)
        clock, request = Clock(), self._request((*TASKS, "labels"), 2, None)
        self.examiner.find(grey, "detect", clock)
        ((crop, _),) = self.examiner.find(grey, "aligned", clock)
        features = None if self.manifest.landmark else np.zeros(LANDMARK_FEATURES, np.float32)
        self.examiner.read(crop, request, clock, features)
        return dict(clock.elapsed_ms)

    def info(self) -> dict[str, Any]:
        """Describe the open model: backend, notice, intended use, licences, bytes of memory, measured figures."""
        manifest, memory = self.manifest.model_dump(mode="json"), asdict(self._memory)
        parts = ("intended_use", "licences", "parity", "calibration", "provenance", "environment")
        return {**self.examiner.model.model_dump(), "memory": memory, **{part: manifest[part] for part in parts}}

    def close(self) -> None:
        """Free the memory of the model. The Analyzer cannot be used afterwards."""
        self.__dict__.pop("examiner", None)

    def __getattr__(self, name: str) -> Any:
        if name in ("examiner", "pipeline"):  # missing only after `close`
            raise BackendError("this Analyzer was closed; open a new one")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __enter__(self) -> "Analyzer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _request(self, tasks: Sequence[RequestedTask], max_new_tokens: int | None, cancel: Event | None) -> Request:
        request = self.examiner.request(
            tasks, self._scores, max_new_tokens=max_new_tokens, abstain_below=self._abstain_below, cancel=cancel
        )
        if self._abstain_below and not request.scores:
            raise TaskError("abstain_below needs label scores: pass scores=True or request the task 'labels'")
        return request


def _check_several(images: Iterable[ImageSource]) -> None:
    one = isinstance(images, (str, os.PathLike, bytes, Image.Image))
    if one or (isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] == 3):
        raise ImageError("expected several pictures, found one: pass a list of pictures, or call analyze")


def _check_features(features: Floats, faces: Faces) -> Floats:
    if faces != "aligned":
        raise ImageError("landmark_features belong to one aligned face: pass faces='aligned' as well")
    if np.shape(features) != (LANDMARK_FEATURES,):
        raise ImageError(f"landmark_features must have shape ({LANDMARK_FEATURES},), found {np.shape(features)}")
    return np.asarray(features, np.float32)
