"""The one HTTP client against servers that mean harm: one clear HttpError, in bounded memory and time."""

import contextlib
import email.utils
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from hostile_server import head, hostile_server, whole

from sdk.errors import DependencyError
from sdk.web import client
from sdk.web.client import HttpClient, Limits
from sdk.web.exchange import HttpError, UnreachableError

pytest.importorskip("httpx")

KEY = "sk-very-secret"
QUICK = Limits(size=1 << 20, attempts=2, pause=0.01)
BRIEF = Limits(size=1 << 20, seconds=0.4, attempts=2, pause=0.01)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def fails(answer, message, error=HttpError, limits=QUICK, path="/document", **server):
    """Ask a server; returns what it was asked after the expected error in one printable line without the key."""
    with hostile_server(answer, **server) as asked:
        with pytest.raises(error, match=message) as caught:
            HttpClient(limits, KEY).get(asked.url + path)
        assert type(caught.value) is error
        assert str(caught.value).isprintable()
        assert KEY not in str(caught.value)
    return asked


def slowly(*pieces, pause=0.1, content=b""):
    """Send pieces with pauses that are each shorter than any timeout, then the rest."""

    def answer(request):
        for piece in pieces:
            yield piece
            time.sleep(pause)
        yield content

    return answer


def test_an_ordinary_server():
    """Content, the key, and a redirect to another path."""

    def answer(request):
        yield whole(b"", 302, Location="/there") if request.startswith(b"GET /here") else whole(b"found")

    with hostile_server(answer) as server:
        reply = HttpClient(QUICK, KEY).get(server.url + "/here")
    assert (reply.status, reply.content, reply.excerpt) == (200, b"found", "found")
    assert [request.split()[1] for request in server.requests] == [b"/here", b"/there"]
    assert all(f"Authorization: Bearer {KEY}".encode() in request for request in server.requests)


@pytest.mark.parametrize("start", [head(), head(Transfer_Encoding="chunked"), head(Content_Length=1 << 40)])
def test_an_endless_reply_is_not_read(start):
    """Unlimited, in chunks, or announced as 1 TB: the client leaves after the limit of 1 MiB."""
    block = b"40000\r\n" + b" " * 0x40000 + b"\r\n" if b"chunked" in start else b" " * 0x40000

    def answer(request):
        yield start
        yield from itertools.repeat(block, 400)

    asked = fails(answer, "sends more than the 1048576 bytes", limits=Limits(size=1 << 20, attempts=3))
    assert len(asked.requests) == 1, "another attempt would be as long"
    assert asked.sent < 50 << 20  # what fits into the buffers of the system


def test_a_compressed_reply_is_not_expanded():
    fails(lambda request: iter([whole(b"\x1f\x8b\x08bomb", Content_Encoding="gzip")]), "compresses its replies")


