"""The front door: pictures in, explained faces out."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from sdk.bundles.manifest import Manifest, read_manifest
from sdk.errors import BackendError, BundleNotFoundError, DependencyError, ImageError, TaskError
from sdk.faba.answers import read_action_units, read_emotion
from sdk.faba.prompts import TASKS, Task
from sdk.faces.crop import FaceCrop, aligned_face, crop_face
from sdk.faces.detect import Detector, open_detector
from sdk.faces.images import ImageSource, Pixels, load_image
from sdk.results import Analysis, Face, ModelInfo
from sdk.runtime.backends.ort import Floats, OrtBackend
from sdk.runtime.backends.tensorrt import ENGINES, TensorRTBackend
from sdk.runtime.clock import Clock
from sdk.runtime.pipeline import Answer, EncodedFace, Pipeline

EMBEDDED = Path(__file__).parent / "assets" / "emola-nano"

Color = Literal["rgb", "bgr"]
Faces = Literal["detect", "aligned"]


class Analyzer:
    """Finds the faces of a picture and explains the emotion and the action units of each.

    Not thread-safe: use one Analyzer per thread.

    Args:
        bundle: folder of a sealed bundle; None takes the one embedded in the package.
        device: "auto", "cpu", or "tensorrt" for the engines that `emola engines` built.
        detector: "auto" (the bundle's own, or dlib), the path of a SCRFD .onnx file, or an object with `detect` (see
            `sdk.faces.detect`).
        offline: never touch the network; nothing does so yet, whatever this says.

    Raises:
        BundleError: the bundle is missing, damaged or of another format.
        BackendError: no variant of it runs here.
    """

    def __init__(
        self,
        bundle: "str | os.PathLike[str] | None" = None,
        *,
        device: str = "auto",
        detector: "str | os.PathLike[str] | Detector" = "auto",
        offline: bool = False,
    ) -> None:
        folder = bundle_folder(bundle)
        self.manifest = read_manifest(folder)
        self._pipeline = Pipeline(folder, self.manifest, open_backend(folder, self.manifest, device))
        carried = self.manifest.detector if detector == "auto" else None
        self._detector_choice = folder / carried if carried else detector
        self._detector: Detector | None = None

    def analyze(
        self,
        image: ImageSource,
        *,
        tasks: Sequence[Task] = TASKS,
        faces: Faces = "detect",
        color: Color | None = None,
        landmark_features: Floats | None = None,
        max_new_tokens: int | None = None,
    ) -> Analysis:
        """Analyse one picture.

        Args:
            image: path, bytes, PIL image, or an (H, W, 3) uint8 array with `color`.
            tasks: any of "emotion" and "action_units".
            faces: "detect" finds them; "aligned" takes the whole picture as the crop of one face.
            color: channel order of an array: "rgb" or "bgr" (OpenCV).
            landmark_features: (212,) features of an aligned face, for bundles without a landmark network.
            max_new_tokens: limit of each answer; None takes the bundle's.

        Returns:
            An Analysis; a picture without a face gives an empty one with status "no_face".

        Raises:
            ImageError: the picture cannot be used.
            TaskError: unknown task.
        """
        clock = Clock()
        for task in tasks:
            self._check_task(task)
        if landmark_features is not None:
            landmark_features = _check_features(landmark_features, faces)
        with clock("load"):
            pixels = load_image(image, color=color)
        answered: list[tuple[Face, list[str]]] = []
        for crop, score in self._crops(pixels, faces, clock):
            with self._pipeline.encode(crop, clock, landmark_features) as face:
                answers = {task: self._pipeline.ask(face, task, clock, max_new_tokens) for task in tasks}
                answered.append(_describe(len(answered), crop, score, self._pipeline.landmarks(face, crop), answers))
        return self._summarise(answered, pixels, image, clock)

    def ask(self, image: ImageSource, question: str, *, faces: Faces = "detect", color: Color | None = None) -> str:
        """The answer to a question of your own about the most prominent face of a picture.

        Raises:
            ImageError: the picture cannot be used or shows no face.
            TaskError: the question is empty or too long.
        """
        return "".join(self.stream(image, question, faces=faces, color=color)).strip()

    def stream(
        self, image: ImageSource, question: str, *, faces: Faces = "detect", color: Color | None = None
    ) -> Iterator[str]:
        """Like `ask`, piece by piece as the words are decoded; `question` may also be the name of a task."""
        self._pipeline.question_ids(question)
        with self._encode_largest(image, faces, color) as face:
            yield from self._pipeline.stream(face, question)

    def close(self) -> None:
        """Free the model's memory; the Analyzer cannot be used afterwards."""
        del self._pipeline

    def _check_task(self, task: str) -> None:
        offered = self.manifest.prompt.questions
        if task not in offered:
            raise TaskError(f"unknown task {task!r}; this bundle answers {' and '.join(map(repr, offered))}")

    def _encode_largest(self, image: ImageSource, faces: Faces, color: Color | None) -> EncodedFace:
        clock = Clock()
        crops = [crop for crop, _ in self._crops(load_image(image, color=color), faces, clock)]
        if not crops:
            raise ImageError("no face was found; for a picture that is a face crop already, pass faces='aligned'")
        return self._pipeline.encode(max(crops, key=lambda crop: crop.pixels.size), clock)

    def _crops(self, pixels: Pixels, faces: Faces, clock: Clock) -> list[tuple[FaceCrop, float | None]]:
        """Every face as a crop, with its detection score."""
        scale = self.manifest.preprocessing.face_scale
        if faces == "aligned":
            return [(aligned_face(pixels, scale), None)]
        if faces != "detect":
            raise TaskError(f"faces must be 'detect' or 'aligned', not {faces!r}")
        if self._detector is None:
            self._detector = open_detector(self._detector_choice)
        with clock("detect"):
            found = self._detector.detect(pixels)
        with clock("crop"):
            scale /= self._detector.box_extent
            return [(crop_face(pixels, face.box_xyxy, scale), face.score) for face in found]

    def _summarise(
        self, answered: list[tuple[Face, list[str]]], pixels: Pixels, image: ImageSource, clock: Clock
    ) -> Analysis:
        warnings = tuple(warning for _, found in answered for warning in found)
        return Analysis(
            faces=tuple(face for face, _ in answered),
            image_size=(pixels.shape[1], pixels.shape[0]),
            source=_source_name(image),
            model=ModelInfo(
                name=self.manifest.name,
                digest=self.manifest.digest,
                backend=self._pipeline.backend.variant.name,
                notice=self.manifest.notice,
            ),
            timing_ms=dict(clock.elapsed_ms),
            status="no_face" if not answered else "truncated" if warnings else "ok",
            warnings=warnings,
        )


