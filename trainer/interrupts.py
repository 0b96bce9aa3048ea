"""Ctrl-C with several processes: the terminal sends it to all, but only the parent answers, and ends the others."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def starting_processes() -> Iterator[None]:
    """Start processes in the block; Ctrl-C does not reach them, not even while they import their modules."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C in this process, which another one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
