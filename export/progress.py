"""How far a long stage is, and how long the rest takes at the speed so far."""

import time
from collections.abc import Callable

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Reports the steps of a stage, at most one line in ten seconds.

    Args:
        report: called with one line.
        clock: returns seconds.
    """

    def __init__(self, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._report, self._clock = report, clock
        self._begin = self._last = clock()
        self._done = 0

    def step(self, what: str, total: int) -> None:
        """Count one more of `total` equal steps.

        Args:
            what: the step, for people.
            total: number of steps of the stage.
        """
        self._done += 1
        now = self._clock()
        if now - self._last < _SECONDS_BETWEEN_LINES or self._done >= total:
            return
        self._last = now
        left = (now - self._begin) / self._done * (total - self._done)
        self._report(f"  {what}: {100 * self._done / total:.0f} %, about {duration(left)} left")


def duration(seconds: float) -> str:
    """A time for people: "40 s" or "12 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
