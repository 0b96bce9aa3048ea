"""The verbs of Analyzer for asyncio: the work runs in threads, the event loop stays free."""

import asyncio
from collections.abc import AsyncIterator, Callable
from threading import Event
from typing import Any, TypeVar

from sdk.analyzer import Analyzer
from sdk.faces.images import ImageSource
from sdk.results import Analysis

Result = TypeVar("Result")


class AsyncAnalyzer:
    """Awaitable `analyze`, `ask` and `stream` of an Analyzer; cancelling the awaiting task stops them within one token.

    Args:
        analyzer: an open Analyzer. It can still be used directly, and the caller closes it.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        self._analyzer = analyzer

    async def analyze(self, image: ImageSource, **options: Any) -> Analysis:
        """Await `Analyzer.analyze`; the options are the same."""
        return await _in_thread(lambda cancel: self._analyzer.analyze(image, cancel=cancel, **options))

    async def ask(self, image: ImageSource, question: str, **options: Any) -> str:
        """Await `Analyzer.ask`; the options are the same."""
        return await _in_thread(lambda cancel: self._analyzer.ask(image, question, cancel=cancel, **options))

    async def stream(self, image: ImageSource, question: str, **options: Any) -> AsyncIterator[str]:
        """Iterate over `Analyzer.stream`; the options are the same. Leaving the loop stops the decoding."""
        pieces = self._analyzer.stream(image, question, **options)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


async def _in_thread(work: Callable[[Event], Result]) -> Result:
    """Run `work(cancel)` in a thread; when the awaiting task is cancelled, set `cancel` and wait for the thread."""
    cancel = Event()
    running = asyncio.get_running_loop().run_in_executor(None, work, cancel)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        cancel.set()
        await asyncio.wait([running])
        running.exception()  # our CancelledError; asyncio logs an exception that nobody retrieves
        raise
