"""Time prefill, one step and a second question of the decoder at Vicuna-7B's shape, with random int4 weights."""

import numpy as np
import pytest
from vicuna import PREFIX, QUESTION

ROWS = np.random.default_rng(0).standard_normal((PREFIX, 4096)).astype(np.float32)


@pytest.fixture
def cache(vicuna):
    cache = vicuna.new_cache(1024)
    vicuna.extend(cache, ROWS)
    return cache


def test_prefill(benchmark, vicuna, cache):
    def prefill():
        cache.length = 0
        return vicuna.extend(cache, ROWS)

    expected = prefill().copy()
    found = benchmark.pedantic(prefill, rounds=5, warmup_rounds=1)
    np.testing.assert_array_equal(found, expected)


def test_step(benchmark, vicuna, cache):
    row = ROWS[:1]

    def step():
        cache.length = PREFIX
        return vicuna.extend(cache, row)

    expected = step().copy()
    found = benchmark.pedantic(step, rounds=30, warmup_rounds=3)
    np.testing.assert_array_equal(found, expected)


def test_second_question(benchmark, vicuna, cache):
    """Up to the first token of the answer."""

    def ask():
        cache.length = PREFIX
        return vicuna.extend(cache, vicuna.embed(range(10, 10 + QUESTION)))

    expected = ask().copy()
    found = benchmark.pedantic(ask, rounds=10, warmup_rounds=2)
    np.testing.assert_array_equal(found, expected)
