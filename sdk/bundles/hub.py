"""A name becomes a verified local folder: a path, the embedded bundle, or a repository of the Hugging Face hub.

Downloads live in `$EMOLA_CACHE`, else `~/.cache/emola-edge`: one folder per repository and commit, without links.
A download has a name of its own until every hash was checked; then it is renamed, and never hashed again.
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
    """The folder that a user means.

    Args:
        name: folder of a bundle; "owner/name" or "owner/name@revision" of the hub; None takes the embedded one.
        embedded: folder of the embedded bundle; None is the one that the package carries.
        offline: use only what is on this machine; so does a true HF_HUB_OFFLINE in the environment.

    Raises:
        BundleNotFoundError: nothing is there under this name, or the hub cannot be reached to ask.
        DownloadError: the download was cut; what has arrived is kept for the next try.
        IntegrityError: what has arrived is not what the manifest promises.
        DependencyError: huggingface_hub is not installed.
    """
    if name is None:
        embedded = embedded or EMBEDDED
        if not embedded.is_dir():
            raise BundleNotFoundError(
                "this build carries no embedded bundle; pass the folder of one made by `emola export`"
            )
        return embedded
    match = _REPOSITORY.fullmatch(os.fspath(name)) if isinstance(name, str) else None
    if match is None or os.path.exists(os.fspath(name)):
        return Path(name)
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    return _Repository(match[1], match[2] or "main").folder(offline)


def cache_folder() -> Path:
    """Where downloaded bundles live."""
    return Path(os.environ.get("EMOLA_CACHE") or Path.home() / ".cache" / "emola-edge")


class _Repository:
    """One revision of one repository, and its place in the cache."""

    def __init__(self, name: str, revision: str) -> None:
        self._name, self._revision = name, revision
        self._home = cache_folder() / name.replace("/", "--")
        self._reference = self._home / "refs" / revision.replace("/", "--")

    def folder(self, offline: bool) -> Path:
        if offline:
            return self._cached("the hub is not asked (offline=True, --offline or HF_HUB_OFFLINE)", logging.INFO)
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
        """What an earlier download left; which is logged, with the reason for taking it."""
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
        """The commit that the revision stands for.

        Raises:
            BundleNotFoundError: there is no such repository.
            ConnectionError: the hub cannot be reached.
        """
        hub, errors = _hub()
        try:
            found = hub.HfApi(endpoint=_endpoint()).model_info(self._name, revision=self._revision, timeout=10)
            return str(found.sha)
        except errors.HFValidationError as error:
            raise BundleNotFoundError(f"no folder {self._name}, and no name of the hub: {_one_line(error)}") from None
        except errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            if status in (401, 403, 404):
                raise BundleNotFoundError(
                    f"no folder {self._name}, and {_endpoint()} knows no such repository or revision "
                    f"({self._revision}), or it is gated (HTTP {status}); check the name, or `hf auth login`"
                ) from None
            raise ConnectionError(f"{_endpoint()} answers HTTP {status}") from None
        except _network_errors() as error:
            raise ConnectionError(f"{_endpoint()} cannot be reached ({_one_line(error)})") from None

    def _download(self, commit: str, folder: Path) -> None:
        """Fetch, verify, rename; processes that want the same commit wait for the first."""
        from filelock import FileLock

        hub, errors = _hub()
        partial = temporary(folder)  # kept when the download stops, so that it can go on
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
                    ignore_patterns=["engines/*"],  # no hash covers them; `emola engines` builds them on the target
                )
            except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, *_network_errors()) as error:
                raise DownloadError(
                    f"{self._name}: the download stopped ({type(error).__name__}: {_one_line(error)}); run it again: "
                    "files that are complete are kept"
                ) from None
            self._verify(partial)
            shutil.rmtree(partial / ".cache", ignore_errors=True)  # the hub client's own notes
            partial.rename(folder)

    def _verify(self, partial: Path) -> None:
        """Check every hash; a download that fails must not be taken for complete next time.

        Raises:
            BundleNotFoundError, FormatError, IntegrityError: it is no bundle, or not the one of its manifest.
        """
        try:
            check_hashes(partial, read_manifest(partial))
        except BundleError as error:
            shutil.rmtree(partial)
            raise type(error)(f"{self._name}: what was downloaded is unusable and was removed: {error}") from None
        except OSError as error:
            raise IntegrityError(f"{self._name}: {partial} cannot be read ({error}); check the disk") from None

    def _remember(self, commit: str) -> None:
        self._reference.parent.mkdir(parents=True, exist_ok=True)
        own = self._reference.with_name(f"{self._reference.name}.{os.getpid()}")  # other processes do the same
        own.write_text(commit)
        own.replace(self._reference)


def _hub() -> tuple[Any, Any]:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise DependencyError("huggingface_hub", "hub", "download a bundle by name (or pass a folder)") from None
    return huggingface_hub, huggingface_hub.errors


def _network_errors() -> tuple[type[Exception], ...]:
    """What the hub client's HTTP library raises when the network fails; which library it is depends on its version."""
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
