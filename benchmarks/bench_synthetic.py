"""Measure rendered faces per second, from the random person to JPEG bytes; the goal is 40 on two cores, so 20 on one.

These benchmarks need ICT-FaceKit: set EMOLA_FACE_MODEL to its folder FaceXModel or to the repacked archive.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from trainer.synthetic.face_model import read_face_model
from trainer.synthetic.rendered_face import render_face
from trainer.synthetic.scene import Studio
from trainer.synthetic.synthesize import CHUNK, synthesize

REAL = Path(
    os.environ.get("EMOLA_FACE_MODEL", Path(__file__).parents[2] / "shared/face_model/ict_face_model_light.npz")
)
FACES = 40

pytestmark = pytest.mark.skipif(not REAL.exists(), reason=f"no ICT-FaceKit at {REAL}: set EMOLA_FACE_MODEL")


def test_one_core(benchmark):
    """40 people, one after the other, in one thread."""
    studio = Studio(read_face_model(REAL))

    def render() -> int:
        return sum(len(render_face(studio, np.random.default_rng(seed)).image) for seed in range(FACES))

    with threadpool_limits(1):
        assert benchmark.pedantic(render, rounds=5, warmup_rounds=1) > 0
    benchmark.extra_info["faces_per_second"] = FACES / benchmark.stats.stats.median


def test_two_processes(benchmark, tmp_path):
    """Two processes write a set of 400 faces; the rate excludes the start-up.

    The clock starts with the first face that is written. At that moment both processes have finished their first chunk,
    so the faces of these two chunks are not counted.
    """
    synthesize(tmp_path / "warm", 16, REAL, processes=2)  # compiles what numba has not cached yet
    rates = []

    def write(number: int) -> None:
        moments: list[float] = []
        synthesize(
            tmp_path / f"{number}", 400, REAL, processes=2, report=lambda done: moments.append(time.perf_counter())
        )
        rates.append((len(moments) - 2 * CHUNK) / (moments[-1] - moments[0]))

    numbers = iter(range(3))
    benchmark.pedantic(lambda: write(next(numbers)), rounds=3)
    benchmark.extra_info["faces_per_second"] = float(np.median(rates))
