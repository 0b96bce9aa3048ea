"""Requests and replies in the shape of OpenAI's chat completions: one question about one picture."""

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from sdk.runtime.backends.interface import Sampling
from sdk.runtime.pipeline import Answer
from sdk.server.uploads import picture_of


class PictureUrl(BaseModel):
    """A picture as a data URI."""

    url: str


class TextPart(BaseModel):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class PicturePart(BaseModel):
    """A part of a message that is a picture."""

    type: Literal["image_url"]
    image_url: PictureUrl


class Message(BaseModel):
    """A message of a user or of the model."""

    role: Literal["user", "assistant"]
    content: str | list[Annotated[TextPart | PicturePart, Field(discriminator="type")]]


class StreamOptions(BaseModel):
    """What a streamed reply holds besides text."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The part of OpenAI's request that this server honours; every other key is refused.

    The last user message holds the question. The last picture of any message is the one it is about. Earlier turns are
    not read: the model answers one question about one face.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    n: Literal[1] = 1
    user: str | None = None

    @property
    def question(self) -> str:
        """The text of the last message.

        Raises:
            HTTPException: 422; it is not a user's, or has no text.
        """
        last = self.messages[-1]
        parts = [last.content] if isinstance(last.content, str) else [p.text for p in last.content if p.type == "text"]
        text = "\n".join(parts).strip()
        if last.role != "user" or not text:
            raise HTTPException(422, "messages: the last one must be a user's and hold the question as text")
        return text

    @property
    def picture(self) -> bytes:
        """The last picture.

        Raises:
            HTTPException: 422; there is none.
            ImageError: it is not a data URI.
        """
        parts = [part for message in self.messages if not isinstance(message.content, str) for part in message.content]
        urls = [part.image_url.url for part in parts if part.type == "image_url"]
        if not urls:
            raise HTTPException(422, "messages: expected a picture, a part of type image_url with a data URI")
        return picture_of(urls[-1])

    @property
    def sampling(self) -> Sampling | None:
        """How tokens are chosen; None is greedy."""
        return Sampling(self.temperature, self.top_p, self.seed) if self.temperature else None

    @property
    def limit(self) -> int | None:
        """Tokens of the answer."""
        return self.max_completion_tokens or self.max_tokens


_schema = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
DEFINITIONS: dict[str, Any] = _schema.pop("$defs")
CHAT_BODY = {"required": True, "content": {"application/json": {"schema": _schema}}}  # of OpenAPI, with DEFINITIONS


class Reply:
    """The replies to one request.

    Args:
        model: name of the bundle.
        prompt_tokens: positions before the answer.
    """

    def __init__(self, model: str, prompt_tokens: int) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._prompt_tokens = prompt_tokens

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The reply to a request without `stream`."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": _reason(answer),
            "logprobs": None,
        }
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage(answer)}

    def chunk(self, text: str, *, first: bool = False) -> dict[str, Any]:
        """A piece of the answer."""
        return self._chunk({**({"role": "assistant"} if first else {}), "content": text}, None)

    def end(self, answer: Answer) -> dict[str, Any]:
        """The last piece, without text."""
        return self._chunk({}, _reason(answer))

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The piece that `stream_options.include_usage` asks for."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage(answer)}

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _usage(self, answer: Answer) -> dict[str, int]:
        made = len(answer.token_ids)
        total = self._prompt_tokens + made
        return {"prompt_tokens": self._prompt_tokens, "completion_tokens": made, "total_tokens": total}


def _reason(answer: Answer) -> str:
    return "length" if answer.truncated else "stop"
