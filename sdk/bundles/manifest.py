"""Bundle format 1: a folder with a `manifest.json` that holds every number the runtime needs.

The manifest is plain JSON. Unknown keys, paths outside the folder, another format number and a digest that does not
match the content are errors. Nothing in a bundle is unpickled.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError

from sdk.bundles.files import (
    AGAIN,
    ENGINES,
    FileRecord,
    FrozenModel,
    RelativePath,
    check_sizes,
    file_sha256,
    first_fault,
)
from sdk.bundles.language import AnswerLanguage
from sdk.bundles.measured import FLOAT32_TOLERANCE, Gate, LabelCalibration, Latency, Parity, QuantisedLayer
from sdk.bundles.phrases import LabelPhrases
from sdk.bundles.prompt import Prompt
from sdk.errors import BundleNotFoundError, FormatError, IntegrityError
from sdk.faba.prompts import Task
from sdk.faces.preprocess import LANDMARK_FEATURES, Preprocessing
from sdk.onnx_model import external_files
from sdk.printable import find_control
from sdk.untrusted_json import read_json_object

Line: TypeAlias = Annotated[str, Field(pattern=r"^[^\n\t]+$")]

FORMAT: Literal[1] = 1
MANIFEST = "manifest.json"
_MAX_SIZE = 16 << 20  # bytes of a manifest


class Geometry(FrozenModel):
    """Shape of the decoder.

    Attributes:
        context: largest number of positions that it was trained for.
        intermediate_size: width of its MLP; 0 if not recorded.
    """

    layers: int = Field(gt=0, le=1024)
    hidden_size: int = Field(gt=0, le=1 << 16)
    heads: int = Field(gt=0, le=1024)
    kv_heads: int = Field(gt=0, le=1024)
    head_size: int = Field(gt=0, le=1024)
    vocabulary: int = Field(gt=0, le=1 << 21)
    context: int = Field(gt=0, le=1 << 20)
    intermediate_size: int = Field(default=0, ge=0, le=1 << 20)

    @property
    def layer_weights(self) -> int:
        """Number of weights in all linear layers, without the head; needs `intermediate_size`."""
        attention = 2 * self.hidden_size * (self.heads + self.kv_heads) * self.head_size
        return self.layers * (attention + 3 * self.hidden_size * self.intermediate_size)


class Variant(FrozenModel):
    """One way to run the bundle: a decoder file, its backend and its device.

    Attributes:
        backend: runtime that opens the decoder: "ort" an ONNX graph, "gptq_cuda" a folder in the AutoGPTQ layout.
        precision: precision of the decoder's linear layers, e.g. "float32" or "int4".
        decoder: file to open; for an AutoGPTQ folder its `config.json`.
        external: weight files of the decoder, possibly shared with other variants.
        device: "cpu", or "cuda" for a variant that needs an NVIDIA GPU: a float16 graph with onnxruntime-gpu, or an
            AutoGPTQ folder with torch and Triton.
    """

    name: Line
    backend: Literal["ort", "gptq_cuda"]
    precision: Line
    decoder: RelativePath
    external: tuple[RelativePath, ...] = ()
    device: Literal["cpu", "cuda"] = "cpu"


class Licence(FrozenModel):
    """The origin and the licence of one part of the bundle."""

    part: str
    origin: str
    licence: str


class Manifest(FrozenModel):
    """The content of `manifest.json`.

    Attributes:
        name: name of the model.
        notice: one sentence that every result carries, or None.
        files: size and hash of every file except the manifest.
        vision_half: the vision encoder in strongly typed float16, the source of TensorRT engines, or None.
        detector: a face detector, SCRFD or of `emola pretrain-detector`; None is that of the package.
        landmark: the landmark network, or None if the bundle was exported without one.
        embeddings: `.npy` table (vocabulary, hidden size).
        reference: inputs and outputs of the torch model, for `emola verify`.
        evaluation: answers of the torch model to an evaluation set, for `emola check`, or None.
        encoder_weights: parameters of the vision encoder, from which its time is planned; None if not recorded.
        ngrams: n-grams of the training answers, for drafts of the runtime, or None.
        labels: phrases for label scores; None in bundles from before manifests held them.
        language: every answer that its training set can contain, or None for a model that writes freely.
        variants: variants in the order in which they are tried.
        provenance: base, adapter, tool versions: free text by key.
        environment: the machine on which the export measured parity and latency.
        parity: measured at export.
        calibration: calibration of the label scores; empty if they are uncalibrated.
        latency: measured at export.
        layers: errors of the decoder's layers if the export quantised them with GPTQ.
        gate: result of the quality gate at export, or None.
        digest: SHA-256 of the manifest without this field, `latency`, `layers`, `gate.slow` and `gate.unjudged`: these
            depend on time and machine, and the same export must have the same digest.
    """

    format: Literal[1] = FORMAT
    name: Line
    notice: str | None = None
    intended_use: str
    files: dict[RelativePath, FileRecord]
    tokenizer: RelativePath
    vision: RelativePath
    vision_half: RelativePath | None = None
    detector: RelativePath | None = None
    landmark: RelativePath | None
    embeddings: RelativePath
    reference: RelativePath
    evaluation: RelativePath | None = None
    encoder_weights: int | None = Field(default=None, ge=0)
    ngrams: RelativePath | None = None
    labels: LabelPhrases | None = None
    language: AnswerLanguage | None = None
    preprocessing: Preprocessing
    prompt: Prompt
    geometry: Geometry
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=64)
    provenance: dict[str, str]
    licences: tuple[Licence, ...]
    parity: tuple[Parity, ...]
    latency: tuple[Latency, ...] = ()
    layers: tuple[QuantisedLayer, ...] = ()
    gate: Gate | None = None
    environment: dict[str, str]
    calibration: tuple[LabelCalibration, ...] = ()
    digest: str = ""

    def temperature(self, task: Task) -> float | None:
        """Temperature of the label scores of a task; None if they are uncalibrated."""
        found = self.calibration_of(task)
        return found.temperature if found else None

    def calibration_of(self, task: Task) -> LabelCalibration | None:
        """Calibration of the label scores of a task; None if they are uncalibrated."""
        return next((found for found in self.calibration if found.task == task), None)

    def tolerance(self, variant: str, stage: str) -> float:
        """Largest allowed relative error of a stage against the torch model.

        It is the sealed tolerance of this variant; else the largest one of this stage in another variant; else that of
        float32.
        """
        sealed = {parity.variant: parity.tolerance for parity in self.parity if parity.stage == stage}
        return sealed.get(variant, max(sealed.values(), default=FLOAT32_TOLERANCE))

    def without_language(self) -> "Manifest":
        """The manifest without its answer language, for comparisons with the torch model, which has none."""
        return self.model_copy(update={"language": None})

    def decoder_bytes(self, variant: Variant) -> int:
        """Size of the files of a variant's decoder."""
        return sum(self.files[name].size for name in (variant.decoder, *variant.external))

    @property
    def graphs(self) -> tuple[str, ...]:
        """The ONNX files."""
        decoders = (variant.decoder for variant in self.variants if variant.backend == "ort")
        return tuple(filter(None, (self.vision, self.vision_half, self.landmark, self.detector, *decoders)))

    @property
    def roles(self) -> tuple[str, ...]:
        """Every file that the runtime may read."""
        parts = (self.tokenizer, self.embeddings, self.reference, self.evaluation, self.ngrams)
        decoders = (name for variant in self.variants for name in (variant.decoder, *variant.external))
        return tuple(filter(None, (*self.graphs, *parts, *decoders)))

    def digest_of(self) -> str:
        """Compute the digest of the content."""
        return _digest(self.model_dump(mode="json", exclude={"digest"}))

    def to_json(self) -> str:
        """The text of `manifest.json`, digest included."""
        return with_digest(self.model_dump(mode="json", exclude={"digest"}))


