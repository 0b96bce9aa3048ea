"""One Analyzer, many threads and tasks; stopping early."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sdk import Analyzer
from sdk.aio import AsyncAnalyzer
from sdk.errors import CancelledError


@pytest.fixture(scope="module")
def analyzer(bundle):
    with Analyzer(bundle()) as analyzer:
        yield analyzer


@pytest.fixture(scope="module")
def pictures(astronaut):
    """Six different crops of one face."""
    return [np.ascontiguousarray(astronaut[40 - i : 210 - i, 140 + 2 * i : 310 + 2 * i]) for i in range(6)]


def faces(analysis):
    return analysis.faces


def test_threads_get_the_answers_of_one_thread(analyzer, pictures):
    """Four threads, 24 analyses of six pictures, and streams among them: equal to the serial ones to the letter."""

    def analyze(picture):
        return analyzer.analyze(picture, color="rgb", faces="aligned", max_new_tokens=60).faces

    def ask(picture):
        return analyzer.ask(picture, "Why?", color="rgb", faces="aligned")

    serial = [(analyze(picture), ask(picture)) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        analyses = list(pool.map(analyze, pictures * 4))
        answers = list(pool.map(ask, pictures * 2))
    assert analyses == [faces for faces, _ in serial] * 4
    assert answers == [answer for _, answer in serial] * 2


def test_threads_share_the_detector(bundle, astronaut):
    """The first use, from four threads at once, opens one detector."""
    analyzer, picture = Analyzer(bundle()), Image.fromarray(astronaut)
    with ThreadPoolExecutor(4) as pool:
        boxes = list(pool.map(lambda _: analyzer.analyze(picture, tasks=()).faces[0].box_xyxy, range(8)))
    assert len(set(boxes)) == 1


def test_caches_are_used_again(analyzer, pictures):
    """After any number of calls, also abandoned and cancelled ones, no more caches exist than were in use at once."""
    for picture in pictures:
        stream = analyzer.stream(picture, "emotion", color="rgb", faces="aligned")
        next(stream)
        stream.close()
        with pytest.raises(CancelledError):
            analyzer.analyze(picture, color="rgb", faces="aligned", cancel=cancelled())
    assert len(analyzer.pipeline._free_caches) <= 4


def cancelled():
    event = threading.Event()
    event.set()
    return event


def test_cancelling_stops_within_one_token(analyzer, pictures):
    cancel = threading.Event()
    stream = analyzer.stream(pictures[0], "emotion", color="rgb", faces="aligned", cancel=cancel)
    next(stream)
    cancel.set()
    with pytest.raises(CancelledError, match="was cancelled"):
        list(stream)
    with pytest.raises(CancelledError):
        analyzer.analyze_batch(pictures, color="rgb", faces="aligned", cancel=cancel)


def test_asyncio(analyzer, pictures):
    """Three at once equal the serial ones; pieces of a stream arrive one by one; the loop stays free meanwhile."""
    options = {"color": "rgb", "faces": "aligned"}
    verbs, ticks = AsyncAnalyzer(analyzer), []

    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0.001)

    async def run():
        ticking = asyncio.create_task(tick())
        analyses = await asyncio.gather(*(verbs.analyze(p, max_new_tokens=60, **options) for p in pictures[:3]))
        answer = await verbs.ask(pictures[0], "Why?", **options)
        pieces = [piece async for piece in verbs.stream(pictures[0], "Why?", **options)]
        ticking.cancel()
        return analyses, answer, pieces

    analyses, answer, pieces = asyncio.run(run())
    assert [a.faces for a in analyses] == [
        analyzer.analyze(p, max_new_tokens=60, **options).faces for p in pictures[:3]
    ]
    assert "".join(pieces).strip() == answer == analyzer.ask(pictures[0], "Why?", **options)
    assert len(pieces) > 1
    assert len(ticks) > 3


def test_a_cancelled_task_stops_the_work(analyzer, pictures, monkeypatch):
    """Cancelled while it decodes: the await ends, and so does the thread's work, long before its 500 tokens."""
    decoder, steps, started = analyzer.pipeline.backend.decoder, [], threading.Event()
    extend = decoder.extend

    def counted(*arguments, **options):
        steps.append(1)
        if len(steps) > 5:
            started.set()
        return extend(*arguments, **options)

    monkeypatch.setattr(decoder, "extend", counted)
    monkeypatch.setattr("sdk.runtime.generate._Sampler.__call__", lambda self, logits: 5)  # never the stop token
    monkeypatch.setattr("sdk.runtime.speculate._greedy_choices", lambda logits: iter([(5, False)]))

    async def run():
        task = asyncio.create_task(AsyncAnalyzer(analyzer).analyze(pictures[0], color="rgb", faces="aligned"))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(steps)

    count = asyncio.run(run())
    assert count == len(steps) < 1000


def test_warmup_runs_every_stage(bundle):
    stages = Analyzer(bundle()).warmup()
    assert list(stages) == ["detect", "crop", "landmark", "vision", "prefill", "question", "decode", "labels"]
    assert all(milliseconds > 0 for milliseconds in stages.values())
