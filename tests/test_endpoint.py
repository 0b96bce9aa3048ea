"""The endpoint client against a real HTTP server: requests, retries and error messages."""

import base64
import itertools
import sys
import time

import pytest
from chat_server import chat_server, completion, image_of, question_of
from hostile_server import head, hostile_server, whole

from sdk.errors import DataError

pytest.importorskip("httpx")

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
        ((200, {}, b"[" * 100_000), QuestionError, "expected a chat completion"),
        ((200, {}, b'{"choices": [{"message": {"content": "\\ud800"}}]}'), QuestionError, "expected a chat completion"),
        ((200, {}, b'{"choices": 1' + b"0" * 5000 + b"}"), QuestionError, "expected a chat completion"),
        ((302, {"Location": "/v2"}, b""), EndpointError, "redirects to .*/v2; pass that address"),
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


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: [head(), *itertools.repeat(b" " * 0x10000, 10_000)], "sends more than the 4194304 bytes"),
        (lambda: [whole(b"busy", 429, Retry_After=999999999)], "status 429: busy; it asks for a pause of 999999999 s"),
    ],
    ids=["endless reply", "pause of years"],
)
def test_an_endpoint_that_means_harm(answer, message, monkeypatch):
    """`data annotate` read such replies into memory until it was killed, and slept such pauses."""
    with hostile_server(lambda request: iter(answer())) as server, pytest.raises(DataError, match=message):
        ChatEndpoint(server.url, "seer").ask(PNG, "Which emotion?", 64)
    assert server.sent < 50 << 20


def test_a_socks_proxy_without_its_package(monkeypatch):
    """The first question ends the run with one line, instead of a traceback."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(EndpointError, match=r"SOCKS proxy: .*pip install 'httpx\[socks\]'"):
        ChatEndpoint("http://127.0.0.1:1/v1", "seer").ask(PNG, "Which emotion?", 64)
