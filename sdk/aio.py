"""The verbs of Analyzer for asyncio: the work runs in threads, the event loop stays free."""

import asyncio
from collections.abc import AsyncIterator, Callable
from threading import Event
from typing import TypeVar

from sdk.analyzer import Analyzer
from sdk.arrays import Floats
from sdk.examine import Faces, Tasks
from sdk.faba.prompts import TASKS
from sdk.faces.images import Color, ImageSource
from sdk.results import Analysis

Result = TypeVar("Result")


class AsyncAnalyzer:
    """Awaitable `analyze`, `ask` and `stream` of an Analyzer; cancelling the awaiting task stops them within one token.

    Args:
        analyzer: does the work; closing it is left to the caller.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        self._analyzer = analyzer

    async def analyze(
        self,
        image: ImageSource,
        *,
        tasks: Tasks = TASKS,
        faces: Faces = "detect",
        color: Color | None = None,
        landmark_features: Floats | None = None,
        max_new_tokens: int | None = None,
    ) -> Analysis:
        """`Analyzer.analyze` with the same options."""
        return await _in_thread(
            lambda cancel: self._analyzer.analyze(
                image,
                tasks=tasks,
                faces=faces,
                color=color,
                landmark_features=landmark_features,
                max_new_tokens=max_new_tokens,
                cancel=cancel,
            )
        )

    async def ask(
        self, image: ImageSource, question: str, *, faces: Faces = "detect", color: Color | None = None
    ) -> str:
        """`Analyzer.ask` with the same options."""
        return await _in_thread(
            lambda cancel: self._analyzer.ask(image, question, faces=faces, color=color, cancel=cancel)
        )

    async def stream(
        self,
        image: ImageSource,
        question: str,
        *,
        faces: Faces = "detect",
        color: Color | None = None,
        cancel: Event | None = None,
    ) -> AsyncIterator[str]:
        """`Analyzer.stream` with the same options; leaving the loop stops it."""
        pieces = self._analyzer.stream(image, question, faces=faces, color=color, cancel=cancel)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


async def _in_thread(work: Callable[[Event], Result]) -> Result:
    """Run `work(cancel)` in a thread; if the awaiting task is cancelled, set `cancel` and wait for the thread."""
    cancel = Event()
    running = asyncio.get_running_loop().run_in_executor(None, work, cancel)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        cancel.set()
        await asyncio.wait([running])
        running.exception()  # our CancelledError; asyncio would report an exception that nobody fetched
        raise
