"""How far a long command is: bars on stderr where it is a terminal, and lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress_bar(unit: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes the numbers done and in all and draws them; it draws nothing if stderr is piped."""
    from tqdm import tqdm

    with tqdm(unit=unit, delay=0.5, disable=None if shown and sys.stderr else True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


class Step(str):
    """A line that says how far a stage is.

    Attributes:
        done, total: the number of steps that are finished, and of all.
        what: the step, for people.
    """

    done: int
    total: int
    what: str

    def __new__(cls, line: str, done: int, total: int, what: str) -> "Self":
        step = super().__new__(cls, line)
        step.done, step.total, step.what = done, total, what
        return step


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


class Console:
    """Prints the lines of a long command on stderr; on a terminal, each Step moves a bar instead."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, line: str) -> None:
        """Print one line, above the bar if there is one."""
        if isinstance(line, Step) and sys.stderr.isatty():
            self._draw(line)
            return
        self.close()
        sys.stderr.write(f"{line}\n")

    def close(self) -> None:
        """End the bar of a stage."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, step: Step) -> None:
        from tqdm import tqdm

        if self._bar is None or (self._bar.total, self._bar.desc) != (step.total, step.what):
            self.close()
            self._bar = tqdm(total=step.total, initial=step.done, desc=step.what, leave=False)
        self._bar.update(step.done - self._bar.n)
        self._bar.refresh()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
