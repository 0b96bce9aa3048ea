"""Wall time per stage, summed over repeated visits."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Collects milliseconds by stage: `with clock("vision"): ...`; `elapsed_ms` keeps the order of first visits."""

    def __init__(self) -> None:
        self.elapsed_ms: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.elapsed_ms[stage] += 1000 * (time.perf_counter() - start)
