"""How far a long stage is, and how long the rest takes at the speed so far."""

import time
from collections.abc import Callable

from sdk.progress import Step

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Reports how far a stage is, at most one line in ten seconds.

    Args:
        report: called with one line.
        clock: returns seconds.
    """

    def __init__(self, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._report, self._clock = report, clock
        self._last = clock()
        self._begin: tuple[float, int] | None = None

    def at(self, done: int, total: int, what: str) -> None:
        """Report a line if the last one is old; the first call only marks where the speed is measured from.

        Args:
            done: steps that are finished.
            total: steps of the stage, all about as long.
            what: the step, for people.
        """
        now = self._clock()
        if self._begin is None:
            self._begin = (now, done)
        begin, before = self._begin
        if done <= before or done >= total or now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        left = (now - begin) / (done - before) * (total - done)
        line = f"  {what}: {100 * done / total:.0f} %, about {duration(left)} left"
        self._report(Step(line, done, total, what))


def duration(seconds: float) -> str:
    """A time for people: "40 s" or "12 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
