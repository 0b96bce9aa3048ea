"""`emola serve` with several seats: answers share decode steps, and each is the one that the picture gets alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import httpx
import pytest
from PIL import Image, ImageOps
from test_server import FACE, OTHER, events, picture_url, question, served, upload, wait_until_ready, words

from sdk.analyzer import Analyzer
from sdk.server.app import Settings
from sdk.server.seats import Limits

SEATS = 6
SLOW_S = 0.01  # added to a step, as if the model were larger: answers that begin together overlap


def mirrored(picture):
    file = BytesIO()
    ImageOps.mirror(Image.open(BytesIO(picture))).save(file, "PNG")
    return file.getvalue()


PICTURES = (FACE, OTHER, mirrored(FACE), mirrored(OTHER))


@pytest.fixture(scope="module")
def analyzer():
    with Analyzer(threads=1) as opened:
        yield opened


@pytest.fixture
def sizes(analyzer, monkeypatch):
    """The number of sequences of every step; steps and drafts are slowed down."""
    found, decoder = [], analyzer.pipeline.backend.decoder
    step, extend = decoder.step, decoder.extend

    def slow_step(pool, rows):
        found.append(len(rows))
        time.sleep(SLOW_S)
        return step(pool, rows)

    def slow_extend(*given, **options):
        time.sleep(SLOW_S)
        return extend(*given, **options)

    monkeypatch.setattr(decoder, "step", slow_step)
    monkeypatch.setattr(decoder, "extend", slow_extend)
    return found


@pytest.fixture
def address(analyzer, sizes):
    with served(analyzer, Settings(Limits(SEATS, waiting=40, deadline_s=120), share_from_bytes=0)) as found:
        wait_until_ready(found)
        yield found


def analysed(address, picture):
    return words(httpx.post(f"{address}/v1/analyze", **upload(picture), timeout=120).json())


def streamed(address, picture):
    """The analysis of a stream; its pieces of text must add up to the list of action units of the first face."""
    found = list(events(httpx.post(f"{address}/v1/stream", **upload(picture), timeout=120)))
    spoken = [data for name, data in found if name == "text" and data["face"] == 0]
    pieces = [data["text"] for data in spoken if data["task"] == "action_units"]
    analysis = words(found[-1][1])
    assert "".join(pieces).strip() == analysis["faces"][0]["action_units_text"]
    return analysis


def answered(address, picture, text):
    body = {"model": "m", "messages": question(text, picture_url(picture))}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=120).json()["choices"][0]["message"]


def test_different_pictures_and_questions_at_once(analyzer, address, sizes):
    """Four kinds of requests about four pictures, all at once, and all of them twice."""
    analyses = {picture: words(analyzer.analyze(picture)) for picture in PICTURES}
    questions = [(picture, text) for picture in PICTURES for text in ("emotion", "action_units")]
    said = {job: {"role": "assistant", "content": analyzer.ask(*job)} for job in questions}
    with ThreadPoolExecutor(4 * SEATS) as clients:
        started = [
            request
            for picture in PICTURES * 2
            for request in (
                (clients.submit(analysed, address, picture), analyses[picture]),
                (clients.submit(streamed, address, picture), analyses[picture]),
                *((clients.submit(answered, address, *job), said[job]) for job in questions if job[0] == picture),
            )
        ]
        for request, answer in started:
            assert request.result() == answer
    assert max(sizes) > 2


def test_text_streams_while_others_decode(address, sizes):
    """The first piece arrives before the last is decoded: the stream does not wait for the answers beside it."""
    for picture in PICTURES:
        analysed(address, picture)
    del sizes[:]
    beside = [threading.Thread(target=analysed, args=(address, picture)) for picture in PICTURES[1:]]
    for thread in beside:
        thread.start()
    steps_at = []
    with httpx.stream("POST", f"{address}/v1/stream", **upload(FACE), timeout=120) as stream:
        for line in stream.iter_lines():
            if line == "event: text":
                steps_at.append(len(sizes))
    for thread in beside:
        thread.join()
    assert steps_at[0] < steps_at[len(steps_at) // 2] < steps_at[-1]


def test_a_client_that_leaves_gives_its_place_in_the_steps_to_the_next(analyzer, address, sizes):
    """Clients leave in the middle of their text, more of them than there are seats; an answer beside them is right."""
    expected = words(analyzer.analyze(OTHER))
    for _ in range(SEATS + 2):
        with ThreadPoolExecutor(1) as clients:
            beside = clients.submit(analysed, address, OTHER)
            with httpx.stream("POST", f"{address}/v1/stream", **upload(FACE), timeout=120) as stream:
                next(line for line in stream.iter_lines() if line == "event: text")
            assert beside.result() == expected
    while "emola_running 0.0" not in httpx.get(f"{address}/metrics").text:
        time.sleep(0.02)
    assert max(sizes) == 2
    assert streamed(address, FACE) == words(analyzer.analyze(FACE))
