"""`emola serve`: answers equal those of the SDK, limits hold, and nothing that a client sends breaks the server."""

import base64
import json
import threading
import time
from contextlib import contextmanager
from io import BytesIO

import httpx
import pytest
import uvicorn
from PIL import Image

from sdk.analyzer import Analyzer
from sdk.commands.demo import PICTURES
from sdk.server.app import Settings, create_app
from sdk.server.seats import Limits

FACE = (PICTURES / "astronaut.jpg").read_bytes()
OTHER = (PICTURES / "rendered.jpg").read_bytes()


@contextmanager
def served(analyzer, settings=None):
    """A server on loopback; yields its address."""
    server = uvicorn.Server(uvicorn.Config(create_app(analyzer, settings), port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def analyzer():
    with Analyzer() as opened:
        yield opened


@pytest.fixture(scope="module")
def server(analyzer):
    with served(analyzer) as address, httpx.Client(base_url=address, timeout=120) as client:
        yield client


def upload(picture=FACE, **options):
    return {"files": {"image": picture}, "data": options}


def words(analysis):
    """An analysis without what differs between two runs."""
    found = analysis if isinstance(analysis, dict) else json.loads(analysis.to_json())
    return {key: found[key] for key in ("faces", "image_size", "model", "status", "warnings")}


def events(response):
    """Server-sent events as (name, data)."""
    for block in response.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        yield fields.get("event"), data if data == "[DONE]" else json.loads(data)


def test_the_answer_equals_that_of_the_sdk(server, analyzer):
    direct = words(analyzer.analyze(FACE))
    form = server.post("/v1/analyze", **upload())
    assert form.status_code == 200
    assert words(form.json()) == direct
    content = {"image": base64.b64encode(FACE).decode(), "tasks": ["emotion"]}
    assert words(server.post("/v1/analyze", json=content).json()) == words(analyzer.analyze(FACE, tasks=("emotion",)))


def test_streamed_text_equals_the_other(server, analyzer):
    found = list(events(server.post("/v1/stream", **upload())))
    assert found[0][0] == "faces"
    assert found[-1][0] == "done"
    (face,) = found[-1][1]["faces"]
    assert words(found[-1][1]) == words(analyzer.analyze(FACE))
    assert [list(face["box_xyxy"])] == [list(box) for box in found[0][1]["boxes_xyxy"]]
    units = "".join(data["text"] for name, data in found if name == "text" and data["task"] == "action_units")
    assert units.strip() == face["action_units_text"]
    assert sum(name == "text" for name, _ in found) > 2


def test_boxes_are_in_pixels_of_a_large_picture(server, analyzer):
    """It is read at half of its size, as by the SDK."""
    with Image.open(PICTURES / "astronaut.jpg") as picture:
        large = Image.new("RGB", (8400, 2048))
        large.paste(picture.resize((2048, 2048)))
    file = BytesIO()
    large.save(file, "JPEG")
    found = server.post("/v1/analyze", **upload(file.getvalue(), tasks="emotion")).json()
    assert found["image_size"] == [8400, 2048]
    assert words(found) == words(analyzer.analyze(file.getvalue(), tasks=("emotion",)))
    assert max(face["box_xyxy"][2] for face in found["faces"]) > 1000  # in the picture as it was read: 540


def test_a_second_question_finds_the_face_read(server):
    def hits():
        return int(float(server.get("/metrics").text.split("\nemola_cache_hits ")[1].split("\n")[0]))

    server.post("/v1/analyze", **upload())
    before = hits()
    assert "prefill" not in server.post("/v1/analyze", **upload()).json()["timing_ms"]
    assert hits() == before + 1


def test_a_tiny_cache_mixes_no_answers(analyzer):
    """200 interleaved pictures, four clients: every answer belongs to its picture."""
    direct = {picture: words(analyzer.analyze(picture, tasks=("emotion",))) for picture in (FACE, OTHER)}
    wrong = []
    per_face = analyzer.info()["memory"]["per_face"]
    with served(analyzer, Settings(Limits(seats=2, waiting=8), cache_bytes=per_face)) as address:

        def client(start):
            with httpx.Client(base_url=address, timeout=120) as http:
                for number in range(50):
                    picture = (FACE, OTHER)[(start + number) % 2]
                    answer = http.post("/v1/analyze", **upload(picture, tasks="emotion"))
                    if answer.status_code != 200 or words(answer.json()) != direct[picture]:
                        wrong.append(answer.text)

        clients = [threading.Thread(target=client, args=(start,)) for start in range(4)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    assert not wrong


def picture_url(picture=FACE):
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"


def question(text, url=None):
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url or picture_url()}}]
    return [{"role": "user", "content": parts}]


