"""The public interface: it takes pictures and returns explained faces."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.arrays import Floats, Pixels
from sdk.bundles.hub import resolve_bundle
from sdk.bundles.manifest import read_manifest
from sdk.errors import BackendError, VideoError
from sdk.examine import Examiner, Faces, Request, Tasks
from sdk.faba.prompts import TASKS
from sdk.faces.detect import Detector, FaceLimits
from sdk.faces.images import Color, ImageSource, source_name
from sdk.faces.preprocess import LANDMARK_FEATURES, check_features
from sdk.ranges import COUNT, SHARE, THREADS
from sdk.results import Analysis
from sdk.runtime.clock import Clock
from sdk.runtime.open import open_pipeline
from sdk.runtime.pipeline import Pipeline

if TYPE_CHECKING:
    from sdk.frames import VideoSource
    from sdk.video import Freshness


class Analyzer:
    """Finds the faces of a picture and explains the emotion and the action units of each.

    Several threads may use one Analyzer at once, with a KV cache for every call. Call `close` last.

    Args:
        bundle: folder of a sealed bundle; "owner/name" or "owner/name@revision" of the Hugging Face hub ("./a/b" is
            always a folder); None takes the bundle embedded in the package.
        device: "auto", "cpu", "cuda" for a variant of `emola export --cuda` or `--keep-gptq`, "tensorrt" for the
            encoder engines that `emola engines` built, with the best decoder that runs here, "openvino" for the
            decoder on OpenVINO, on an x86 CPU, "openvino-prefill" to read faces there and decode on ONNX Runtime.
        detector: "auto" (the bundle's detector, or that of the package), "dlib", the path of an .onnx file, or an
            object with `detect` (see `sdk.faces.detect`).
        offline: never use the network, as with HF_HUB_OFFLINE=1. Otherwise only a bundle of the hub uses it.
        scores: add the probability of every label to every analysis.
        abstain_below: probability in 0..1 below which a label is withheld; needs scores.
        memory_limit: bytes for weights and KV caches; fewer faces are decoded at once to stay within it.
        visual_tokens: number of picture rows that the decoder reads for each face: those nearest to brows, eyes, nose
            and mouth. None reads all. Fewer rows are faster and change the answers: see docs/performance.md.
        threads: threads of one operator on the CPU; None leaves the choice to ONNX Runtime.
        min_score, min_face, max_faces: which detected faces are analysed; see `sdk.faces.detect.FaceLimits`.
        max_pixels: limit on width x height of a picture; None is the one of `sdk.faces.images.load_picture`.
        keep_image: keep the picture in every analysis, so that `Analysis.plot` works without a file.
        vllm: for servers: address of a vLLM server that runs the bundle's decoder, or "local" for vLLM in this
            process; `device` is then that of the encoders, and an answer language has no effect. See docs/serving.md.

    Attributes:
        manifest: manifest of the bundle, as it is on disk.
        examiner: the parts that do the work; for benchmarks and servers.

    Raises:
        BundleError: the bundle is missing, damaged, of another format, or cannot be downloaded.
        BackendError: no variant of the bundle runs here within the memory limit.
        TaskError: a number is out of its range.
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
        threads: int | None = None,
        min_score: float | None = None,
        min_face: float = 0.0,
        max_faces: int | None = None,
        max_pixels: int | None = None,
        keep_image: bool = False,
        vllm: str | None = None,
    ) -> None:
        SHARE.check("abstain_below", abstain_below)
        THREADS.check("threads", threads, optional=True)
        COUNT.check("max_pixels", max_pixels, optional=True)
        limits = FaceLimits(min_score, min_face, max_faces)
        folder = resolve_bundle(bundle, offline=offline)
        self.manifest = read_manifest(folder)
        options: dict[str, Any] = {"threads": threads, "memory_limit": memory_limit, "visual_tokens": visual_tokens}
        pipeline, self._memory = open_pipeline(folder, self.manifest, device, **options, vllm=vllm)
        self._slots = self._memory.faces_within(memory_limit)
        carried = self.manifest.detector if detector == "auto" else None
        detector = folder / carried if carried else detector
        self.examiner = Examiner(
            pipeline, detector, limits=limits, threads=threads, max_pixels=max_pixels, keep_image=keep_image
        )
        self._scores, self._abstain_below, self._offline = scores, abstain_below, offline

    @property
    def pipeline(self) -> Pipeline:
        """The opened bundle."""
        return self.examiner.pipeline

    def analyze(
        self,
        image: ImageSource,
        *,
        tasks: Tasks = TASKS,
        faces: Faces = "detect",
        color: Color | None = None,
        landmark_features: Floats | None = None,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
    ) -> Analysis:
        """Analyse one picture. Without a face, the Analysis has no faces and its status is "no_face".

        Args:
            image: path, bytes, open binary file, PIL image, or an (H, W, 3) uint8 array with `color`.
            tasks: one or several of "emotion", "action_units" and "labels"; "labels" alone gives label scores without
                words, in about forty short decoder calls.
            faces: "detect" finds the faces; "aligned" takes the whole picture as the crop of one face.
            color: channel order of an array: "rgb" or "bgr" (OpenCV).
            landmark_features: (212,) features of an aligned face, for bundles without a landmark network.
            max_new_tokens: limit of each answer; None takes the limit of the bundle.
            cancel: an event that any thread may set to stop the analysis within one token.

        Raises:
            ImageError: the picture cannot be used.
            TaskError: a task is unknown.
            CancelledError: `cancel` was set.
        """
        clock, request = Clock(), self._request(tasks, max_new_tokens, cancel)
        landmark_features = check_features(landmark_features, faces)
        picture = self.examiner.load(image, clock, color)
        found, readings = [], []
        for index, (crop, score) in enumerate(self.examiner.find(picture.pixels, faces, clock, picture.shrink)):
            readings.append(self.examiner.read(crop, request, clock, landmark_features))
            found.append(self.examiner.face(index, crop, score, readings[-1], request))
        source, size, pixels = source_name(image), picture.size, picture.pixels
        return self.examiner.analysis(found, size, source, clock, readings, request, pixels=pixels)

    def analyze_batch(
        self,
        images: "str | os.PathLike[str] | Iterable[ImageSource]",
        *,
        tasks: Tasks = TASKS,
        faces: Faces = "detect",
        color: Color | None = None,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
        batch_size: int = 8,
        keep_going: bool = False,
    ) -> list[Analysis]:
        """Analyse pictures together: several faces are decoded at once.

        On a CPU the results equal those of `analyze`. A GPU rounds differently, which can change an answer.

        Args:
            images: pictures of any kind, read when they are needed, and paths of folders; or the path of one folder.
                Of a folder and its subfolders, files without the ending of a picture are skipped, with a log message;
                a folder without pictures is an ImageError.
            tasks, faces, max_new_tokens, cancel: as in `analyze`.
            color: channel order of the three-channel arrays among them: "rgb" or "bgr" (OpenCV).
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
        images: "str | os.PathLike[str] | Iterable[ImageSource]",
        *,
        tasks: Tasks = TASKS,
        faces: Faces = "detect",
        color: Color | None = None,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
        batch_size: int = 8,
        keep_going: bool = False,
    ) -> Iterator[Analysis]:
        """Like `analyze_batch`, but yield each Analysis as soon as it and all earlier ones are complete."""
        from sdk.batch import analyze_pictures, every_picture

        pictures = every_picture(images)
        COUNT.check("batch_size", batch_size)
        request, slots = self._request(tasks, max_new_tokens, cancel), min(batch_size, self._slots)
        return analyze_pictures(
            self.examiner, pictures, request, color=color, faces=faces, slots=slots, keep_going=keep_going
        )

    def analyze_video(
        self,
        source: "VideoSource",
        *,
        tasks: Tasks = TASKS,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
        sample_fps: float | None = None,
        deadline_s: float | None = None,
        freshness: "Freshness | None" = None,
        detect_every: int = 1,
    ) -> Iterator[Analysis]:
        """Analyse a video or a camera. Faces keep their ids, and the model reads a face again only when it changes.

        Args:
            source: path of a video, number of a camera (0 is the first), or a URL such as rtsp://...
            tasks, max_new_tokens, cancel: as in `analyze`.
            sample_fps: frames to analyse per second of video; None takes every frame.
            deadline_s: drop and count a frame that is more than this many seconds behind real time; None drops no
                frame of a file. Cameras and live streams always skip to the newest frame.
            freshness: thresholds for a changed face; None is `sdk.video.Freshness()`.
            detect_every: detect faces in every n-th analysed frame and where one is lost; follow them in the others.

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
            detect_every=detect_every,
        )
        return (analysis for _, analysis in watched)

    def watch(
        self,
        source: "VideoSource",
        *,
        tasks: Tasks = TASKS,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
        sample_fps: float | None = None,
        deadline_s: float | None = None,
        freshness: "Freshness | None" = None,
        detect_every: int = 1,
    ) -> "Iterator[tuple[Pixels, Analysis]]":
        """Like `analyze_video`, but yield each frame, (H, W, 3) uint8 RGB, with its Analysis."""
        from sdk.frames import is_url, read_frames
        from sdk.video import watch

        if self._offline and is_url(source):
            raise VideoError(f"{source} needs the network, but this Analyzer was opened with offline=True")
        request = self._request(tasks, max_new_tokens, cancel)
        frames = read_frames(source, sample_fps=sample_fps, deadline_s=deadline_s)
        return watch(self.examiner, frames, str(source), request, freshness, detect_every)

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

        A model that answers only the questions of its training, as the embedded one, warns of others (QuestionWarning).

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
        self.manifest.prompt.warn_unless_known(question, self.manifest.name)
        picture = self.examiner.load(image, clock := Clock(), color)
        with self.examiner.encode_largest(picture.pixels, faces, clock, shrink=picture.shrink) as face:
            yield from self.pipeline.stream(face, question, cancel=cancel)

    def warmup(self) -> dict[str, float]:
        """Run every stage once, so that the first analysis is not slower; return milliseconds per stage."""
        grey = np.full((256, 256, 3), 127, np.uint8)
        tasks: Tasks = (*TASKS, "labels") if self.pipeline.backend.decoder.scores else TASKS
        clock, request = Clock(), self._request(tasks, 2, None)
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
        if examiner := self.__dict__.pop("examiner", None):
            examiner.pipeline.backend.decoder.close()

    def __getattr__(self, name: str) -> Any:
        if name in ("examiner", "pipeline"):  # missing only after `close`
            raise BackendError("this Analyzer was closed; open a new one")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __enter__(self) -> "Analyzer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _request(self, tasks: Tasks, max_new_tokens: int | None, cancel: Event | None) -> Request:
        return self.examiner.request(
            tasks, self._scores, max_new_tokens=max_new_tokens, abstain_below=self._abstain_below, cancel=cancel
        )
