"""A time limit for a whole exchange over the network, which timeouts of single reads and writes do not give."""

import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any


class Deadline:
    """Breaks the connections of a block when its time is up, whether it waits for TLS, headers or content.

    The block then sees an error, or the end of the content: ask `over` which one it was. The lookup of a name is
    outside of it; the system limits that.

    Args:
        seconds: from the beginning of the block, or from `renew`.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.over = seconds, False
        self._sockets: list[socket.socket] = []
        self._streams: list[Any] = []
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._guard, name="deadline", daemon=True)

    def __enter__(self) -> "Deadline":
        self.renew()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()
        for each in (*self._sockets, *self._streams):  # httpcore forgets some after a failed handshake
            each.close()

    def renew(self) -> None:
        """Grant the whole time again."""
        self._end = time.monotonic() + self.seconds

    def watch(self, event: str, info: Mapping[str, Any]) -> None:
        """Add each new connection: the `trace` extension of a request of httpx."""
        if event.endswith("connect_tcp.complete"):
            # A duplicate stays valid when TLS takes the socket over; shutting it down breaks the connection itself.
            self._streams.append(info["return_value"])
            self._sockets.append(info["return_value"].get_extra_info("socket").dup())
            if self.over:
                self._break()

    def _guard(self) -> None:
        while (remaining := self._end - time.monotonic()) > 0:
            if self._left.wait(remaining):
                return
        self.over = True
        self._break()

    def _break(self) -> None:
        for each in tuple(self._sockets):
            with contextlib.suppress(OSError):  # the other side was faster
                each.shutdown(socket.SHUT_RDWR)