def with_digest(content: Mapping[str, Any]) -> str:
    """JSON text of a manifest, with the digest of its content."""
    return json.dumps({**content, "digest": _digest(content)}, indent=1, ensure_ascii=False) + "\n"


def _digest(content: Mapping[str, Any]) -> str:
    content = {key: value for key, value in content.items() if key not in ("latency", "layers")}
    if isinstance(gate := content.get("gate"), dict):
        content["gate"] = {key: value for key, value in gate.items() if key not in ("slow", "unjudged")}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(bundle: Path) -> Manifest:
    """Read the manifest of a bundle, and check that every file exists and has its recorded size.

    Args:
        bundle: folder that holds `manifest.json`.

    Raises:
        BundleNotFoundError: there is no such folder, or no manifest in it.
        FormatError: the manifest has another format, was edited, is broken, or has values that no model has.
        IntegrityError: a file is missing or has another size, or a file would be read that the manifest does not list.
    """
    manifest = parse_manifest(bundle)
    check_sizes(bundle, manifest.files)
    check_reads(bundle, manifest)
    return manifest


def parse_manifest(bundle: Path) -> Manifest:
    """Read the manifest of a bundle whose other files may be missing.

    Raises:
        BundleNotFoundError, FormatError: as for `read_manifest`.
    """
    path = bundle / MANIFEST
    if not path.is_file():
        state = (
            f"no {MANIFEST} in it: not a bundle, or one that was not sealed" if bundle.is_dir() else "no such folder"
        )
        raise BundleNotFoundError(f"{bundle}: {state}; make one with `emola export`")
    content = read_json_object(path, FormatError, limit=_MAX_SIZE, advice=AGAIN)
    if (found := content.get("format")) != FORMAT:
        raise FormatError(f"{path}: bundle format {found!r:.60}; this version reads format {FORMAT}: update emola-edge")
    if text := find_control(content):
        raise FormatError(f"{path}: {text!r:.60} has control characters; they are not shown and not needed: {AGAIN}")
    digest = content.pop("digest", None)
    if digest != _digest(content):
        raise FormatError(f"{path}: the content does not match its digest; it was edited or damaged: export it again")
    try:
        manifest = Manifest.model_validate({**content, "digest": digest})
        check_content(manifest)
    except ValueError as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else error
        raise FormatError(f"{path}: {fault}; export the bundle again") from None
    return manifest


