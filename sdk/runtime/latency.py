"""Time the stages of an opened bundle on the inputs of its reference."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from sdk.bundles.measured import Latency
from sdk.runtime.generate import Generation
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference

_ROUNDS, _MIN_ROUNDS = 7, 3
_SECONDS = 60.0  # a prefill of 7B takes 12 s on two cores


def measure_latency(pipeline: Pipeline, reference: Reference) -> tuple[Latency, ...]:
    """Median and 95th percentile of every stage on the reference samples, after one run that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ("landmark", "vision", "prefill", "question", "token")}
    backend, ids = pipeline.backend, pipeline.question_ids(reference.tasks[0])

    def timed(name: str, action: Callable[[], object], parts: int = 1) -> None:
        begin = time.perf_counter()
        action()
        times[name].append(1000 * (time.perf_counter() - begin) / parts)

    for index in _rounds():
        sample = index % len(reference.rows)
        features = reference.landmark_features[sample]
        if backend.landmark is not None and len(reference.landmark_pixels):
            pixels, landmark = reference.landmark_pixels[sample][None], backend.landmark
            timed("landmark", partial(landmark, pixels))
        inputs = (reference.pixel_values[sample][None], features[None])
        timed("vision", partial(backend.vision, *inputs))
        begin = time.perf_counter()
        with pipeline.encode_rows(reference.rows[sample], features) as face:
            times["prefill"].append(1000 * (time.perf_counter() - begin))
            tokens = Generation(backend.decoder, face.rewind(), ids, stop_ids=(), max_new_tokens=8)
            timed("question", partial(next, tokens))
            timed("token", partial(list, tokens), 8)
    warm = {name: found[1:] for name, found in times.items() if found}
    return tuple(
        Latency(
            variant=backend.name,
            stage=name,
            p50_ms=round(float(np.median(found)), 3),
            p95_ms=round(float(np.percentile(found, 95)), 3),
        )
        for name, found in warm.items()
    )


def _rounds() -> Iterator[int]:
    """Count rounds: one and seven more, or as many as begin within a minute, but one and three more at least."""
    begin = time.perf_counter()
    for index in range(1 + _ROUNDS):
        if index > _MIN_ROUNDS and time.perf_counter() - begin > _SECONDS:
            return
        yield index
