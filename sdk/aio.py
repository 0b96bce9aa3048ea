"""The same verbs for asyncio: the work runs in threads, the event loop stays free."""

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
        analyzer: whose weights are used; it stays usable, and open, by itself.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        self._analyzer = analyzer

    async def analyze(self, image: ImageSource, **options: Any) -> Analysis:
        """`Analyzer.analyze` with the same options."""
        return await _in_thread(lambda cancel: self._analyzer.analyze(image, cancel=cancel, **options))

    async def ask(self, image: ImageSource, question: str, **options: Any) -> str:
        """`Analyzer.ask` with the same options."""
        return await _in_thread(lambda cancel: self._analyzer.ask(image, question, cancel=cancel, **options))

    async def stream(self, image: ImageSource, question: str, **options: Any) -> AsyncIterator[str]:
        """`Analyzer.stream` with the same options; leaving the loop stops it."""
        pieces = self._analyzer.stream(image, question, **options)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


async def _in_thread(work: Callable[[Event], Result]) -> Result:
    """Run `work(cancel)` in a thread; when the task that awaits it is cancelled, tell it so and wait for it to stop."""
    cancel = Event()
    running = asyncio.get_running_loop().run_in_executor(None, work, cancel)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        cancel.set()
        await asyncio.wait([running])
        running.exception()  # CancelledError of ours; unfetched, asyncio would report it as lost
        raise
