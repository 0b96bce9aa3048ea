"""Bundle format 1: one folder whose `manifest.json` carries every number that the runtime needs.

The manifest is plain JSON, read strictly: unknown keys, paths that leave the folder, another format number or a digest
that does not fit its content are refused. Nothing in a bundle is ever unpickled.
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
    """What the decoder reads before it answers: prefix ids, image rows, question ids.

    Attributes:
        template: name of the conversation format.
        prefix_ids: system text and start of the user's turn.
        image_rows: rows that the vision encoder yields: patches, then one landmark row.
        free_question: text after the image rows for a question of the user's, with "{question}" in its place.
        questions: the fixed questions by task.
        stop_ids: a token that ends the answer.
        max_new_tokens: default limit of an answer.
    """

    template: str
    prefix_ids: tuple[int, ...]
    image_rows: int = Field(gt=0)
    free_question: str
    questions: dict[Task, Question]
    stop_ids: tuple[int, ...]
    max_new_tokens: int = Field(gt=0)


class Geometry(FrozenModel):
    """Shape of the decoder; `context` is the largest number of positions it was trained for, `intermediate_size` the
    width of its MLP (0: not recorded)."""

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
        """Weights of all linear layers, without the head; only where the intermediate size is recorded."""
        attention = 2 * self.hidden_size * (self.heads + self.kv_heads) * self.head_size
        return self.layers * (attention + 3 * self.hidden_size * self.intermediate_size)


class Variant(FrozenModel):
    """One way to run the bundle: a decoder file on a backend, and what that takes.

    Attributes:
        backend: which runtime opens it: "ort" an ONNX graph, "gptq_cuda" a folder in the AutoGPTQ layout.
        precision: of the decoder's linear layers, e.g. "float32" or "int4".
        decoder: the file to open, of an AutoGPTQ folder its `config.json`; `external` are the weight files that belong
            to it, shared with other variants or not.
        device: "cpu", or "cuda" for what needs an NVIDIA GPU: a float16 graph and onnxruntime-gpu, or an AutoGPTQ
            folder, torch and Triton.
    """

    name: str
    backend: Literal["ort", "gptq_cuda"]
    precision: str
    decoder: RelativePath
    external: tuple[RelativePath, ...] = ()
    device: Literal["cpu", "cuda"] = "cpu"


class Licence(FrozenModel):
    """A part of the bundle, whose weights it holds and under which terms."""

    part: str
    origin: str
    licence: str


class Manifest(FrozenModel):
    """Everything about a bundle; see the attributes' own classes.

    Attributes:
        name: what users call it.
        notice: one sentence that every result carries, or None.
        files: every file but the manifest itself.
        vision_half: the vision encoder in strongly typed float16, which TensorRT engines are built from.
        detector: a SCRFD face detector that travels with the bundle, or None.
        landmark: the landmark network, or None when the bundle was exported without one.
        embeddings: `.npy` table (vocabulary, hidden size).
        reference: inputs and outputs of the torch model, for `emola verify`.
        ngrams: what followed what in the training answers, which the runtime drafts from, or None.
        labels: phrases by which labels are scored; None in bundles made before manifests held them.
        variants: in the order in which they are tried.
        provenance: base, adapter, tool versions: free text by key.
        parity: what the export measured, on the machine that `environment` describes.
        calibration: of the label scores; empty when they are uncalibrated.
        latency: what the export measured, likewise.
        layers: of the decoder, where the export quantised them with GPTQ.
        gate: the verdict of the export, or None.
        digest: SHA-256 of the manifest without this field, `latency`, `layers` and `gate.slow`: no clock measures twice
            alike, and the same export must have the same digest.
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
        """Of the label scores of a task; None when they are uncalibrated."""
        return next((found.temperature for found in self.calibration if found.task == task), None)

    def tolerance(self, variant: str, stage: str) -> float:
        """Largest relative error to the torch model that a stage may have.

        It is what was sealed for this variant; else the largest that was sealed for this stage of another variant; else
        that of float32.
        """
        sealed = {parity.variant: parity.tolerance for parity in self.parity if parity.stage == stage}
        return sealed.get(variant, max(sealed.values(), default=FLOAT32_TOLERANCE))

    def digest_of(self) -> str:
        """The digest that this content has, sealed or not."""
        return _digest(self.model_dump(mode="json", exclude={"digest"}))

    def to_json(self) -> str:
        """The text of `manifest.json`, digest included."""
        return with_digest(self.model_dump(mode="json", exclude={"digest"}))


def with_digest(content: Mapping[str, Any]) -> str:
    """JSON text of a manifest's content and the digest of that content."""
    return json.dumps({**content, "digest": _digest(content)}, indent=1, ensure_ascii=False) + "\n"


def _digest(content: Mapping[str, Any]) -> str:
    content = {key: value for key, value in content.items() if key not in ("latency", "layers")}
    if isinstance(gate := content.get("gate"), dict):
        content["gate"] = {key: value for key, value in gate.items() if key != "slow"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of a bundle, and a check that every file is there in the recorded size.

    Args:
        bundle: folder that holds `manifest.json`.

    Raises:
        BundleNotFoundError: no such folder, or no manifest in it.
        FormatError: another format, an edited or a broken manifest.
        IntegrityError: a file is missing or has another size.
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
        manifest = Manifest.model_validate({**content, "digest": digest})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FormatError(f"{path}: {where}: {first['msg']}; export the bundle again") from None
    check_sizes(bundle, manifest.files)
    return manifest


def check_hashes(bundle: Path, manifest: Manifest) -> None:
    """Read every file of the bundle and compare its SHA-256.

    Raises:
        IntegrityError: names the first file whose content differs.
    """
    for name, record in manifest.files.items():
        if file_sha256(bundle / name) != record.sha256:
            raise IntegrityError(
                f"{bundle / name}: its content was changed (SHA-256 differs); download the bundle again"
            )
