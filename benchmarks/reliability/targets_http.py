"""Replies of HTTP servers: the endpoint of a vision-language model, and the hub. The server is real and local."""

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from mutate import damaged_bytes, damaged_json, json_bytes
from seeds import picture_files
from targets_bundles import damaged_manifest
from worker import Call, Target

from sdk.errors import BundleError, DataError

_MAX_PAUSES_S = 60.0  # of one call
_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_COMPLETION = {
    "id": "x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "A smile."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 300, "completion_tokens": 20},
}
_MODEL = {"id": "owner/name", "modelId": "owner/name", "sha": _COMMIT, "siblings": [{"rfilename": "manifest.json"}]}
_TREE = [{"type": "file", "path": "manifest.json", "size": 100, "oid": "0"}]
_PORTAL = b"<html><head><title>Log in</title></head><body>Welcome to this network</body></html>"
_HEADERS = (
    *("Retry-After: 999999999", "Retry-After: -1", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", "Retry-After: x"),
    *("Content-Length: 0", "Content-Length: 99999999999", "Content-Length: x", "Transfer-Encoding: chunked"),
    *("Content-Encoding: gzip", "Content-Encoding: br", "Content-Type: text/html; charset=nothing", "Location: /x"),
    *("Location:", 'ETag: "../x"', "X-Repo-Commit: ..", "X-Linked-Size: -1", "X: " + "y" * 100_000, "Set-Cookie: \xff"),
)


def _reply(body: bytes, draw: Random) -> bytes:
    """A whole reply: mostly well formed, with an unusual status or header, or damaged as bytes."""
    status = draw.choice((200, 200, 200, 200, 201, 204, 301, 302, 400, 401, 404, 418, 429, 500, 503, 999))
    if draw.random() < 0.05:
        body = _PORTAL
    headers = [f"HTTP/1.1 {status} Something", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    headers += [f"X-Repo-Commit: {_COMMIT}", f'ETag: "{len(body)}"']
    for _ in range(draw.choice((0, 0, 0, 1, 2))):
        headers.insert(draw.randrange(1, len(headers) + 1), draw.choice(_HEADERS))
    reply = "\r\n".join(headers).encode("latin-1") + b"\r\nConnection: close\r\n\r\n" + body
    return damaged_bytes(reply, draw) if draw.random() < 0.15 else reply


def _completion(index: int) -> bytes:
    draw = Random(f"completion {index}")
    return _reply(damaged_json(_COMPLETION, draw) if draw.random() < 0.8 else json_bytes(_COMPLETION, draw), draw)


def _hub_reply(index: int) -> bytes:
    """Which of the replies is damaged, and that reply."""
    draw = Random(f"hub {index}")
    which = draw.choice(("model", "tree", "file"))
    body = damaged_manifest(index) if which == "file" else damaged_json({"model": _MODEL, "tree": _TREE}[which], draw)
    return which.encode() + b"\n" + _reply(body, draw)


class _Server:
    """Answers each connection with what `answer` returns for the path, byte for byte, and closes it."""

    def __init__(self, answer: Callable[[str, bool], bytes]) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        with connection:
            try:
                path, head = _read_request(connection)
                connection.sendall(self._answer(path, head))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except (OSError, ValueError):
                return


def _read_request(connection: socket.socket) -> tuple[str, bool]:
    """The path of a request, which is read to its end, and whether it is HEAD."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            raise OSError("closed")
        data += part
    header, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in header.lower().split(b"\r\n") if line.startswith(b"content-length")]
    missing = (int(lengths[0]) if lengths else 0) - len(body)
    while missing > 0 and (part := connection.recv(65536)):
        missing -= len(part)
    method, path, _ = header.split(b" ", 2)
    return path.decode("latin-1"), method == b"HEAD"


def _without_pauses(call: Call) -> Call:
    """The same call without the pauses between its attempts, which must be a minute in all at most."""
    paused = [0.0]

    def sleep(seconds: float) -> None:
        paused[0] += seconds
        if not 0 <= paused[0] <= _MAX_PAUSES_S:
            raise AssertionError(f"pauses of {paused[0]:.0f} s")

    def timed(data: bytes) -> None:
        paused[0] = 0.0
        call(data)

    time.sleep = sleep
    return timed


def _open_endpoint(scratch: Path) -> Call:
    from trainer.corpus.endpoint import ChatEndpoint

    reply = [b""]
    server = _Server(lambda path, head: reply[0])
    endpoint = ChatEndpoint(f"http://127.0.0.1:{server.port}/v1", "model", timeout=1.0, retries=1, pause=0.001)
    picture = next(file for file in picture_files() if file.startswith(b"\xff\xd8\xff"))

    def call(data: bytes) -> None:
        reply[0] = data
        assert isinstance(endpoint.ask(picture, "Which emotion?", 64).text, str)

    return _without_pauses(call)


def _open_hub(scratch: Path) -> Call:
    from sdk.bundles.hub import resolve_bundle

    damaged = ["", b""]
    whole = {name: json.dumps(value).encode() for name, value in (("model", _MODEL), ("tree", _TREE))}

    def answer(path: str, head: bool) -> bytes:
        which = "file" if "/resolve/" in path else "tree" if "/tree/" in path else "model"
        reply = damaged[1] if which == damaged[0] else _whole(whole.get(which, b"{}"))
        return reply.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head else reply

    server = _Server(answer)
    os.environ.update(HF_ENDPOINT=f"http://127.0.0.1:{server.port}", EMOLA_CACHE=str(scratch / "cache"))
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DOWNLOAD_TIMEOUT="1", HF_HUB_ETAG_TIMEOUT="1")

    def call(data: bytes) -> None:
        which, damaged[1] = data.split(b"\n", 1)
        damaged[0] = which.decode()
        shutil.rmtree(scratch / "cache", ignore_errors=True)
        try:
            resolve_bundle("owner/name")
        finally:
            outside = [path.name for path in scratch.iterdir() if path.name != "cache"]
            assert not outside, f"written outside of the cache: {outside}"

    return _without_pauses(call)


def _whole(body: bytes) -> bytes:
    header = f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nETag: "1"\r\nX-Repo-Commit: {_COMMIT}\r\n'
    return header.encode() + b"Connection: close\r\n\r\n" + body


HTTP_TARGETS = (
    Target("replies", "replies of an endpoint", _open_endpoint, _completion, (DataError,), 20_000, 2000),
    Target("hub", "replies of a hub", _open_hub, _hub_reply, (BundleError,), 2000, 200),
)
