"""Find a bundle or a checkpoint by name: a folder, the embedded bundle, or a repository of the Hugging Face hub.

Downloads go to `$EMOLA_CACHE`, by default `~/.cache/emola-edge`, into one folder per repository and commit, without
links. A download has a temporary name until all hashes are checked. Then it is renamed and not hashed again.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sdk.bundles.manifest import MANIFEST, check_hashes, read_manifest
from sdk.bundles.remote import COMMIT, Remote
from sdk.bundles.snapshot import fetch_snapshot, has_file
from sdk.cache import cache_folder
from sdk.errors import BundleError, BundleNotFoundError, DependencyError, DownloadError, IntegrityError, OutputError
from sdk.files import temporary, write_file
from sdk.web.exchange import HttpError

logger = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parents[1] / "assets" / "emola-nano"

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(\w[\w./-]*))?")


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
        DependencyError: httpx or filelock is not installed.
    """
    if name is None:
        embedded = embedded or EMBEDDED
        if not embedded.is_dir():
            raise BundleNotFoundError(
                "this build has no embedded bundle; pass the folder of a bundle made by `emola export`"
            )
        return embedded
    return _find(name, _BUNDLE, offline)


def resolve_checkpoint(name: "str | os.PathLike[str]", *, offline: bool = False) -> Path:
    """Find the folder of a checkpoint, for example of "liuhaotian/llava-v1.5-7b"; download it if necessary.

    Args:
        name, offline: as in `resolve_bundle`. The folder of a repository has the name of the repository.

    Raises:
        BundleNotFoundError, DownloadError, DependencyError: as in `resolve_bundle`.
    """
    return _find(name, _CHECKPOINT, offline)


def resolve_model(name: "str | os.PathLike[str]", *, offline: bool = False) -> Path:
    """Find the folder of a bundle or of a checkpoint; download it if necessary.

    A repository with a manifest is a bundle.

    Args:
        name, offline: as in `resolve_bundle`.

    Raises:
        BundleNotFoundError, DownloadError, IntegrityError, DependencyError: as in `resolve_bundle`.
    """
    return _find(name, None, offline)


def hub_origin(folder: Path) -> str | None:
    """Name and commit of the repository that a folder was downloaded from, as "owner/name@commit"."""
    commit, repository = folder.parent.name, folder.parent.parent
    if repository.parent != cache_folder() / _CHECKPOINT.place or not COMMIT.fullmatch(commit):
        return None
    return f"{repository.name.replace('--', '/')}@{commit}"


def _find(name: "str | os.PathLike[str]", kind: "_Kind | None", offline: bool) -> Path:
    """The folder of a name; `kind` None is that of the repository."""
    if not isinstance(name, (str, os.PathLike)):
        raise BundleNotFoundError(f"expected the path of a folder or a name of the hub, found {name!r:.60}")
    match = _REPOSITORY.fullmatch(name) if isinstance(name, str) else None
    if match is None or os.path.exists(os.fspath(name)):
        return Path(name)
    if "--" in match[1] or ".." in match[0]:
        raise BundleNotFoundError(f"no folder {name}, and no hub name: those contain neither '--' nor '..'")
    repository, revision, offline = match[1], match[2] or "main", is_offline(offline)
    return _Repository(repository, revision, kind or _kind_of(repository, revision, offline)).folder(offline)


def is_offline(asked: bool) -> bool:
    """Whether the hub must not be used: the caller asked for that, or HF_HUB_OFFLINE is true in the environment."""
    return asked or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def _fetch_bundle(remote: Remote, commit: str, folder: Path) -> None:
    remote.fetch(commit, folder)
    check_hashes(folder, read_manifest(folder))


@dataclass(frozen=True)
class _Kind:
    """What repositories hold.

    Attributes:
        place: of the repositories in the cache.
        fetch: downloads and checks a commit; a later call continues in the same folder.
        named: a downloaded folder is named after its repository, and not after its commit.
        advice: where else such a folder comes from.
    """

    place: str
    fetch: Callable[[Remote, str, Path], None]
    named: bool
    advice: str


