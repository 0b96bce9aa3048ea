"""Find a bundle by name: a folder, the embedded bundle, or a repository of the Hugging Face hub.

Downloads go to `$EMOLA_CACHE`, by default `~/.cache/emola-edge`, into one folder per repository and commit, without
links. A download has a temporary name until all hashes are checked. Then it is renamed and not hashed again.
"""

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from sdk.bundles.manifest import check_hashes, read_manifest
from sdk.errors import BundleError, BundleNotFoundError, DependencyError, DownloadError, IntegrityError
from sdk.files import temporary

logger = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parents[1] / "assets" / "emola-nano"

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def resolve_bundle(
    name: "str | os.PathLike[str] | None", embedded: Path | None = None, *, offline: bool = False
) -> Path:
    """Find the folder of a bundle; download it if necessary.

    Args:
        name: folder of a bundle; "owner/name" or "owner/name@revision" of the hub; None takes the embedded bundle.
        embedded: folder of the embedded bundle; None takes the one in the package.
        offline: do not use the network; a true HF_HUB_OFFLINE in the environment has the same effect.

    Raises:
        BundleNotFoundError: there is no bundle of this name, or the hub cannot be reached.
        DownloadError: the download was interrupted; complete files are kept for the next attempt.
        IntegrityError: a downloaded file does not match the manifest.
        DependencyError: huggingface_hub is not installed.
    """
    if name is None:
        embedded = embedded or EMBEDDED
        if not embedded.is_dir():
            raise BundleNotFoundError(
                "this build has no embedded bundle; pass the folder of a bundle made by `emola export`"
            )
        return embedded
    match = _REPOSITORY.fullmatch(os.fspath(name)) if isinstance(name, str) else None
    if match is None or os.path.exists(os.fspath(name)):
        return Path(name)
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    return _Repository(match[1], match[2] or "main").folder(offline)


def cache_folder() -> Path:
    """The folder of downloaded bundles."""
    return Path(os.environ.get("EMOLA_CACHE") or Path.home() / ".cache" / "emola-edge")


class _Repository:
    """One revision of a repository, and its place in the cache."""

    def __init__(self, name: str, revision: str) -> None:
        self._name, self._revision = name, revision
        self._home = cache_folder() / name.replace("/", "--")
        self._reference = self._home / "refs" / revision.replace("/", "--")

    def folder(self, offline: bool) -> Path:
        if offline:
            return self._cached("the hub is not used (offline=True, --offline or HF_HUB_OFFLINE)", logging.INFO)
        try:
            commit = self._commit()
        except ConnectionError as error:
            return self._cached(str(error), logging.WARNING)
        folder = self._home / commit
        if not folder.is_dir():
            self._download(commit, folder)
        self._remember(commit)
        return folder

    def _cached(self, why: str, level: int) -> Path:
        """The folder of an earlier download; log it with the reason for using it."""
        if self._reference.is_file():
            folder = self._home / self._reference.read_text().strip()
            if folder.is_dir():
                logger.log(level, "%s@%s: %s; using %s", self._name, self._revision, why, folder)
                return folder
        raise BundleNotFoundError(
            f"no folder {self._name}, and no earlier download of that name and revision ({self._revision}): {why}. "
            "`emola export` makes a folder; a repository of the hub must be downloaded once while online"
        )

    def _commit(self) -> str:
        """The commit of the revision.

        Raises:
            BundleNotFoundError: there is no such repository.
            ConnectionError: the hub cannot be reached.
        """
        hub, errors = _hub()
        try:
            found = hub.HfApi(endpoint=_endpoint()).model_info(self._name, revision=self._revision, timeout=10)
            return str(found.sha)
        except errors.HFValidationError as error:
            raise BundleNotFoundError(f"no folder {self._name}, and no hub name: {_one_line(error)}") from None
        except errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            if status in (401, 403, 404):
                raise BundleNotFoundError(
                    f"no folder {self._name}, and {_endpoint()} has no such repository or revision "
                    f"({self._revision}), or it is gated (HTTP {status}); check the name, or run `hf auth login`"
                ) from None
            raise ConnectionError(f"{_endpoint()} answers HTTP {status}") from None
        except _network_errors() as error:
            raise ConnectionError(f"{_endpoint()} cannot be reached ({_one_line(error)})") from None

    def _download(self, commit: str, folder: Path) -> None:
        """Download, verify and rename; other processes that need the same commit wait."""
        from filelock import FileLock

        hub, errors = _hub()
        partial = temporary(folder)  # kept after an interruption, so that the next attempt continues
        self._home.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if folder.is_dir():
                return
            logger.info("downloading %s@%s to %s", self._name, commit[:12], folder)
            try:
                hub.snapshot_download(
                    self._name,
                    revision=commit,
                    local_dir=partial,
                    endpoint=_endpoint(),
                    ignore_patterns=["engines/*"],  # they have no hash; `emola engines` builds them on the target
                )
            except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, *_network_errors()) as error:
                raise DownloadError(
                    f"{self._name}: the download stopped ({type(error).__name__}: {_one_line(error)}); run the command "
                    "again: complete files are kept"
                ) from None
            self._verify(partial)
            shutil.rmtree(partial / ".cache", ignore_errors=True)  # metadata of the hub client
            partial.rename(folder)

    def _verify(self, partial: Path) -> None:
        """Check every hash; remove a download that fails.

        Raises:
            BundleNotFoundError, FormatError, IntegrityError: the files are not a bundle, or do not match its manifest.
        """
        try:
            check_hashes(partial, read_manifest(partial))
        except BundleError as error:
            shutil.rmtree(partial)
            raise type(error)(f"{self._name}: the download is unusable and was removed: {error}") from None
        except OSError as error:
            raise IntegrityError(f"{self._name}: {partial} cannot be read ({error}); check the disk") from None

    def _remember(self, commit: str) -> None:
        self._reference.parent.mkdir(parents=True, exist_ok=True)
        partial = self._reference.with_name(f"{self._reference.name}.{os.getpid()}")  # several processes may write it
        partial.write_text(commit)
        partial.replace(self._reference)


def _hub() -> tuple[Any, Any]:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise DependencyError("huggingface_hub", "hub", "download a bundle by name (or pass a folder)") from None
    return huggingface_hub, huggingface_hub.errors


def _network_errors() -> tuple[type[Exception], ...]:
    """Errors of the hub client's HTTP library when the network fails; the library depends on the client's version."""
    found: list[type[Exception]] = [OSError]
    for library in ("httpx2", "httpx"):
        try:
            module = __import__(library)
        except ImportError:
            continue
        found.append(module.HTTPError)
    return tuple(found)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