def test_the_openai_client(server, analyzer):
    """The official client, whole and streaming; "emotion" is the name of a task."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0)
    assert client.models.list().data[0].id == analyzer.manifest.name
    model = client.models.list().data[0].id
    expected = analyzer.ask(FACE, "emotion")
    whole = client.chat.completions.create(model=model, messages=question("emotion"))
    assert whole.choices[0].message.content == expected
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(
        client.chat.completions.create(
            model=model, messages=question("emotion"), stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == expected
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) > 4
    short = client.chat.completions.create(model=model, messages=question("emotion"), max_tokens=2)
    assert short.choices[0].finish_reason == "length"
    with pytest.raises(openai.UnprocessableEntityError, match="other addresses are not fetched"):
        client.chat.completions.create(model=model, messages=question("emotion", "http://127.0.0.1/a.jpg"))


@pytest.mark.parametrize(
    ("path", "sent", "status", "words"),
    [
        ("/v1/analyze", {"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "expected multipart"),
        ("/v1/analyze", {"content": b"{", "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ("/v1/analyze", {"json": {"image": "%%%"}}, 422, "base64"),
        ("/v1/analyze", {"json": {"image": "AAAA", "task": 1}}, 422, "task"),
        ("/v1/analyze", {"json": {"image": "AAAA"}}, 422, "not an image"),
        ("/v1/analyze", {"files": {"image": b"no picture"}}, 422, "not an image"),
        ("/v1/analyze", {"files": {"photo": FACE}}, 422, "image: expected one file"),
        ("/v1/analyze", {**upload(), "data": {"tasks": "smell"}}, 422, "tasks"),
        ("/v1/analyze", {**upload(), "data": {"max_new_tokens": "0"}}, 422, "max_new_tokens"),
        ("/v1/analyze", {"content": b"--", "headers": {"content-type": "multipart/form-data"}}, 422, "form"),
        ("/v1/chat/completions", {"json": {"model": "m", "messages": question(" ")}}, 422, "question"),
        ("/v1/chat/completions", {"json": {"model": "m", "messages": question("x" * 5000)}}, 422, "tokens"),
        (
            "/v1/chat/completions",
            {"json": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}},
            422,
            "picture",
        ),
        ("/v1/chat/completions", {"json": {"model": "m", "messages": question("hi"), "tools": []}}, 422, "tools"),
        ("/v1/analyze/../../etc/passwd", {}, 404, "Not Found"),
    ],
)
def test_what_cannot_be_used_gets_one_clear_error(server, path, sent, status, words):
    answer = server.post(path, **sent)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_large_requests_are_refused_while_they_arrive(analyzer):
    with served(analyzer, Settings(max_bytes=1000)) as address:
        assert httpx.post(f"{address}/v1/analyze", **upload()).status_code == 413
        endless = (b"x" * 100 for _ in range(100))  # without a length
        headers = {"content-type": "application/json"}
        assert httpx.post(f"{address}/v1/analyze", content=endless, headers=headers).status_code == 413


def test_the_key(analyzer):
    with served(analyzer, Settings(api_key="sesame")) as address:
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "sesame"}):
            for path in ("/v1/models", "/metrics"):
                assert httpx.get(address + path, headers=headers).status_code == 401
        assert httpx.get(f"{address}/v1/models", headers={"Authorization": "Bearer sesame"}).status_code == 200
        assert httpx.get(f"{address}/healthz").status_code == 200


def wait_until_ready(address):
    """The warm-up finds faces, too."""
    while httpx.get(f"{address}/readyz").status_code != 200:
        time.sleep(0.05)


class Slow:
    """Holds every analysis until it is let go or cancelled."""

    def __init__(self, monkeypatch, analyzer):
        self.let_go, self.begun, self.cancelled = threading.Event(), threading.Semaphore(0), threading.Event()
        find = analyzer.examiner.find

        def slow(*given):
            self.begun.release()
            self.let_go.wait(60)
            return find(*given)

        monkeypatch.setattr(analyzer.examiner, "find", slow)


def test_a_full_house_answers_429_at_once_and_recovers(analyzer, monkeypatch):
    with served(analyzer, Settings(Limits(seats=1, waiting=1, deadline_s=60), cache_bytes=0)) as address:
        wait_until_ready(address)
        slow, codes = Slow(monkeypatch, analyzer), []

        def client():
            codes.append(httpx.post(f"{address}/v1/analyze", **upload(), timeout=120).status_code)

        threads = [threading.Thread(target=client) for _ in range(2)]
        threads[0].start()
        slow.begun.acquire()
        threads[1].start()
        while "emola_waiting 1.0" not in httpx.get(f"{address}/metrics").text:
            time.sleep(0.02)
        refused = httpx.post(f"{address}/v1/analyze", **upload())
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        slow.let_go.set()
        for thread in threads:
            thread.join()
        assert codes == [200, 200]
        assert httpx.post(f"{address}/v1/analyze", **upload(), timeout=120).status_code == 200


def test_who_waits_too_long_is_sent_away(analyzer, monkeypatch):
    with served(analyzer, Settings(Limits(seats=1, waiting=4, deadline_s=0.1), cache_bytes=0)) as address:
        wait_until_ready(address)
        slow = Slow(monkeypatch, analyzer)
        first = threading.Thread(
            target=httpx.post, args=(f"{address}/v1/analyze",), kwargs={**upload(), "timeout": 120}
        )
        first.start()
        slow.begun.acquire()
        refused = httpx.post(f"{address}/v1/analyze", **upload(), timeout=120)
        assert (refused.status_code, "within 0.1 s" in refused.text) == (429, True)
        slow.let_go.set()
        first.join()


@pytest.mark.parametrize("path", ["/v1/analyze", "/v1/stream"])
def test_a_client_that_leaves_frees_its_seat(analyzer, monkeypatch, path):
    """Its analysis ends at the next token; the seat is free for the next client."""
    with served(analyzer, Settings(Limits(seats=1, waiting=1), cache_bytes=0)) as address:
        cancelled = threading.Event()
        generate = analyzer.pipeline.generate

        def endless(face, task, limit=None, sampling=None, cancel=None, **options):
            cancel.wait(60)
            cancelled.set() if cancel.is_set() else None
            return generate(face, task, limit, sampling, cancel, **options)

        monkeypatch.setattr(analyzer.pipeline, "generate", endless)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(address + path, **upload(), timeout=httpx.Timeout(60, read=2))
        assert cancelled.wait(60)
        monkeypatch.undo()
        assert httpx.post(f"{address}/v1/analyze", **upload(), timeout=120).status_code == 200


def test_no_picture_touches_the_disk(server, monkeypatch):
    """The form parser of Starlette writes parts above a megabyte to a temporary file by default."""
    import tempfile

    def rollover(self):
        raise AssertionError("an upload was written to the disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    large = FACE + bytes(3_000_000)
    assert server.post("/v1/analyze", **upload(large)).status_code == 200


def test_metrics_and_description(server):
    server.post("/v1/analyze", **upload())
    text = server.get("/metrics").text
    for name in (
        "emola_requests_total",
        "emola_stage_seconds_bucket",
        "emola_first_token_seconds_sum",
        "emola_waiting",
    ):
        assert name in text
    described = server.get("/openapi.json").json()
    assert {"/v1/analyze", "/v1/stream", "/v1/chat/completions", "/v1/models", "/readyz"} <= set(described["paths"])
    assert "multipart/form-data" in described["paths"]["/v1/analyze"]["post"]["requestBody"]["content"]
