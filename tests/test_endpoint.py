"""The endpoint client against a real HTTP server: requests, retries and error messages."""

import base64
import email.utils
import time

import pytest
from chat_server import chat_server, completion, image_of, question_of

from sdk.errors import DataError

pytest.importorskip("httpx")

from trainer.corpus import endpoint
from trainer.corpus.endpoint import ChatEndpoint, EndpointError, QuestionError, Reply

PNG = b"\x89PNG\r\n\x1a\n and so on"
JPEG = b"\xff\xd8\xff\xe0 and so on"
KEY = "sk-very-secret"


def ask(answer, retries=3, image=PNG, timeout=5.0, pause=0.01):
    """Ask a server with the given answers; returns the reply and the requests."""
    with chat_server(answer) as (url, requests):
        asked = ChatEndpoint(url, "seer", KEY, timeout=timeout, retries=retries, pause=pause)
        return asked.ask(image, "Which emotion?", 64), requests


def scripted(*replies):
    """Give the replies in order, then the last one repeatedly."""
    waiting = list(replies)
    return lambda request: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def test_request_and_reply():
    for image, media_type in ((PNG, "image/png"), (JPEG, "image/jpeg")):
        reply, (request,) = ask(scripted((200, {}, completion(" A happy face. "))), image=image)
        assert reply == Reply("A happy face.", 300, 20)
        assert request["path"] == "/v1/chat/completions"
        assert request["headers"]["Authorization"] == f"Bearer {KEY}"
        assert (request["body"]["model"], request["body"]["max_tokens"]) == ("seer", 64)
        assert question_of(request) == "Which emotion?"
        assert image_of(request) == f"data:{media_type};base64,{base64.b64encode(image).decode()}"


def test_the_limit_of_tokens_shows():
    assert ask(scripted((200, {}, completion("A face that", "length"))))[0].cut_off


def test_usage_may_be_missing():
    assert ask(scripted((200, {}, {"choices": completion("Yes.")["choices"]})))[0] == Reply("Yes.", 0, 0)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_failures_are_tried_again(status):
    reply, requests = ask(scripted((status, {}, b"busy"), (status, {}, b"busy"), (200, {}, completion("Now."))))
    assert (reply.text, len(requests)) == ("Now.", 3)


def test_pauses_double_and_retry_after_wins(monkeypatch):
    """Without the header 0.1, 0.2, 0.4 s; with "1" one second, with a date until then."""
    pauses = []
    monkeypatch.setattr(endpoint.time, "sleep", pauses.append)
    busy, done = (429, {}, b"busy"), (200, {}, completion("Now."))
    ask(scripted(busy, busy, busy, done), pause=0.1)
    ask(scripted((429, {"Retry-After": "1"}, b"busy"), done))
    then = email.utils.formatdate(time.time() + 1000, usegmt=True)
    ask(scripted((429, {"Retry-After": then}, b"busy"), done))
    assert pauses[:4] == pytest.approx([0.1, 0.2, 0.4, 1])
    assert 900 < pauses[4] <= 1000


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        ((401, {}, b"bad key " + KEY.encode()), EndpointError, "set OPENAI_API_KEY"),
        ((404, {}, b"no such model"), EndpointError, "knows no model 'seer'.*no such model"),
        ((400, {}, b"bad picture, " + KEY.encode()), QuestionError, r"status 400: bad picture, \*\*\*"),
        ((200, {}, b"<html>hello"), QuestionError, "expected a chat completion.*<html>hello"),
        ((200, {}, {"choices": []}), QuestionError, "expected a chat completion"),
        ((200, {}, {"choices": [{"message": {"content": None}}]}), QuestionError, "expected a chat completion"),
        ((200, {}, ["text"]), QuestionError, "expected a chat completion"),
    ],
)
def test_other_failures_are_final(reply, error, message):
    """One request, one clear error, and the key is not in it."""
    with chat_server(scripted(reply)) as (url, requests), pytest.raises(error, match=message) as caught:
        ChatEndpoint(url, "seer", KEY, pause=0.01).ask(PNG, "Which emotion?", 64)
    assert type(caught.value) is error
    assert len(requests) == 1
    assert KEY not in str(caught.value)


def test_an_endpoint_that_stays_busy():
    with (
        chat_server(scripted((503, {}, b"loading"))) as (url, requests),
        pytest.raises(DataError, match="503: loading"),
    ):
        ChatEndpoint(url, "seer", retries=2, pause=0.01).ask(PNG, "Which emotion?", 64)
    assert len(requests) == 3


def test_an_endpoint_that_is_silent():
    def slow(request):
        time.sleep(0.5)
        return 200, {}, completion("Late.")

    with pytest.raises(DataError, match=r"did not answer within 0\.1 s"):
        ask(slow, retries=1, timeout=0.1)


def test_no_server():
    with chat_server(scripted((200, {}, b""))) as (url, _):
        pass
    with pytest.raises(EndpointError, match="cannot be reached"):
        ChatEndpoint(url, "seer", retries=1, pause=0.01).ask(PNG, "Which emotion?", 64)


def test_what_cannot_be_asked():
    with pytest.raises(EndpointError, match="found 'localhost:8000'"):
        ChatEndpoint("localhost:8000", "seer")
    with pytest.raises(EndpointError, match="characters that no key has") as caught:
        ChatEndpoint("http://localhost/v1", "seer", "sk-secret\n")
    assert "secret" not in str(caught.value)
    with pytest.raises(QuestionError, match="PNG or JPEG"):
        ChatEndpoint("http://localhost/v1", "seer").ask(b"GIF89a", "Which emotion?", 64)
