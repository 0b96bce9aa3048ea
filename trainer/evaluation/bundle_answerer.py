"""What answers an evaluation, and the answerer that runs a bundle. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sdk.bundles.manifest import Manifest, read_manifest
from sdk.faces.crop import aligned_face
from sdk.faces.images import load_image
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.pruning import visual_rows
from trainer.corpus.records import Record, read_landmarks


@dataclass(frozen=True)
class Refused:
    """A record that a model refuses to answer, with the reason; scored as an empty answer."""

    reason: str


class Answerer(Protocol):
    """Answers records, greedily.

    Attributes:
        name: identifies the model; two runs with the same name are of the same model.
        batch_size: preferred number of records of a call.
    """

    name: str
    batch_size: int

    def answer(self, records: Sequence[Record]) -> "Sequence[str | Refused]": ...


class BundleAnswerer:
    """A bundle in the runtime, with the landmark features of the set, so that its input is that of the torch model.

    Args:
        pipeline: an opened bundle.
        max_new_tokens: limit of an answer; None: that of the bundle.
    """

    batch_size = 1

    def __init__(self, pipeline: Pipeline, max_new_tokens: int | None = None) -> None:
        self._pipeline, self._max_new_tokens = pipeline, max_new_tokens
        manifest = pipeline.manifest
        limit, digest = max_new_tokens or manifest.prompt.max_new_tokens, manifest.digest or manifest.digest_of()
        self.name = f"bundle {manifest.name} {pipeline.backend.name} {digest[:12]}, {limit} tokens"
        made = manifest.prompt.image_rows
        dropped = made - pipeline.image_rows
        self.name += pruning_suffix(visual_rows(made) - dropped if dropped else None)

    @classmethod
    def open(
        cls,
        folder: Path,
        device: str = "auto",
        max_new_tokens: int | None = None,
        visual_tokens: int | None = None,
        manifest: Manifest | None = None,
    ) -> "BundleAnswerer":
        """Open a bundle to answer.

        Args:
            manifest: of a folder that is not sealed yet; None: read it from the folder.
        """
        manifest = manifest or read_manifest(folder)
        backend = open_backend(folder, manifest, device)
        return cls(Pipeline(folder, manifest, backend, visual_tokens), max_new_tokens)

    def answer(self, records: Sequence[Record]) -> list[str]:
        return [self._answer_one(record) for record in records]

    def _answer_one(self, record: Record) -> str:
        clock = Clock()
        scale = self._pipeline.manifest.preprocessing.face_scale
        crop = aligned_face(load_image(record.image_path), scale)
        with self._pipeline.encode(crop, clock, read_landmarks(record)) as face:
            tasks = {q.text: task for task, q in self._pipeline.manifest.prompt.questions.items()}
            question = tasks.get(record.question, record.question)
            return self._pipeline.ask(face, question, clock, self._max_new_tokens).text


def pruning_suffix(visual_tokens: int | None) -> str:
    """What an answerer that drops rows of the picture adds to its name."""
    return "" if visual_tokens is None else f", {visual_tokens} visual"
