"""Compare this machine's results with those of the torch model; a bundle contains its inputs and outputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.bundles.damage import read_arrays, reading
from sdk.bundles.files import AGAIN
from sdk.bundles.measured import Parity
from sdk.errors import BackendError, IntegrityError
from sdk.faba.prompts import TASKS, Task
from sdk.faces.preprocess import LANDMARK_FEATURES
from sdk.runtime.generate import Generation
from sdk.runtime.pipeline import Pipeline


@dataclass(frozen=True)
class Reference:
    """Inputs of every stage, and the outputs of the torch model for them, in float32.

    Attributes:
        tasks: the fixed questions that were asked, in order.
        landmark_pixels: (S, 3, 192, 192), empty if the bundle has no landmark network.
        landmark_features: (S, 212).
        pixel_values: (S, 3, H, H).
        rows: (S, rows, D) output of the vision encoder.
        logits: (S, tasks, vocabulary) for the first token of each answer.
        token_ids: (S, tasks, n) greedy tokens, without regard to stop tokens.
    """

    tasks: tuple[Task, ...]
    landmark_pixels: Floats
    landmark_features: Floats
    pixel_values: Floats
    rows: Floats
    logits: Floats
    token_ids: npt.NDArray[np.int32]

    def save(self, path: Path) -> None:
        np.savez_compressed(path, **{**vars(self), "tasks": np.array(self.tasks)})

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read the file.

        Raises:
            IntegrityError: it is damaged.
        """
        with reading(path, "the reference of a bundle"):
            content: dict[str, Any] = read_arrays(path)
            found = cls(**{**content, "tasks": tuple(content["tasks"].tolist())})
            found._check()
        return found

    def _check(self) -> None:
        """Check that the parts fit each other."""
        samples, tasks = len(self.rows), len(self.tasks)
        shapes = {
            "landmark_features": (samples, LANDMARK_FEATURES),
            "pixel_values": (samples, 3, *self.pixel_values.shape[2:]),
            "rows": (samples, *self.rows.shape[1:]),
            "logits": (samples, tasks, *self.logits.shape[2:]),
            "token_ids": (samples, tasks, *self.token_ids.shape[2:]),
        }
        dimensions = {"landmark_features": 2, "pixel_values": 4}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.ndim != dimensions.get(name, 3) or not array.size:
                raise ValueError(f"{name} has the shape {array.shape}")
            if array.dtype.kind != ("i" if name == "token_ids" else "f"):
                raise ValueError(f"{name} has the type {array.dtype}")
        if not set(self.tasks) <= set(TASKS):
            raise ValueError(f"it has the tasks {self.tasks!r:.80}")


def measure_parity(pipeline: Pipeline, reference: Reference) -> list[Parity]:
    """Compare every stage of an opened variant with the reference. Each stage gets the inputs of the reference."""
    backend, measured = pipeline.backend, []
    size, vocabulary = pipeline.manifest.preprocessing.image_size, pipeline.manifest.geometry.vocabulary
    if reference.pixel_values.shape[2:] != (size, size) or reference.logits.shape[2:] != (vocabulary,):
        raise IntegrityError(f"the reference was made for another model than {pipeline.manifest.name}; {AGAIN}")
    if backend.landmark is not None and len(reference.landmark_pixels):
        features = backend.landmark(reference.landmark_pixels)
        measured.append(_compare(pipeline, "landmark", features, reference.landmark_features))
    rows = backend.vision(reference.pixel_values, reference.landmark_features)
    measured.append(_compare(pipeline, "vision", rows, reference.rows))
    logits, token_ids = _decode(pipeline, reference)
    same = token_ids == reference.token_ids
    decoder = _compare(pipeline, "decoder", logits, reference.logits)
    agreement = {"agreement": float(same.mean()), "first_tokens": float(same[..., 0].mean())}
    measured.append(decoder.model_copy(update=agreement))
    return measured


def check_decoder(pipeline: Pipeline, reference: Reference) -> None:
    """Check that a decoder that runs elsewhere is that of the bundle, by its answers to the inputs of the reference.

    A pipeline that prunes visual rows is not checked.

    Raises:
        BackendError: fewer than half as many tokens equal those of torch as at export.
    """
    decoder, sealed, same = pipeline.backend.decoder, pipeline.manifest.parity, []
    if pipeline.image_rows < reference.rows.shape[1]:
        return
    for sample, rows in enumerate(reference.rows):
        with pipeline.encode_rows(rows, reference.landmark_features[sample]) as face:
            for task, expected in zip(reference.tasks, reference.token_ids[sample], strict=True):
                ids = pipeline.question_ids(task)
                found = Generation(decoder, face.rewind(), ids, stop_ids=(), max_new_tokens=len(expected))
                same.append(np.mean(list(found) == expected))
    share = float(np.mean(same))
    least = min((parity.agreement for parity in sealed if parity.agreement is not None), default=1.0) / 2
    if share < least:
        raise BackendError(
            f"{share:.0%} of the tokens of {pipeline.backend.name} are those of {pipeline.manifest.name}, expected at "
            f"least {least:.0%}: it runs another decoder"
        )


def _decode(pipeline: Pipeline, reference: Reference) -> tuple[Floats, npt.NDArray[np.int32]]:
    """First logits and greedy tokens for every question about every face."""
    decoder = pipeline.backend.decoder
    logits, token_ids = np.empty_like(reference.logits), np.empty_like(reference.token_ids)
    for sample, rows in enumerate(reference.rows):
        with pipeline.encode_rows(rows, reference.landmark_features[sample]) as face:
            for index, task in enumerate(reference.tasks):
                ids = pipeline.question_ids(task)
                logits[sample, index] = decoder.extend(face.rewind(), decoder.embed(ids))[-1]
                steps = reference.token_ids.shape[2]
                token_ids[sample, index] = list(
                    Generation(decoder, face.rewind(), ids, stop_ids=(), max_new_tokens=steps)
                )
    return logits, token_ids


def _compare(pipeline: Pipeline, stage: str, found: Floats, expected: Floats) -> Parity:
    backend = pipeline.backend
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    difference, length = found - expected, float(np.linalg.norm(expected))
    sealed = pipeline.manifest.tolerance(backend.variant.name, stage)
    return Parity(
        variant=backend.name,
        stage=stage,
        max_error=float(np.abs(difference).max()),
        relative_error=float(np.linalg.norm(difference)) / length,
        tolerance=backend.tolerances.get(stage, sealed),
        cosine=float(np.vdot(found, expected) / (np.linalg.norm(found) * length)),
    )
