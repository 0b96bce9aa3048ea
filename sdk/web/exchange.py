"""One exchange with a server: a request, its redirects and the reply, within a time limit.

Every failure is one HttpError in one line, without passwords, keys or control characters.
"""

import contextlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from sdk.errors import DependencyError
from sdk.web.deadline import Deadline

if TYPE_CHECKING:
    import ssl

    import httpx

STEP = 1 << 20  # bytes that renew the time limit
EXCERPT = 4096  # bytes that are read of the reply to a failed request
_REDIRECTS = 5
_CONNECT = 10.0  # seconds
_BUSY = (408, 429)  # and every status from 500


class HttpError(Exception):
    """No usable reply.

    Args:
        message: what happened, in one line.
        passing: another attempt may succeed.
        retry_after: the header of that name.
    """

    def __init__(self, message: str, *, passing: bool = False, retry_after: str = "") -> None:
        super().__init__(message)
        self.passing, self.retry_after = passing, retry_after


class UnreachableError(HttpError):
    """No request to this address can succeed: no server, no usable proxy, or a redirect that is not followed."""


class Sender:
    """Sends requests, each over its own connection; may be used from several threads.

    Args:
        seconds: limit of an exchange, granted again for each MiB that arrives.
        key: bearer token, for no other server than the one in the URL.

    Raises:
        DependencyError: httpx is not installed.
    """

    def __init__(self, seconds: float, key: str | None = None) -> None:
        try:
            import httpx  # noqa: F401
        except ImportError:
            raise DependencyError("httpx", "hub", "send requests over the network") from None
        self._seconds, self._key = seconds, key

    @contextlib.contextmanager
    def exchange(
        self, method: str, url: str, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> "Iterator[tuple[httpx.Response, Deadline]]":
        """Yield the last response, neither busy nor a redirect, before its content is read.

        Args:
            content: a JSON document.

        Raises:
            HttpError: in the call, and for errors of the network in the block.
        """
        with Deadline(self._seconds) as deadline, contextlib.ExitStack() as stack, _translated(url, deadline):
            request = self._request(method, url, content, headers or {}, deadline)
            for _ in range(_REDIRECTS + 1):
                response = stack.enter_context(self._client(request.url)).send(request, stream=True)
                stack.callback(response.close)
                if not 300 <= response.status_code < 400:
                    break
                request = _redirected(response)
            else:
                raise UnreachableError(f"{shown(url)}: more than {_REDIRECTS} redirects")
            self._check(response, url)
            yield response, deadline

    def excerpt(self, content: bytes) -> str:
        """The beginning of a reply as printable text, without the key, which some servers repeat."""
        text = content[:EXCERPT].decode(errors="replace")
        return printable(text.replace(self._key, "***") if self._key else text)

    def _check(self, response: "httpx.Response", url: str) -> None:
        status, headers = response.status_code, response.headers
        if status in _BUSY or status >= 500:
            message = f"{shown(url)} fails with status {status}: {self.excerpt(beginning(response))}"
            raise HttpError(message, passing=True, retry_after=headers.get("Retry-After", ""))
        if headers.get("Content-Encoding", "identity") != "identity":
            raise HttpError(f"{shown(url)} compresses its replies, although it was asked not to")

    def _request(
        self, method: str, url: str, content: bytes | None, headers: Mapping[str, str], deadline: Deadline
    ) -> "httpx.Request":
        import httpx

        headers = {"User-Agent": "emola-edge", "Accept-Encoding": "identity", **headers}
        if content is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        timeout = httpx.Timeout(self._seconds, connect=min(self._seconds, _CONNECT))
        extensions = {"trace": deadline.watch, "timeout": timeout.as_dict()}
        request = httpx.Request(method, url, headers=headers, content=content, extensions=extensions)
        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise UnreachableError(f"expected an address that starts with http:// or https://, found {shown(url)}")
        return request

    def _client(self, url: "httpx.URL") -> "httpx.Client":
        import httpx

        proxy = f"the proxy that the environment names for {url.host} (ALL_PROXY, {url.scheme.upper()}_PROXY)"
        try:
            return httpx.Client(verify=self._tls, proxy=_proxy(url), trust_env=False)
        except ImportError:
            raise UnreachableError(
                f"{proxy} is a SOCKS proxy: install its package with pip install 'httpx[socks]', or name the host in "
                "NO_PROXY"
            ) from None
        except (ValueError, httpx.InvalidURL):
            raise UnreachableError(
                f"{proxy} cannot be used: expected http://, https:// or socks5:// with host and port"
            ) from None

    @cached_property
    def _tls(self) -> "ssl.SSLContext":
        import httpx

        try:
            return httpx.create_ssl_context()
        except OSError as error:
            raise UnreachableError(f"SSL_CERT_FILE or SSL_CERT_DIR names no readable certificates ({error})") from None


def blocks(response: "httpx.Response", deadline: Deadline, limit: int) -> Iterator[bytes]:
    """The content of a response block by block.

    Args:
        limit: of the whole, in bytes.

    Raises:
        HttpError: there is more.
    """
    received = 0
    for block in response.iter_raw():
        if received // STEP != (received + len(block)) // STEP:
            deadline.renew()
        received += len(block)
        if received > limit:
            raise HttpError(f"{shown(response.url)} sends more than the {limit} bytes that were expected")
        yield block


def beginning(response: "httpx.Response") -> bytes:
    """The first `EXCERPT` bytes of a response."""
    found = bytearray()
    for block in response.iter_raw():
        found += block
        if len(found) >= EXCERPT:
            break
    return bytes(found[:EXCERPT])


def printable(text: str, limit: int = 200) -> str:
    """The beginning of a text in one line, without control characters."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split())[:limit])


def shown(url: "str | httpx.URL") -> str:
    """An address for messages: without password, query and control characters."""
    import httpx

    try:
        parts = httpx.URL(url)
        return printable(f"{parts.scheme}://{parts.netloc.decode()}{parts.path}" if parts.host else str(url))
    except (httpx.InvalidURL, UnicodeError):
        return printable(str(url).rsplit("@", 1)[-1])


@contextlib.contextmanager
def _translated(url: str, deadline: Deadline) -> Iterator[None]:
    """Turn errors of the network into HttpError."""
    import httpx

    late = HttpError(f"{shown(url)} did not answer within {deadline.seconds:g} s", passing=True)
    try:
        yield
    except (httpx.InvalidURL, UnicodeError, OverflowError) as error:
        raise UnreachableError(f"{shown(url)} is not a usable address ({printable(str(error))})") from None
    except _network_errors() as error:
        if deadline.over or isinstance(error, httpx.TimeoutException):
            raise late from None
        why = printable(str(error))
        if isinstance(error, (httpx.ConnectError, httpx.ProxyError, httpx.UnsupportedProtocol)):
            raise UnreachableError(f"{shown(url)} cannot be reached ({why})", passing=True) from None
        raise HttpError(f"{shown(url)}: the exchange failed ({why})", passing=True) from None
    if deadline.over:
        raise late


def _network_errors() -> tuple[type[Exception], ...]:
    """Errors of httpx, and what it lets through: lengths of 5,000 digits (h11 0.14), replies of no SOCKS proxy."""
    import httpx

    try:
        from socksio import SOCKSError
    except ImportError:
        return (httpx.HTTPError, ValueError)
    return (httpx.HTTPError, ValueError, SOCKSError)


def _redirected(response: "httpx.Response") -> "httpx.Request":
    """The request that a redirect asks for.

    Raises:
        UnreachableError: it has no target, leads away from https, to no web server, or would send a document again.
    """
    request, where = response.next_request, f"{shown(response.url)}: status {response.status_code}"
    if request is None:
        raise UnreachableError(f"{where} without the address of a redirect")
    target = shown(request.url)
    if response.request.method != "GET":
        raise UnreachableError(f"{where} redirects to {target}; pass that address if it is right")
    if request.url.scheme not in ("https", response.url.scheme):
        raise UnreachableError(f"{where} redirects to {target}, which is not followed; is this a login page?")
    return request


def _proxy(url: "httpx.URL") -> str | None:
    """The proxy that the environment names for an address."""
    from urllib.request import getproxies, proxy_bypass

    if proxy_bypass(url.host):
        return None
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    return found if not found or "://" in found else f"http://{found}"
