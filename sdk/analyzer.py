"""The front door: pictures in, explained faces out."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sdk.arrays import Floats, Pixels
from sdk.bundles.hub import resolve_bundle
from sdk.bundles.manifest import Manifest, Variant, read_manifest
from sdk.errors import BackendError, DependencyError, ImageError, TaskError, VideoError
from sdk.examine import Asked, Examiner, Faces, Request
from sdk.faba.prompts import TASKS
from sdk.faces.detect import Detector
from sdk.faces.images import ImageSource, load_image, source_name
from sdk.options import BatchOptions, Color, FaceOptions, VideoOptions
from sdk.results import Analysis
from sdk.runtime.backends.gptq_cuda.backend import GptqBackend
from sdk.runtime.backends.ort import OrtBackend, check_device
from sdk.runtime.backends.tensorrt import ENGINES, TensorRTBackend
from sdk.runtime.clock import Clock
from sdk.runtime.memory import Memory, within_memory
from sdk.runtime.pipeline import EncodedFace, Pipeline
from sdk.runtime.pruning import with_visual_tokens

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sdk.frames import VideoSource

DEVICES = ("auto", "cpu", "cuda", "tensorrt")

logger = logging.getLogger(__name__)


class Analyzer:
    """Finds the faces of a picture and explains the emotion and the action units of each.

    One Analyzer may be used from several threads at once: every call has a KV cache of its own, the weights are shared.
    `close` must come last.

    Args:
        bundle: folder of a sealed bundle ("./a/b" is never taken for a name); "owner/name" or "owner/name@revision" of
            the Hugging Face hub; None takes the one embedded in the package.
        device: "auto", "cpu", "cuda" for a variant of `emola export --cuda` or `--keep-gptq`, or "tensorrt" for the
            engines that `emola engines` built.
        detector: "auto" (the bundle's own, or dlib), the path of a SCRFD .onnx file, or an object with `detect` (see
            `sdk.faces.detect`).
        offline: never touch the network, as HF_HUB_OFFLINE=1 does; without it only a bundle by name does.
        scores: probabilities of every label with every analysis.
        abstain_below: probability in 0..1 that a label must reach to be given; needs scores.
        memory_limit: bytes that weights and KV caches may take; fewer faces are decoded at once to keep it.
        visual_tokens: rows of the picture that the decoder reads of each face, those nearest to brows, eyes, nose and
            mouth; None reads all. Fewer are faster, and the answers change: see docs/performance-pruning.md.

    Raises:
        BundleError: the bundle is missing, damaged or of another format, or cannot be downloaded.
        BackendError: no variant of it runs here, or not within the memory limit.
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
        self.manifest = with_visual_tokens(read_manifest(folder), visual_tokens)
        fitting = within_memory(self.manifest, memory_limit)
        backend = open_backend(folder, fitting, device, memory_limit=memory_limit)
        self._memory = Memory.of(self.manifest, backend.variant, backend.held_bytes)
        self._seats = self._memory.faces_within(memory_limit)
        self._pipeline = Pipeline(folder, self.manifest, backend)
        carried = self.manifest.detector if detector == "auto" else None
        self._examiner = Examiner(self._pipeline, folder / carried if carried else detector)
        self._scores, self._abstain_below, self._offline = scores, abstain_below, offline

    def analyze(
        self,
        image: ImageSource,
        *,
        tasks: Sequence[Asked] = TASKS,
        faces: Faces = "detect",
        color: Color | None = None,
        landmark_features: Floats | None = None,
        max_new_tokens: int | None = None,
        cancel: Event | None = None,
    ) -> Analysis:
        """Analyse one picture.

        Args:
            image: path, bytes, PIL image, or an (H, W, 3) uint8 array with `color`.
            tasks: any of "emotion", "action_units" and "labels"; "labels" alone gives label scores without words, for
                about forty short calls of the decoder.
            faces: "detect" finds them; "aligned" takes the whole picture as the crop of one face.
            color: channel order of an array: "rgb" or "bgr" (OpenCV).
            landmark_features: (212,) features of an aligned face, for bundles without a landmark network.
            max_new_tokens: limit of each answer; None takes the bundle's.
            cancel: set it, from any thread, to stop within one token.

        Returns:
            An Analysis; a picture without a face gives an empty one with status "no_face".

        Raises:
            ImageError: the picture cannot be used.
            TaskError: unknown task.
            CancelledError: `cancel` was set.
        """
        clock, request = Clock(), self._request(tasks, max_new_tokens, cancel)
        if landmark_features is not None:
            landmark_features = _check_features(landmark_features, faces)
        with clock("load"):
            pixels = load_image(image, color=color)
        found, readings = [], []
        for index, (crop, score) in enumerate(self._examiner.find(pixels, faces, clock)):
            readings.append(self._examiner.read(crop, request, clock, landmark_features))
            found.append(self._examiner.face(index, crop, score, readings[-1], request))
        size = (pixels.shape[1], pixels.shape[0])
        return self._examiner.analysis(found, size, source_name(image), clock, readings, request)

    def analyze_batch(self, images: Iterable[ImageSource], **options: "Unpack[BatchOptions]") -> list[Analysis]:
        """Analyse pictures together: several faces are decoded at once.

        On a CPU the results are those of one-by-one. On a GPU sums are rounded otherwise, and an answer can change
        where two tokens are all but equally probable.

        Args:
            images: any iterable; read as it is needed.
            options: see `BatchOptions`.

        Returns:
            One Analysis per picture, in order.
        """
        return list(self.iterate_batch(images, **options))

    def iterate_batch(self, images: Iterable[ImageSource], **options: "Unpack[BatchOptions]") -> Iterator[Analysis]:
        """`analyze_batch`, each Analysis as soon as it and those before it are complete."""
        from sdk.batch import analyze_pictures

        _check_several(images)
        seats, color = options.get("batch_size", 8), options.get("color")
        if seats < 1:
            raise TaskError(f"batch_size must be at least 1, not {seats}")

        def load(image: ImageSource) -> Pixels:
            return load_image(image, color=color)

        return analyze_pictures(
            self._examiner,
            images,
            self._request(options.get("tasks", TASKS), options.get("max_new_tokens"), options.get("cancel")),
            load=load,
            faces=options.get("faces", "detect"),
            seats=min(seats, self._seats),
            keep_going=options.get("keep_going", False),
        )

    def analyze_video(self, source: "VideoSource", **options: "Unpack[VideoOptions]") -> Iterator[Analysis]:
        """Analyse a video or a camera; faces keep their ids, and a face is read again only when it has changed.

        Args:
            source: path of a video, number of a camera (0 is the first), or a URL such as rtsp://...
            options: see `VideoOptions`.

        Yields:
            One Analysis per analysed frame, with `frame` set; the `id` of a face is the number of its track.

        Raises:
            VideoError: the source cannot be opened or read, has no frame, or changes its frame size.
        """
        return (analysis for _, analysis in self.watch(source, **options))

    def watch(self, source: "VideoSource", **options: "Unpack[VideoOptions]") -> "Iterator[tuple[Pixels, Analysis]]":
        """`analyze_video` together with the frames: (H, W, 3) uint8 RGB."""
        from sdk.frames import is_url
        from sdk.video import Freshness, watch

        if self._offline and is_url(source):
            raise VideoError(f"{source} is on the network, and this Analyzer was opened with offline=True")
        return watch(
            self._examiner,
            source,
            self._request(options.get("tasks", TASKS), options.get("max_new_tokens"), options.get("cancel")),
            options.get("freshness") or Freshness(),
            sample_fps=options.get("sample_fps"),
            deadline_s=options.get("deadline_s"),
        )

    def ask(self, image: ImageSource, question: str, **options: "Unpack[FaceOptions]") -> str:
        """The answer to a question of your own about the most prominent face of a picture.

        Raises:
            ImageError: the picture cannot be used or shows no face.
            TaskError: the question is empty or too long.
            CancelledError: `cancel` was set.
        """
        return "".join(self.stream(image, question, **options)).strip()

    def stream(self, image: ImageSource, question: str, **options: "Unpack[FaceOptions]") -> Iterator[str]:
        """Like `ask`, piece by piece as the words are decoded; `question` may also be the name of a task."""
        self._pipeline.question_ids(question)
        with self._encode_largest(image, options.get("faces", "detect"), options.get("color")) as face:
            yield from self._pipeline.stream(face, question, cancel=options.get("cancel"))

    def warmup(self) -> dict[str, float]:
        """Run every stage once, so that the first analysis is as fast as the others.

        Returns:
            Milliseconds per stage.
        """
        grey = np.full((256, 256, 3), 127, np.uint8)
        clock, request = Clock(), self._request((*TASKS, "labels"), 2, None)
        self._examiner.find(grey, "detect", clock)
        ((crop, _),) = self._examiner.find(grey, "aligned", clock)
        features = None if self.manifest.landmark else np.zeros(212, np.float32)
        self._examiner.read(crop, request, clock, features)
        return dict(clock.elapsed_ms)

    def info(self) -> dict[str, Any]:
        """What is open: model, backend, notice, intended use, licences, bytes of memory, and the measured figures."""
        manifest, memory = self.manifest.model_dump(mode="json"), asdict(self._memory)
        parts = ("intended_use", "licences", "parity", "calibration", "provenance", "environment")
        return {**self._examiner.model.model_dump(), "memory": memory, **{part: manifest[part] for part in parts}}

    def close(self) -> None:
        """Free the model's memory; the Analyzer cannot be used afterwards."""
        for part in ("_pipeline", "_examiner"):
            self.__dict__.pop(part, None)

    def __getattr__(self, name: str) -> Any:
        if name in ("_pipeline", "_examiner"):  # asked for here only once `close` has taken them away
            raise BackendError("this Analyzer was closed; open another")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __enter__(self) -> "Analyzer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _request(self, tasks: Sequence[Asked], max_new_tokens: int | None, cancel: Event | None) -> Request:
        request = self._examiner.request(
            tasks, self._scores, max_new_tokens=max_new_tokens, abstain_below=self._abstain_below, cancel=cancel
        )
        if self._abstain_below and not request.scores:
            raise TaskError("abstain_below needs label scores: pass scores=True, or ask for the task 'labels'")
        return request

    def _encode_largest(
        self,
        image: ImageSource,
        faces: Faces,
        color: Color | None,
        clock: Clock | None = None,
        landmark_features: Floats | None = None,
    ) -> EncodedFace:
        clock = clock or Clock()
        crops = [crop for crop, _ in self._examiner.find(load_image(image, color=color), faces, clock)]
        if not crops:
            raise ImageError("no face was found; for a picture that is a face crop already, pass faces='aligned'")
        return self._pipeline.encode(max(crops, key=lambda crop: crop.pixels.size), clock, landmark_features)


