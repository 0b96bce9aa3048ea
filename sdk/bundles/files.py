"""The files of a bundle: allowed paths, sizes and hashes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sdk.errors import IntegrityError
from sdk.paths import relative_path

AGAIN = "copy or download the bundle again"
ENGINES = "engines"  # folder of TensorRT engines, which `emola engines` builds on the target


RelativePath = Annotated[str, AfterValidator(relative_path)]


class FrozenModel(BaseModel):
    """Base of the manifest, its parts and other JSON files of a bundle: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(FrozenModel):
    """Size in bytes and SHA-256 of one file."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def first_fault(error: ValidationError) -> str:
    """The first thing that does not fit, with its place: "geometry.layers: Input should be greater than 0"."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, fault["loc"]))
    return f"{place:.200}: {fault['msg']}" if place else fault["msg"]


def check_sizes(bundle: Path, files: Mapping[str, FileRecord]) -> None:
    """Check that every file exists and has its recorded size.

    A link that leaves the folder, as some installers make them, must lead to the recorded content.

    Raises:
        IntegrityError: a file is missing, has another size, or is a link to something else; the message names the first
            one.
    """
    for name, record in files.items():
        file = bundle / name
        if not file.is_file():
            raise IntegrityError(f"{file} is missing; {AGAIN}")
        if file.stat().st_size != record.size:
            raise IntegrityError(f"{file}: expected {record.size} bytes, found {file.stat().st_size}; {AGAIN}")
        if not _stays(bundle, file) and file_sha256(file) != record.sha256:
            raise IntegrityError(f"{file} is a link that leaves the bundle, to other content; copy the file itself")


def _stays(bundle: Path, file: Path) -> bool:
    """Whether a file lies in its bundle or, for a snapshot in Hugging Face's cache, among the blobs beside it."""
    folder, target = bundle.resolve(), file.resolve()
    repository = folder.parent.parent
    cached = folder.parent.name == "snapshots" and repository.name.startswith("models--")
    return target.is_relative_to(folder) or (cached and target.is_relative_to(repository / "blobs"))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