def open_backend(bundle: Path, manifest: Manifest, device: str = "auto", threads: int | None = None) -> OrtBackend:
    """Open the first variant of a bundle that runs on this machine.

    Raises:
        BackendError: lists why each variant was refused.
    """
    if device not in ("auto", "cpu", "tensorrt"):
        raise BackendError(f"device must be 'auto', 'cpu' or 'tensorrt', not {device!r}")
    if device == "tensorrt":
        return TensorRTBackend(bundle, manifest, manifest.variants[0], threads)
    kinds = [TensorRTBackend] if device == "auto" and (bundle / ENGINES).is_dir() else []
    refused = []
    for variant in manifest.variants:
        for kind in (*kinds, OrtBackend):
            try:
                return kind(bundle, manifest, variant, threads)
            except (BackendError, DependencyError) as error:
                refused.append(f"{variant.name}: {error}")
    raise BackendError("no variant of this bundle runs here; " + "; ".join(refused))


def bundle_folder(bundle: "str | os.PathLike[str] | None") -> Path:
    """The folder that a user means: the one given, or the embedded bundle."""
    if bundle is not None:
        return Path(bundle)
    if not EMBEDDED.is_dir():
        raise BundleNotFoundError(
            "this build carries no embedded bundle; pass the folder of one made by `emola export`"
        )
    return EMBEDDED


def _check_features(features: Floats, faces: Faces) -> Floats:
    if faces != "aligned":
        raise ImageError("landmark_features describe one face: they need faces='aligned'")
    if np.shape(features) != (212,):
        raise ImageError(f"landmark_features must have shape (212,), found {np.shape(features)}")
    return np.asarray(features, np.float32)


def _describe(
    index: int, crop: FaceCrop, score: float | None, landmarks: Floats | None, answers: dict[Task, Answer]
) -> tuple[Face, list[str]]:
    """A face and the warnings about its answers."""
    emotion, units = answers.get("emotion"), answers.get("action_units")
    face = Face(
        id=index,
        box_xyxy=crop.box_xyxy,
        detection_score=score,
        landmarks=None if landmarks is None else tuple((float(x), float(y)) for x, y in landmarks),
        emotion=read_emotion(emotion.text) if emotion else None,
        action_units=tuple(read_action_units(units.text)) if units else None,
        action_units_text=units.text if units else None,
    )
    return face, [
        f"face {index}: the {task} answer was cut off after {len(answer.token_ids)} tokens"
        for task, answer in answers.items()
        if answer.truncated
    ]


def _source_name(image: ImageSource) -> str:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    if isinstance(image, Image.Image):
        return "PIL image"
    return "array" if isinstance(image, np.ndarray) else "bytes"
