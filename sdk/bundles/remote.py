"""A repository of the Hugging Face hub: which commit a revision is, and the files of a commit."""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from sdk.bundles.manifest import MANIFEST, Manifest, parse_manifest
from sdk.errors import BundleError, DownloadError
from sdk.web.client import HttpClient, Limits
from sdk.web.exchange import HttpError

COMMIT = re.compile("[0-9a-f]{40}")

_ASKING, _ASKING_AGAIN = Limits(seconds=10.0), Limits(seconds=10.0, attempts=3)
_DOWNLOADING = Limits(attempts=5)
_DENIED = (401, 403, 404)


class _Description(BaseModel):
    """What the hub says about a revision."""

    sha: str = Field(pattern=f"^{COMMIT.pattern}$")


class Remote:
    """One repository of the hub.

    Args:
        name: "owner/name".

    Attributes:
        endpoint: address of the hub.
    """

    def __init__(self, name: str) -> None:
        self.endpoint = _endpoint()
        self.name = name

    def commit(self, revision: str, *, patient: bool) -> str:
        """The commit that a branch, tag or commit names.

        Args:
            patient: ask again if the hub is busy or cannot be reached.

        Raises:
            HttpError: the hub cannot be reached, has no such revision, or something else answers in its place.
            DependencyError: httpx is not installed.
        """
        client = HttpClient(_ASKING_AGAIN if patient else _ASKING, _token())
        reply = client.get(f"{self.endpoint}/api/models/{self.name}/revision/{quote(revision, safe='')}")
        if reply.status in _DENIED:
            raise HttpError(
                f"{self.endpoint} has no such repository or revision ({revision}), or it is gated (HTTP "
                f"{reply.status}); check the name, or run `hf auth login`"
            )
        try:
            commit = _Description.model_validate_json(reply.content).sha
        except ValidationError:
            raise HttpError(
                f"{self.endpoint}: expected JSON with a commit, found status {reply.status} and "
                f"{reply.excerpt[:100]!r}; is this the login page of a network?"
            ) from None
        if COMMIT.fullmatch(revision) and commit != revision:
            raise HttpError(f"{self.endpoint} answers with another commit, {commit}")
        return commit

    def fetch(self, commit: str, folder: Path) -> None:
        """Download the manifest, then the files that it lists; continue an earlier download in the same folder.

        Raises:
            DownloadError: the download stopped, or the disk is too small; what is complete is kept.
            BundleNotFoundError, FormatError: the repository is not a bundle.
        """
        client = HttpClient(_DOWNLOADING, _token())
        base = f"{self.endpoint}/{self.name}/resolve/{commit}"
        with self._download_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            files = self._manifest(client, base, folder).files
            self._fetch_files(client, base, {name: record.size for name, record in files.items()}, folder)

    def tree(self, commit: str) -> bytes:
        """What the hub says about the files of a commit at its top level, as JSON.

        Raises:
            DownloadError: it says nothing.
        """
        url = f"{self.endpoint}/api/models/{self.name}/tree/{commit}"
        try:
            reply = HttpClient(_ASKING_AGAIN, _token()).get(url)
        except HttpError as error:
            raise DownloadError(f"{self.name}: the hub does not list its files ({error})") from None
        if reply.status != 200:
            raise DownloadError(f"{self.name}: the hub does not list its files (status {reply.status})")
        return reply.content

    def download(self, commit: str, sizes: Mapping[str, int], folder: Path) -> None:
        """Download files of known sizes; continue an earlier download in the same folder.

        Raises:
            DownloadError: as in `fetch`.
        """
        base = f"{self.endpoint}/{self.name}/resolve/{commit}"
        with self._download_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._fetch_files(HttpClient(_DOWNLOADING, _token()), base, sizes, folder)

    @contextlib.contextmanager
    def _download_errors(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except HttpError as error:
            raise DownloadError(
                f"{self.name}: the download stopped ({error}); run the command again: complete files are kept"
            ) from None
        except OSError as error:
            raise DownloadError(
                f"{self.name}: cannot write to {folder} ({error}); free space, or set EMOLA_CACHE to another folder"
            ) from None

    def _manifest(self, client: HttpClient, base: str, folder: Path) -> Manifest:
        with contextlib.suppress(BundleError):
            return parse_manifest(folder)  # of an interrupted download
        reply = client.get(f"{base}/{MANIFEST}")
        if reply.status == 200 and reply.content.lstrip().startswith(b"{"):
            (folder / MANIFEST).write_bytes(reply.content)
        elif reply.status != 404:
            raise HttpError(
                f"{base}/{MANIFEST}: expected JSON, found status {reply.status} and {reply.excerpt[:100]!r}"
            )
        return parse_manifest(folder)

    def _fetch_files(self, client: HttpClient, base: str, sizes: Mapping[str, int], folder: Path) -> None:
        from tqdm import tqdm

        missing = sum(sizes.values()) - sum(_size(folder / name) for name in sizes)
        if missing > (free := shutil.disk_usage(folder).free):
            raise DownloadError(
                f"{self.name} needs {missing / 1e9:.1f} GB more, {folder} has {free / 1e9:.1f} GB left; free space, "
                "or set EMOLA_CACHE to another folder"
            )
        silent = None if sys.stderr else True  # None: a bar on a terminal only
        with tqdm(total=missing, unit="B", unit_scale=True, disable=silent, desc=self.name) as bar:
            for name, size in sizes.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                client.download(f"{base}/{quote(name)}", folder / name, size, bar.update)


def reach_hub() -> str:
    """Ask the hub for one public name; return its address.

    Raises:
        HttpError: it cannot be reached, or something else answers in its place.
        DependencyError: httpx is not installed.
    """
    endpoint = _endpoint()
    reply = HttpClient(_ASKING).get(f"{endpoint}/api/models?limit=1")
    if not reply.content.lstrip().startswith((b"{", b"[")):
        raise HttpError(
            f"{endpoint}: expected JSON, found {reply.excerpt[:100]!r}; is this the login page of a network?"
        )
    return endpoint


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _token() -> str | None:
    """The token of `hf auth login`, from where its client keeps it."""
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if not token:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
        path = os.environ.get("HF_TOKEN_PATH") or Path(os.environ.get("HF_HOME") or cache) / "token"
        try:
            token = Path(path).expanduser().read_text(encoding="ascii")
        except (OSError, ValueError, RuntimeError):
            return None
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise HttpError("HF_TOKEN contains characters that no token has; run `hf auth login` again")
    return token or None
