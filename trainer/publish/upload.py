"""Upload a folder to a repository of the Hugging Face hub, in one commit."""

import os
from collections.abc import Iterator
from pathlib import Path

from sdk.bundles.manifest import MANIFEST, check_hashes, read_manifest
from sdk.errors import DataError, DependencyError, OutputError

README = "README.md"
# A checkpoint: weights, configuration, card, plot. Checkpoints for resuming, answers and logs stay here.
_CHECKPOINT = (
    "adapter_*",
    "non_lora_trainables.*",
    "landmark_feature_projector.bin",
    "model*.safetensors*",
    "config.json",
    "preprocessor_config.json",
    "tokenizer.model",
    "emola.json",
    "training.png",
)


def files_to_upload(folder: Path) -> dict[str, Path]:
    """The files of a bundle, by its manifest, or of a checkpoint: path in the repository and here.

    Raises:
        IntegrityError: a file of a bundle is not the one of its manifest.
        DataError: there are none.
    """
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        check_hashes(folder, manifest)
        names = [MANIFEST, *manifest.files]
    else:
        names = sorted({path.name for pattern in _CHECKPOINT for path in folder.glob(pattern) if path.is_file()})
    if not names:
        raise DataError(f"{folder}: expected a bundle or a checkpoint of `emola train`, found neither")
    return {name: folder / name for name in names}


def push(folder: Path, name: str, card: str, *, revision: str = "main", private: bool = False) -> str:
    """Upload a bundle or a checkpoint with its card; the repository is made if it does not exist.

    The token is that of `hf auth login` or of HF_TOKEN; the hub is HF_ENDPOINT, if that is set.

    Args:
        name: "owner/name".
        card: text of README.md.
        revision: branch.
        private: of a new repository.

    Returns:
        Name and commit: "owner/name@commit".

    Raises:
        DataError: the name has another form.
        DependencyError: huggingface_hub is not installed.
        OutputError: the hub refuses the upload or cannot be reached.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise DependencyError("huggingface_hub", "train", "push to the hub") from None
    if name.count("/") != 1:  # the hub takes a name without owner, too, but only to make the repository
        raise DataError(f"expected a name of the form owner/name, found {name!r}")
    files = files_to_upload(folder)
    operations = [CommitOperationAdd(path, str(place)) for path, place in files.items()]
    operations.append(CommitOperationAdd(README, card.encode()))
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        found = api.create_commit(name, operations, commit_message=f"Upload {folder.name}", revision=revision)
    except HFValidationError as error:
        raise DataError(f"expected a name of the form owner/name, found {name!r} ({_first_line(error)})") from None
    except HfHubHTTPError as error:
        raise OutputError(
            f"{name}: the hub refuses the upload ({_first_line(error)}); `hf auth login` stores a token that may write"
        ) from None
    except Exception as error:
        if not _is_of_connection(error) and not _is_of_connection(error.__cause__):
            raise
        raise OutputError(f"{name}: the upload stopped ({_first_line(error)}); start again later") from None
    return f"{name}@{found.oid}"


def _is_of_connection(error: BaseException | None) -> bool:
    """Whether an error is one of the connection: huggingface_hub uses requests, since 1.0 httpx, since 2.0 httpx2."""
    kinds = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(kinds & {"httpx", "httpx2", "requests", "urllib3", "httpcore"})


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shown_files(folder: Path) -> Iterator[str]:
    """The files that would be uploaded, with their sizes."""
    for name, path in files_to_upload(folder).items():
        yield f"{path.stat().st_size / 1e6:10.1f} MB  {name}"
