"""A server on this machine that answers whatever bytes a test says, at whatever pace."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Hostile:
    """What a server was asked.

    Attributes:
        url: its address.
        requests: the head of each request.
        sent: bytes of the answers that left.
    """

    def __init__(self, url: str) -> None:
        self.url, self.requests, self.sent = url, [], 0


@contextmanager
def hostile_server(answer: Callable[[bytes], Iterator[bytes]], context=None) -> Iterator[Hostile]:
    """Serve until the block ends.

    Args:
        answer: takes the head of a request, yields the pieces of the answer.
        context: an SSL context for https.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    scheme = "http" if context is None else "https"
    server, threads = Hostile(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"), []

    def serve(connection):
        with suppress(OSError), connection:  # a client that has enough is no error here
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request and (block := connection.recv(65536)):
                request += block
            server.requests.append(request.split(b"\r\n\r\n")[0])
            for piece in answer(request):
                connection.sendall(piece)
                server.sent += len(piece)
            connection.close()

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield server
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (acceptor, *threads):
            thread.join()


def head(status: int = 200, **headers: object) -> bytes:
    """The head of an answer; `Content_Length=3` is the header Content-Length."""
    lines = [f"HTTP/1.1 {status} Any", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(content: bytes, status: int = 200, **headers: object) -> bytes:
    """An answer with its content."""
    return head(status, Content_Length=len(content), **headers) + content
