"""The one HTTP client: a reply of bounded size, in bounded time, after a bounded number of attempts.

What a server sends is not trusted: it may be endless or slow, redirect anywhere, ask for a pause of years, or be the
login page of a hotel.
"""

import email.utils
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdk.web.exchange import STEP, HttpError, Sender, beginning, blocks, shown


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        size: of the largest reply, in bytes; a download has its own size.
        seconds: for one attempt, from the connection on; granted again for each MiB that arrives.
        attempts: if the server is busy (408, 429, 5xx), cannot be reached or breaks off.
        pause: seconds before the second attempt, doubled for each further one; a `Retry-After` header takes precedence.
        longest_pause: seconds; a server that asks for more is not asked again.
    """

    size: int = 1 << 24
    seconds: float = 60.0
    attempts: int = 1
    pause: float = 1.0
    longest_pause: float = 120.0


@dataclass(frozen=True)
class HttpReply:
    """The reply of a server that is not busy.

    Attributes:
        status: any but 3xx, 408, 429 and 5xx.
        content: of status 200 the whole, of others the beginning.
        excerpt: the beginning as printable text, without the key that was sent.
    """

    status: int
    content: bytes
    excerpt: str


class HttpClient:
    """Gets, posts and downloads; may be used from several threads.

    Proxies and certificates are those of the environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE,
    SSL_CERT_DIR.

    Args:
        limits: of each request.
        key: sent as bearer token, to no other server than the one in the URL.

    Raises:
        DependencyError: httpx is not installed.
    """

    def __init__(self, limits: Limits, key: str | None = None) -> None:
        self._limits, self._sender = limits, Sender(limits.seconds, key)

    def get(self, url: str) -> HttpReply:
        """Ask for a document, and follow redirects.

        Raises:
            HttpError: no usable reply after all attempts.
        """
        return self._ask("GET", url)

    def post(self, url: str, content: bytes) -> HttpReply:
        """Send a JSON document; a redirect is an error that names its target.

        Raises:
            HttpError: no usable reply after all attempts.
        """
        return self._ask("POST", url, content)

    def download(self, url: str, path: Path, size: int, progress: Callable[[int], object] = lambda count: None) -> None:
        """Write a document of known size to a file; continue a file that is shorter.

        An attempt that brings a MiB or more is not counted.

        Args:
            progress: told the number of bytes of each block.

        Raises:
            HttpError: no attempt brought the rest, or the document has another size.
            OSError: the file cannot be written.
        """
        failures = 0
        path.touch()
        while (before := path.stat().st_size) != size:
            try:
                self._continue(url, path, size, progress)
            except HttpError as failure:
                failures = 0 if path.stat().st_size >= before + STEP else failures + 1
                self._pause(failure, failures)

    def _continue(self, url: str, path: Path, size: int, progress: Callable[[int], object]) -> None:
        """Make one attempt to bring the missing part of a file, or all of it if the server sends no parts."""
        start = found if (found := path.stat().st_size) < size else 0
        where, part = shown(url), {"Range": f"bytes={start}-"} if start else {}
        with self._sender.exchange("GET", url, headers=part) as (response, deadline):
            status, headers = response.status_code, response.headers
            if status in (206, 416) and not headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                path.write_bytes(b"")  # the next attempt asks for the whole file
                raise HttpError(f"{where}: the server does not continue at byte {start}", passing=True)
            if status not in (200, 206):
                raise HttpError(f"{where}: expected the file, found status {status}")
            start = start if status == 206 else 0
            announced = headers.get("Content-Length", str(size - start))
            if announced != str(size - start):
                raise HttpError(f"{where}: expected {size - start} bytes, the server announces {announced}")
            with path.open("ab" if start else "wb") as file:
                for block in blocks(response, deadline, size - start):
                    file.write(block)
                    progress(len(block))
        if (reached := path.stat().st_size) < size:
            raise HttpError(f"{where}: ended after {reached} of {size} bytes", passing=True)

    def _ask(self, method: str, url: str, content: bytes | None = None) -> HttpReply:
        failures = 0
        while True:
            try:
                with self._sender.exchange(method, url, content) as (response, deadline):
                    status = response.status_code
                    whole = blocks(response, deadline, self._limits.size)
                    found = b"".join(whole) if status == 200 else beginning(response)
                return HttpReply(status, found, self._sender.excerpt(found))
            except HttpError as failure:
                failures += 1
                self._pause(failure, failures)

    def _pause(self, failure: HttpError, failures: int) -> None:
        """Wait before the next attempt.

        Raises:
            HttpError: there is to be none.
        """
        if not failure.passing or failures >= self._limits.attempts:
            raise failure from None
        longest = self._limits.longest_pause
        backoff = min(self._limits.pause * 2 ** max(failures - 1, 0), longest)
        pause = _seconds(failure.retry_after, backoff)
        if pause > longest:
            raise HttpError(f"{failure}; it asks for a pause of {pause:.0f} s (limit {longest:.0f} s)") from None
        time.sleep(pause)


def _seconds(retry_after: str, otherwise: float) -> float:
    """Seconds to wait: from `Retry-After`, in seconds or as a date."""
    if retry_after.isdecimal():
        return float(retry_after) if len(retry_after) <= 12 else math.inf
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return otherwise