def check_content(manifest: Manifest) -> None:
    """Check what concerns several parts of a manifest.

    Raises:
        ValueError: a value does not fit another one, or a file with a role is not listed.
    """
    g, prompt, settings = manifest.geometry, manifest.prompt, manifest.preprocessing
    asked = {f"questions.{task}": question.token_ids for task, question in prompt.questions.items()}
    for name, ids in {"prefix_ids": prompt.prefix_ids, "stop_ids": prompt.stop_ids, **asked}.items():
        if max(ids, default=0) >= g.vocabulary:
            raise ValueError(f"prompt.{name}: token {max(ids)} is not in the vocabulary of {g.vocabulary}")
    if g.heads % g.kv_heads:
        raise ValueError(f"geometry: {g.heads} heads do not share {g.kv_heads} key-value heads evenly")
    before = len(prompt.prefix_ids) + prompt.image_rows + max(map(len, asked.values()))
    if before >= g.context:
        raise ValueError(f"prompt: {before} positions before an answer; the context has {g.context}")
    if any(not 0 <= index < LANDMARK_FEATURES // 2 for index, *_ in settings.anchors):
        raise ValueError("preprocessing: expected anchors among the 106 landmarks")
    if settings.image_aspect == "align" and len(settings.anchors) < 2:
        raise ValueError("preprocessing: aligning a face takes two anchors or more")
    for name in manifest.roles:
        if name not in manifest.files:
            raise ValueError(f"files: {name} is not listed, but the runtime reads it")


def check_reads(bundle: Path, manifest: Manifest) -> None:
    """Check that every file which the files of the bundle name, or which is read beside them, is listed too.

    Raises:
        IntegrityError: one is not.
    """
    found = [
        (PurePosixPath(graph).parent / name).as_posix()
        for graph in manifest.graphs
        for name in external_files(bundle / graph)
    ]
    for variant in manifest.variants:
        if variant.backend == "gptq_cuda":
            folder = (bundle / variant.decoder).parent
            read = (*folder.glob("*.safetensors"), *folder.glob("quantize_config.json"))
            found += [path.relative_to(bundle).as_posix() for path in read]
    for name in sorted(found):
        if name not in manifest.files:
            raise IntegrityError(f"{bundle / name} would be read, but the manifest does not list it; {AGAIN}")


def unlisted_files(bundle: Path, manifest: Manifest) -> tuple[str, ...]:
    """The files in the folder that the manifest does not list: nobody vouches for them, and nothing reads them.

    The engines that `emola engines` builds have hashes of their own.
    """
    found = (path.relative_to(bundle) for path in bundle.rglob("*") if not path.is_dir())
    names = (path.as_posix() for path in found if path.parts[0] != ENGINES)
    return tuple(sorted({*names} - {MANIFEST, *manifest.files}))


def check_hashes(bundle: Path, manifest: Manifest) -> None:
    """Compare the SHA-256 of every file of the bundle with the manifest.

    Raises:
        IntegrityError: a file differs; the message names the first one.
    """
    for name, record in manifest.files.items():
        if file_sha256(bundle / name) != record.sha256:
            raise IntegrityError(
                f"{bundle / name}: the content was changed (SHA-256 differs); download the bundle again"
            )
