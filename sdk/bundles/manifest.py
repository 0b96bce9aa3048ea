"""Bundle format 1: a folder with a `manifest.json` that holds every number the runtime needs.

The manifest is plain JSON. Unknown keys, paths outside the folder, another format number and a digest that does not
match the content are errors. Nothing in a bundle is unpickled.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from sdk.bundles.files import FileRecord, FrozenModel, RelativePath, check_sizes, file_sha256
from sdk.bundles.measured import FLOAT32_TOLERANCE, Gate, LabelCalibration, Latency, Parity, QuantisedLayer
from sdk.bundles.phrases import LabelPhrases
from sdk.errors import BundleNotFoundError, FormatError, IntegrityError
from sdk.faba.prompts import Task
from sdk.faces.preprocess import Preprocessing

FORMAT: Literal[1] = 1
MANIFEST = "manifest.json"


class Question(FrozenModel):
    """A fixed question and the token ids that follow the image rows: the question and the start of the answer."""

    text: str
    token_ids: tuple[int, ...]


class Prompt(FrozenModel):
    """The input of the decoder before an answer: prefix ids, image rows, question ids.

    Attributes:
        template: name of the conversation format.
        prefix_ids: system text and start of the user's turn.
        image_rows: number of rows from the vision encoder: patches, then one landmark row.
        free_question: text after the image rows for any other question, which replaces "{question}".
        questions: the fixed question of each task.
        stop_ids: tokens that end the answer.
        max_new_tokens: default limit of an answer in tokens.
    """

    template: str
    prefix_ids: tuple[int, ...]
    image_rows: int = Field(gt=0)
    free_question: str
    questions: dict[Task, Question]
    stop_ids: tuple[int, ...]
    max_new_tokens: int = Field(gt=0)


class Geometry(FrozenModel):
    """Shape of the decoder.

    Attributes:
        context: largest number of positions that it was trained for.
        intermediate_size: width of its MLP; 0 if not recorded.
    """

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    intermediate_size: int = 0

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

    name: str
    backend: Literal["ort", "gptq_cuda"]
    precision: str
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
        detector: a SCRFD face detector, or None.
        landmark: the landmark network, or None if the bundle was exported without one.
        embeddings: `.npy` table (vocabulary, hidden size).
        reference: inputs and outputs of the torch model, for `emola verify`.
        evaluation: answers of the torch model to an evaluation set, for `emola check`, or None.
        encoder_weights: parameters of the vision encoder, from which its time is planned; None if not recorded.
        ngrams: n-grams of the training answers, for drafts of the runtime, or None.
        labels: phrases for label scores; None in bundles from before manifests held them.
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
    name: str
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
    encoder_weights: int | None = None
    ngrams: RelativePath | None = None
    labels: LabelPhrases | None = None
    preprocessing: Preprocessing
    prompt: Prompt
    geometry: Geometry
    variants: tuple[Variant, ...] = Field(min_length=1)
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
        return next((found.temperature for found in self.calibration if found.task == task), None)

    def tolerance(self, variant: str, stage: str) -> float:
        """Largest allowed relative error of a stage against the torch model.

        It is the sealed tolerance of this variant; else the largest one of this stage in another variant; else that of
        float32.
        """
        sealed = {parity.variant: parity.tolerance for parity in self.parity if parity.stage == stage}
        return sealed.get(variant, max(sealed.values(), default=FLOAT32_TOLERANCE))

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
        FormatError: the manifest has another format, was edited, or is broken.
        IntegrityError: a file is missing or has another size.
    """
    manifest = parse_manifest(bundle)
    check_sizes(bundle, manifest.files)
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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("format")
    except (ValueError, AttributeError):
        raise FormatError(f"{path}: not a JSON object; copy or download the bundle again") from None
    if found != FORMAT:
        raise FormatError(f"{path}: bundle format {found!r}; this version reads format {FORMAT}: update emola-edge")
    digest = content.pop("digest", None)
    if digest != _digest(content):
        raise FormatError(f"{path}: the content does not match its digest; it was edited or damaged: export it again")
    try:
        return Manifest.model_validate({**content, "digest": digest})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FormatError(f"{path}: {where}: {first['msg']}; export the bundle again") from None


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
