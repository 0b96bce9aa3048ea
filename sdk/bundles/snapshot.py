"""The files of a checkpoint in a repository of the Hugging Face hub: which are needed, and whether they are right."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from sdk.bundles.files import file_sha256, first_fault
from sdk.bundles.remote import Remote
from sdk.errors import DownloadError

_NAME = re.compile(r"\w[\w.-]*")  # of a file that stays in its folder
_KINDS = (".json", ".model", ".safetensors", ".bin", ".md", ".png")
_TWINS = (("pytorch_model", "model"), ("adapter_model", "adapter_model"))  # of .bin files, in safetensors


class _Large(BaseModel):
    """A file in the large file storage."""

    oid: str = Field(pattern="^[0-9a-f]{64}$")


class _Entry(BaseModel):
    """A file or folder, as far as it is used; `oid` is git's hash."""

    type: Literal["file", "directory"]
    path: str
    size: int = Field(0, ge=0)
    oid: str = ""
    lfs: _Large | None = None


_ENTRIES = TypeAdapter(list[_Entry])


def fetch_snapshot(remote: Remote, commit: str, folder: Path) -> None:
    """Download configuration, tokenizer and weights of a commit, and compare their hashes with those of the hub.

    Weights that are there twice, as safetensors and as .bin, are downloaded as safetensors. Subfolders are left out.

    Raises:
        DownloadError: the download stopped, or a file has other content than the hub says.
    """
    files = list(_needed(_list(remote, commit)))
    if not files:
        raise DownloadError(f"{remote.name}: expected a checkpoint, found no file of the kinds {', '.join(_KINDS)}")
    remote.download(commit, {file.path: file.size for file in files}, folder)
    for file in files:
        if _hash(folder / file.path, file) != (file.lfs.oid if file.lfs else file.oid):
            (folder / file.path).unlink()
            raise DownloadError(
                f"{remote.name}: {file.path} is not the file that the hub announces; it was removed, start again"
            )


def has_file(remote: Remote, commit: str, name: str) -> bool:
    """Whether a commit has a file of this name at its top level.

    Raises:
        DownloadError: the hub does not say it.
    """
    return any(entry.type == "file" and entry.path == name for entry in _list(remote, commit))


def _list(remote: Remote, commit: str) -> list[_Entry]:
    try:
        return _ENTRIES.validate_json(remote.tree(commit))
    except ValidationError as error:
        fault = first_fault(error)
        raise DownloadError(f"{remote.name}: expected a list of files from the hub, found {fault}") from None


def _needed(entries: Iterable[_Entry]) -> Iterable[_Entry]:
    files = [e for e in entries if e.type == "file" and e.path.endswith(_KINDS) and _NAME.fullmatch(e.path)]
    tensors = {entry.path for entry in files if entry.path.endswith(".safetensors")}
    for file in files:
        twins = [new for old, new in _TWINS if file.path.startswith(old) and file.path.endswith(".bin")]
        if not any(name.startswith(new) for new in twins for name in tensors):
            yield file


def _hash(path: Path, file: _Entry) -> str:
    """The hash of a downloaded file of the kind that the hub states: SHA-256, or git's of small files."""
    if file.lfs:
        return file_sha256(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
