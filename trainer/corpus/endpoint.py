"""A vision-language model behind an OpenAI-compatible endpoint, asked about one picture at a time."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from sdk.errors import DataError
from sdk.web.client import HttpClient, HttpReply, Limits
from sdk.web.exchange import HttpError, UnreachableError, shown

_MEDIA_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_LARGEST_REPLY = 1 << 22  # bytes


class EndpointError(DataError):
    """The endpoint refuses every question: wrong address, key or model."""


class QuestionError(DataError):
    """The endpoint refuses this question at every attempt; it may answer others."""


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message
    finish_reason: Any = None


class _Usage(BaseModel):
    prompt_tokens: int | None = Field(None, ge=0)
    completion_tokens: int | None = Field(None, ge=0)


class _Completion(BaseModel):
    """A chat completion, as far as it is used."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


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
        timeout: seconds until an answer must be complete.
        retries: further attempts if the endpoint is overloaded (429), fails (5xx) or cannot be reached.
        pause: seconds before the first retry, doubled each time; a `Retry-After` header takes precedence, up to the
            longest pause of `Limits`.
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
        self._client = HttpClient(Limits(_LARGEST_REPLY, timeout, retries + 1, pause), key)

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
        try:
            return self._read(self._client.post(self._url, json.dumps(body).encode()))
        except UnreachableError as error:
            raise EndpointError(str(error)) from None
        except HttpError as error:
            raise DataError(str(error)) from None

    def _read(self, reply: HttpReply) -> Reply:
        status, where = reply.status, shown(self._url)
        if status in (401, 403):
            raise EndpointError(f"{where} refuses the key (status {status}): set OPENAI_API_KEY to a valid one")
        if status == 404:
            raise EndpointError(f"{where} knows no model {self.model!r}, or the address is wrong: {reply.excerpt}")
        if status != 200:
            raise QuestionError(f"{where} refused the question with status {status}: {reply.excerpt}")
        try:
            completion = _Completion.model_validate_json(reply.content)
        except ValidationError:
            raise QuestionError(
                f"{where}: expected a chat completion with choices[0].message.content, found {reply.excerpt}"
            ) from None
        choice, usage = completion.choices[0], completion.usage or _Usage()
        cut_off = choice.finish_reason == "length"
        return Reply(choice.message.content.strip(), usage.prompt_tokens or 0, usage.completion_tokens or 0, cut_off)


def _content(image: bytes, question: str) -> list[dict[str, Any]]:
    """The content of a message: the picture as a data URL, and the question."""
    media_type = next((name for start, name in _MEDIA_TYPES.items() if image.startswith(start)), None)
    if media_type is None:
        raise QuestionError("expected the bytes of a PNG or JPEG file; convert the picture first")
    url = f"data:{media_type};base64,{base64.b64encode(image).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
