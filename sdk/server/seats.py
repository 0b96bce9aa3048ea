"""Admission: a few requests compute at once, a few more wait for a limited time, all others are sent away at once."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


class BusyError(Exception):
    """No seat was free in time.

    Attributes:
        retry_after: seconds after which a seat is probably free.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Limits:
    """How much a server takes on.

    Attributes:
        seats: requests that compute at once.
        waiting: requests that may wait for a seat.
        deadline_s: seconds that one may wait.
    """

    seats: int = 1
    waiting: int = 16
    deadline_s: float = 30.0


class Seats:
    """Runs generators in threads, at most one for each seat. Use it from one event loop.

    Attributes:
        limits: of this server.
        running, waiting: requests at this moment.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.running, self.waiting = limits, 0, 0
        self._free = asyncio.Semaphore(limits.seats)
        self._threads = ThreadPoolExecutor(limits.seats, "emola")
        self._mean_s = 1.0  # of a request, as an exponential average

    async def run(self, work: Callable[[Event], Iterator[Item]]) -> AsyncIterator[Item]:
        """Yield what `work` yields in a thread.

        The event that `work` gets is set when the caller leaves; the seat is free again when the thread has ended.

        Raises:
            BusyError: too many wait, or this one waited too long.
        """
        await self._sit()
        loop, items, cancel = asyncio.get_running_loop(), asyncio.Queue[object](), Event()

        def put(item: object) -> None:
            loop.call_soon_threadsafe(items.put_nowait, item)

        def drain() -> None:
            try:
                for item in work(cancel):
                    put(item)
            except Exception as error:
                put(error)
            put(_END)

        start = time.monotonic()
        loop.run_in_executor(self._threads, drain).add_done_callback(lambda _: self._rise(time.monotonic() - start))
        try:
            while (item := await items.get()) is not _END:
                if isinstance(item, Exception):
                    raise item
                yield item  # type: ignore[misc]  # put by `drain`
        finally:
            cancel.set()

    def close(self) -> None:
        """Wait for the threads."""
        self._threads.shutdown()

    def check_room(self) -> None:
        """Check that one more request may wait, before its picture is read.

        Raises:
            BusyError: too many wait.
        """
        if self._free.locked() and self.waiting >= self.limits.waiting:
            raise BusyError(f"{self.waiting} requests are waiting already", self._retry_after())

    async def _sit(self) -> None:
        self.check_room()
        self.waiting += 1
        try:
            await asyncio.wait_for(self._free.acquire(), self.limits.deadline_s)
        except asyncio.TimeoutError:
            message = f"no seat was free within {self.limits.deadline_s:g} s"
            raise BusyError(message, self._retry_after()) from None
        finally:
            self.waiting -= 1
        self.running += 1

    def _rise(self, seconds: float) -> None:
        self._mean_s += 0.2 * (seconds - self._mean_s)
        self.running -= 1
        self._free.release()

    def _retry_after(self) -> int:
        return max(1, math.ceil(self._mean_s * (self.waiting + 1) / self.limits.seats))
