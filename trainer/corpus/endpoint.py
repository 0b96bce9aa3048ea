"""A vision-language model behind an OpenAI-compatible endpoint, asked about one picture at a time."""

import base64
import email.utils
import time
from dataclasses import dataclass
from typing import Any

import httpx

from sdk.errors import DataError

_MEDIA_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_MAX_PAUSE = 60.0  # seconds, of the exponential backoff


class EndpointError(DataError):
    """The endpoint refuses every question: wrong address, key or model."""


class QuestionError(DataError):
    """The endpoint refuses this question at every attempt; it may answer others."""


class _PassingError(Exception):
    """A failure that may pass, with the `Retry-After` header of the endpoint."""

    def __init__(self, error: DataError, retry_after: str = "") -> None:
        super().__init__(str(error))
        self.error, self.retry_after = error, retry_after


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: the answer without blanks around it.
        prompt_tokens, completion_tokens: counts of the endpoint, 0 if it gives none.
        cut_off: the answer reached the limit of tokens.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut_off: bool = False


class ChatEndpoint:
    """Asks a model; may be used from several threads.

    Each question opens its own connection, which takes little time compared to the answer and needs no closing.

    Args:
        url: of the API, e.g. "http://localhost:8000/v1".
        model: its name there.
        key: API key; never written to a message.
        timeout: seconds to wait for an answer.
        retries: further attempts if the endpoint is overloaded (429), fails (5xx) or cannot be reached.
        pause: seconds before the first retry, doubled each time; a `Retry-After` header takes precedence.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        pause: float = 1.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise EndpointError(f"expected the address of an endpoint such as http://localhost:8000/v1, found {url!r}")
        if key and not (key.isascii() and key.isprintable()):
            raise EndpointError("the API key contains characters that no key has; copy it again")
        self.model = model
        self._url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._key, self._timeout, self._retries, self._pause = key, timeout, retries, pause
        self._tls = httpx.create_ssl_context()

    def ask(self, image: bytes, question: str, max_tokens: int) -> Reply:
        """Ask one question about one picture, greedily.

        Args:
            image: content of a PNG or JPEG file.
            max_tokens: limit of the answer.

        Raises:
            EndpointError: the endpoint refuses every question.
            QuestionError: the endpoint refuses this question.
            DataError: the endpoint was busy or silent for too long.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": _content(image, question)}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        attempt = 0
        while True:
            try:
                return self._reply(self._post(body))
            except _PassingError as failure:
                if attempt >= self._retries:
                    raise failure.error from None
                time.sleep(_wait(failure.retry_after, self._pause * 2**attempt))
                attempt += 1

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            with httpx.Client(verify=self._tls, timeout=self._timeout) as client:
                response = client.post(self._url, json=body, headers=headers)
        except httpx.TimeoutException:
            raise _PassingError(DataError(f"{self._url} did not answer within {self._timeout:g} s")) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            unreachable = EndpointError(f"{self._url} cannot be reached ({error}); does the server run?")
            raise _PassingError(unreachable) from None
        if response.status_code in (408, 429) or response.status_code >= 500:
            overloaded = DataError(f"{self._url} fails with status {response.status_code}: {self._excerpt(response)}")
            raise _PassingError(overloaded, response.headers.get("Retry-After", ""))
        return response

    def _reply(self, response: httpx.Response) -> Reply:
        status = response.status_code
        if status in (401, 403):
            raise EndpointError(f"{self._url} refuses the key (status {status}): set OPENAI_API_KEY to a valid one")
        if status == 404:
            raise EndpointError(
                f"{self._url} knows no model {self.model!r}, or the address is wrong: {self._excerpt(response)}"
            )
        if status != 200:
            raise QuestionError(f"{self._url} refused the question with status {status}: {self._excerpt(response)}")
        try:
            content = response.json()
            choice, usage = content["choices"][0], content.get("usage") or {}
            text = choice["message"]["content"]
            if not isinstance(text, str):
                raise TypeError
            prompt, completion = (int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
        except (ValueError, TypeError, LookupError, AttributeError):
            raise QuestionError(
                f"{self._url}: expected a chat completion with choices[0].message.content, found "
                f"{self._excerpt(response)}"
            ) from None
        return Reply(text.strip(), prompt, completion, cut_off=choice.get("finish_reason") == "length")

    def _excerpt(self, response: httpx.Response) -> str:
        """The beginning of a reply for a message, without the key, which some servers repeat."""
        text = " ".join(response.text.split())
        return (text.replace(self._key, "***") if self._key else text)[:200]


def _content(image: bytes, question: str) -> list[dict[str, Any]]:
    """The content of a message: the picture as a data URL, and the question."""
    media_type = next((name for start, name in _MEDIA_TYPES.items() if image.startswith(start)), None)
    if media_type is None:
        raise QuestionError("expected the bytes of a PNG or JPEG file; convert the picture first")
    url = f"data:{media_type};base64,{base64.b64encode(image).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]


def _wait(retry_after: str, pause: float) -> float:
    """Seconds until the next attempt: from `Retry-After`, in seconds or as a date, or else the backoff."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return min(pause, _MAX_PAUSE)
