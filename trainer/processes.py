"""Jobs in several processes, with their results in order.

Ctrl-C reaches only the process that started the others. They end with it, also when it is killed.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from sdk.errors import TrainingError
from trainer.interrupts import ignore_interrupts, starting_processes

Job = TypeVar("Job")
Result = TypeVar("Result")
_AHEAD = 3  # jobs per process that are handed out: one is worked on, the others wait, so that no process does


def in_processes(
    open_worker: Callable[[], Callable[[Job], Result]], jobs: Iterable[Job], processes: int
) -> Iterator[Result]:
    """Yield the result of each job, in the order of the jobs.

    Args:
        open_worker: called once in each process; what it returns is called with each job. It, jobs and results are
            pickled if there are several processes.
        jobs: taken a few at a time.
        processes: at least 1; with 1 everything happens in this process.

    Raises:
        TrainingError: one of the processes was ended from outside.
    """
    if processes == 1:
        yield from map(open_worker(), jobs)
        return
    executor = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _prepare, (open_worker,))
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            with starting_processes():  # the executor starts them one by one, as jobs come
                waiting.append(executor.submit(_work, job))
            if len(waiting) == _AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise TrainingError(
            "a process ended before its job was done, as when memory is short: start again, with fewer processes"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


_worker: Callable[[Any], Any]


def _prepare(open_worker: Callable[[], Callable[[Any], Any]]) -> None:
    """Prepare a new process."""
    global _worker
    ignore_interrupts()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = open_worker()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _work(job: Any) -> Any:
    return _worker(job)