_BUNDLE = _Kind("", _fetch_bundle, False, "`emola export` makes a folder")
_CHECKPOINT = _Kind("checkpoints", fetch_snapshot, True, "pass the folder of a checkpoint")


def _kind_of(name: str, revision: str, offline: bool) -> _Kind:
    """What a repository holds: the hub says it; if it cannot be asked, what was downloaded last."""
    if not offline:
        try:
            remote = Remote(name)
            found = has_file(remote, remote.commit(revision, patient=True), MANIFEST)
            return _BUNDLE if found else _CHECKPOINT
        except (HttpError, DownloadError):
            pass  # the download says the same, if there is no earlier one
    return _BUNDLE if _Repository(name, revision, _BUNDLE).is_here() else _CHECKPOINT


class _Repository:
    """One revision of a repository, and its place in the cache."""

    def __init__(self, name: str, revision: str, kind: _Kind) -> None:
        self._name, self._revision, self._kind = name, revision, kind
        self._home = cache_folder() / kind.place / name.replace("/", "--")
        self._reference = self._home / "refs" / revision.replace("/", "--")

    def is_here(self) -> bool:
        """Whether this revision was downloaded before."""
        return self._earlier() is not None

    def folder(self, offline: bool) -> Path:
        """The folder of the commit that the hub names now; if the network fails, that of the last download."""
        if offline:
            return self._cached("the hub is not used (offline=True, --offline or HF_HUB_OFFLINE)", logging.INFO)
        try:
            return self._newest()
        except HttpError as error:
            return self._cached(str(error), logging.WARNING)
        except DownloadError as error:
            if not self._earlier():
                raise
            return self._cached(str(error), logging.WARNING)

    def _newest(self) -> Path:
        remote = Remote(self._name)
        commit = remote.commit(self._revision, patient=self._earlier() is None)
        folder = self._folder(commit)
        if not folder.is_dir():
            self._download(remote, commit, folder)
        self._remember(commit)
        return folder

    def _earlier(self) -> Path | None:
        """The folder of the last download of this revision."""
        try:
            commit = self._reference.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        folder = self._folder(commit)
        return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None

    def _folder(self, commit: str) -> Path:
        folder = self._home / commit
        return folder / self._name.split("/")[1] if self._kind.named else folder

    def _cached(self, why: str, level: int) -> Path:
        """The folder of the last download; log it with the reason for using it."""
        if folder := self._earlier():
            logger.log(level, "%s@%s: %s; using %s", self._name, self._revision, why, folder)
            return folder
        raise BundleNotFoundError(
            f"no folder {self._name}, and no earlier download of that name and revision ({self._revision}): {why}. "
            f"{self._kind.advice}; a repository of the hub must be downloaded once while online"
        )

    def _download(self, remote: Remote, commit: str, folder: Path) -> None:
        """Download, verify and rename; other processes that need the same commit wait."""
        partial = temporary(folder)  # kept after an interruption: the next attempt continues
        with self._lock(folder):
            if folder.is_dir():
                return
            logger.info("downloading %s@%s to %s", self._name, commit[:12], folder)
            try:
                self._kind.fetch(remote, commit, partial)
                partial.rename(folder)
            except DownloadError:
                raise
            except BundleError as error:
                shutil.rmtree(partial)
                raise type(error)(f"{self._name}: the download is unusable and was removed: {error}") from None
            except OSError as error:
                raise IntegrityError(f"{self._name}: {partial} cannot be read ({error}); check the disk") from None

    def _lock(self, folder: Path) -> AbstractContextManager[object]:
        try:
            from filelock import FileLock
        except ImportError:
            raise DependencyError("filelock", "hub", "download a bundle by name (or pass a folder)") from None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            return FileLock(f"{folder}.lock").acquire()
        except OSError as error:
            raise DownloadError(
                f"{self._name}: cannot write to {self._home} ({error}); set EMOLA_CACHE to another folder"
            ) from None

    def _remember(self, commit: str) -> None:
        if self._earlier() == self._folder(commit):
            return
        try:
            write_file(self._reference, commit.encode())
        except OutputError as error:
            logger.warning("%s: offline, this version is not found", error)
