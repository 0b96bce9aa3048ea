"""Wall time per stage, added up over repeated runs."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Measures stages: `with clock("vision"): ...`.

    Attributes:
        elapsed_ms: milliseconds by stage, in the order in which the stages first ended.
    """

    def __init__(self) -> None:
        self.elapsed_ms: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.elapsed_ms[stage] += 1000 * (time.perf_counter() - start)