@pytest.mark.parametrize(
    "answer",
    [
        slowly(*itertools.repeat(b"x", 30)),
        slowly(b"HTTP/1.1 200 OK\r\n", *(f"X-{n}: slow\r\n".encode() for n in range(30)), content=b"\r\n"),
        slowly(*itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n", 30), content=whole(b"late")),
        slowly(head(Content_Length=30), *itertools.repeat(b"x", 30)),
        slowly(head(), *itertools.repeat(b"x", 30)),
        slowly(head(Transfer_Encoding="chunked"), *itertools.repeat(b"0", 30)),
        slowly(b"", pause=1.0, content=whole(b"late")),
    ],
    ids=["status line", "headers", "continue", "content", "unknown length", "chunk size", "silence"],
)
def test_slow_bytes_do_not_outlast_the_time_limit(answer):
    """A byte in every 0.1 s keeps any timeout of a single read from firing; the limit is 0.4 s for the whole."""
    assert len(fails(answer, r"did not answer within 0\.4 s", limits=BRIEF).requests) == BRIEF.attempts


def test_a_slow_handshake_does_not_outlast_the_time_limit():
    """TLS: the server begins a record of 16 kB and sends it byte by byte."""
    answer = slowly(b"\x16\x03\x03\x40\x00\x02", *itertools.repeat(b"\x00", 80))
    with hostile_server(answer) as server, pytest.raises(HttpError, match=r"did not answer within 2 s"):
        HttpClient(Limits(seconds=2)).get(server.url.replace("http:", "https:"))


def test_a_long_reply_may_take_longer():
    """Each MiB has the whole time: 3 MiB in 2.4 s pass a limit of 2 s."""
    mib = b"x" * (1 << 20)
    with hostile_server(slowly(head(Content_Length=3 << 20), mib, mib, mib, pause=0.8)) as server:
        assert len(HttpClient(Limits(size=4 << 20, seconds=2)).get(server.url).content) == 3 << 20


def test_pauses_double_and_retry_after_wins(monkeypatch):
    """Without the header 0.1, 0.2, 0.4 s; with "1" one second, with a date until then."""
    pauses = []
    monkeypatch.setattr(client.time, "sleep", pauses.append)
    then = email.utils.formatdate(time.time() + 100, usegmt=True)
    for busy in ([{}] * 3, [{"Retry-After": "1"}], [{"Retry-After": then}], [{"Retry-After": "soon"}]):
        replies = iter([*(whole(b"busy", 429, **headers) for headers in busy), whole(b"done")])
        with hostile_server(lambda request, replies=replies: iter([next(replies)])) as server:
            assert HttpClient(Limits(attempts=4, pause=0.1)).get(server.url).content == b"done"
    assert pauses == [*map(pytest.approx, (0.1, 0.2, 0.4, 1)), pytest.approx(95, abs=5), pytest.approx(0.1)]


@pytest.mark.parametrize("asked", ["999999999", "9" * 5000, "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_pause_of_years_is_refused(asked, monkeypatch):
    monkeypatch.setattr(client.time, "sleep", lambda seconds: pytest.fail(f"slept {seconds} s"))
    busy = whole(b"busy", 429, Retry_After=asked)
    assert len(fails(lambda request: iter([busy]), r"asks for a pause of \S+ s \(limit 120 s\)").requests) == 1


@pytest.mark.parametrize(
    ("location", "message"),
    [
        (None, "status 302 without the address of a redirect"),
        ("file:///etc/passwd", "redirects to file://127.0.0.1/etc/passwd, which is not followed"),
        ("ftp://127.0.0.1/", "redirects to ftp://127.0.0.1/, which is not followed"),
        ("/document", "more than 5 redirects"),
        ("http://127.0.0.1:99999/", "cannot be reached|not a usable address"),
        ("http://[/", "cannot be reached|exchange failed"),
        ("http:///\x1b[2J", "exchange failed|not a usable address|cannot be reached"),
    ],
)
def test_redirects_that_lead_nowhere(location, message):
    where = {} if location is None else {"Location": location}
    with hostile_server(lambda request: iter([whole(b"", 302, **where)])) as server:
        with pytest.raises(HttpError, match=message) as caught:
            HttpClient(QUICK).get(server.url + "/document")
        assert str(caught.value).isprintable()


def test_a_redirect_from_https_to_http_is_not_followed(tmp_path, monkeypatch):
    """A hotel's login page, or someone who wants to read the key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*new, *files, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    with hostile_server(lambda request: iter([whole(b"login")])) as login:
        away = whole(b"", 302, Location=login.url)
        fails(
            lambda request: iter([away]),
            "which is not followed; is this a login page",
            UnreachableError,
            context=context,
        )
        assert login.requests == []
    monkeypatch.delenv("SSL_CERT_FILE")
    fails(lambda request: iter([whole(b"x")]), "cannot be reached.*certificate", UnreachableError, context=context)


def test_the_key_stays_with_its_server():
    """A redirect to another server is followed without the key."""
    with (
        hostile_server(lambda request: iter([whole(b"stored here")])) as storage,
        hostile_server(lambda request: iter([whole(b"", 307, Location=storage.url + "/file")])) as server,
    ):
        assert HttpClient(QUICK, KEY).get(server.url).content == b"stored here"
    assert KEY.encode() in server.requests[0]
    assert KEY.encode() not in storage.requests[0]


def test_a_document_is_not_sent_to_another_address():
    message = "redirects to http://127.0.0.1:1/v1; pass that address if it is right"
    with (
        hostile_server(lambda request: iter([whole(b"", 307, Location="http://127.0.0.1:1/v1")])) as server,
        pytest.raises(UnreachableError, match=message),
    ):
        HttpClient(QUICK, KEY).post(server.url, b"{}")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff" * 100,
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: bogus\r\n\r\n",
        whole(b"cut off")[:-3],
    ],
)
def test_what_is_no_http(answer):
    fails(lambda request: iter([answer]), "the exchange failed")


def test_messages_hold_no_escapes_and_no_secrets():
    """The server repeats the key and sends escapes for the terminal; the address holds a password."""
    evil = whole(b"\x1b]0;owned\x07 " + KEY.encode() + b"\xff\nnext", 503)
    with (
        hostile_server(lambda request: iter([evil])) as server,
        pytest.raises(HttpError, match=r"503: \?\]0;owned\? \*\*\*. next") as caught,
    ):
        HttpClient(QUICK, KEY).get(server.url.replace("//", "//user:password@") + "/x?signature=1")
    assert str(caught.value).isprintable()
    assert not {"password", "signature", KEY} & set(str(caught.value).replace("@", " ").split())
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:99999/", "99999"),
        ("http://[::1", r"not a usable address"),
        ("http://" + "a" * 70 + ".example/", "cannot be reached|not a usable address"),
        ("http://127.0.0.1:1/", "cannot be reached"),
        ("file:///etc/passwd", "starts with http:// or https://"),
        ("huggingface.co", "starts with http:// or https://, found huggingface.co"),
        ("http://a\x00b/", "not a usable address"),
    ],
)
def test_addresses_without_a_server(url, message):
    with pytest.raises(UnreachableError, match=message) as caught:
        HttpClient(QUICK).get(url)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["ALL_PROXY", "HTTP_PROXY"])
def test_a_socks_proxy_without_its_package(name, monkeypatch):
    """One line that says what to install; a host in NO_PROXY needs no proxy, so that it works."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(name, "socks5://user:password@127.0.0.1:1080")
    with hostile_server(lambda request: iter([whole(b"direct")])) as server:
        with pytest.raises(UnreachableError, match=r"SOCKS proxy: .*pip install 'httpx\[socks\]'.*NO_PROXY") as caught:
            HttpClient(QUICK).get(server.url)
        assert "password" not in str(caught.value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert HttpClient(QUICK).get(server.url).content == b"direct"


@pytest.mark.parametrize("reply", [b"", b"\x05", b"\x05\xff", b"\xff" * 50, b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_socks_proxy_that_speaks_something_else(reply, monkeypatch):
    pytest.importorskip("socksio")
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer():
            connection, _ = proxy.accept()
            with connection:
                connection.recv(100)
                connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises(HttpError, match="the exchange failed|cannot be reached"):
            HttpClient(Limits()).get("http://example.invalid/")
        thread.join()


@pytest.mark.parametrize("proxy", ["socks://127.0.0.1:1080", "socks4://127.0.0.1:1", "quic://x:password@y"])
def test_a_proxy_of_an_unknown_kind(proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(UnreachableError, match="cannot be used: expected http://, https:// or socks5://") as caught:
        HttpClient(QUICK).get("http://127.0.0.1:1/")
    assert "password" not in str(caught.value)


def test_a_proxy_is_used(monkeypatch):
    with hostile_server(lambda request: iter([whole(b"from the proxy")])) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url.removeprefix("http://"))
        assert HttpClient(QUICK).get("http://example.invalid/x").content == b"from the proxy"
    assert server.requests[0].startswith(b"GET http://example.invalid/x HTTP/1.1")


def test_certificates_that_are_not_there(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    with pytest.raises(UnreachableError, match="SSL_CERT_FILE or SSL_CERT_DIR names no readable certificates"):
        HttpClient(QUICK).get("https://127.0.0.1:1/")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux lists the open descriptors there")
def test_connections_and_threads_end():
    """After a hundred requests, good and late ones, no thread and no descriptor is left."""
    answers = itertools.cycle([[whole(b"x")], [b"HTTP/1.1 200 OK\r\n", None]])

    def answer(request):
        for piece in next(answers):
            if piece is None:
                time.sleep(0.1)
            else:
                yield piece

    asking = HttpClient(Limits(seconds=0.05))

    def ask(server):
        with contextlib.suppress(HttpError):
            asking.get(server.url)

    with hostile_server(answer) as server:
        ask(server)
        ask(server)
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with hostile_server(answer) as server:
        for _ in range(100):
            ask(server)
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_an_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(DependencyError, match=r"httpx is needed.*emola-edge\[hub\]"):
        HttpClient(QUICK)