def open_backend(
    bundle: Path,
    manifest: Manifest,
    device: str = "auto",
    threads: int | None = None,
    memory_limit: int | None = None,
) -> OrtBackend:
    """Open the first variant of a bundle that runs on this machine, and log which.

    Args:
        memory_limit: bytes that a backend may take, where it could take more than the files say.

    Raises:
        BackendError: lists why each variant was refused.
    """
    if device not in DEVICES:
        raise BackendError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    refused = []
    for variant in manifest.variants:
        for kind in _kinds(bundle, variant, device, memory_limit):
            try:
                if variant.backend == "ort":
                    check_device(variant.device)
                backend = kind(bundle, manifest, variant, threads)
            except (BackendError, DependencyError) as error:
                refused.append(f"{variant.name}: {error}")
            else:
                logger.info("opened %s on %s", bundle, "; not on ".join([backend.variant.name, *refused]))
                return backend
    if not refused:
        names = ", ".join(variant.name for variant in manifest.variants)
        raise BackendError(
            f"{names}: no variant for device {device!r}; `emola export` adds one for NVIDIA GPUs with --cuda or "
            "--keep-gptq"
        )
    raise BackendError("no variant of this bundle runs here; " + "; ".join(refused))


def _kinds(
    bundle: Path, variant: Variant, device: str, memory_limit: int | None
) -> tuple[Callable[..., OrtBackend], ...]:
    """What may open a variant, in the order to try."""
    if variant.backend == "gptq_cuda":
        return (partial(GptqBackend, memory_limit=memory_limit),) if device in ("auto", "cuda") else ()
    if device == "tensorrt":
        return (TensorRTBackend,)
    if device == "auto":
        return (TensorRTBackend, OrtBackend) if (bundle / ENGINES).is_dir() else (OrtBackend,)
    return (OrtBackend,) if variant.device == device else ()


def _check_several(images: Iterable[ImageSource]) -> None:
    one = isinstance(images, (str, os.PathLike, bytes, Image.Image))
    if one or (isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] == 3):
        raise ImageError("expected several pictures, found one: pass a list of them, or call analyze")


def _check_features(features: Floats, faces: Faces) -> Floats:
    if faces != "aligned":
        raise ImageError("landmark_features describe one face: they need faces='aligned'")
    if np.shape(features) != (212,):
        raise ImageError(f"landmark_features must have shape (212,), found {np.shape(features)}")
    return np.asarray(features, np.float32)
