"""vLLM's OpenAI-compatible server as an engine: prompt embeddings go to its completions API, token ids come back."""

import base64
import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from sdk.arrays import Floats
from sdk.errors import BackendError
from sdk.runtime.backends.interface import Sampling
from sdk.runtime.backends.vllm.tensor_file import tensor_file
from sdk.web.client import HttpClient, HttpReply, Limits
from sdk.web.exchange import HttpError, Sender, beginning, blocks, shown

KEY = "VLLM_API_KEY"  # the variable that vLLM's server reads too
_SECONDS = 120.0  # without a token
_LARGEST_REPLY = 64 << 20  # bytes; the probabilities of 100,000 tokens take 4 MB
_EVENT, _END = b"data: ", b"[DONE]"
_BY_ID = {"return_tokens_as_token_ids": True}  # several tokens may have the same text


class _Model(BaseModel):
    id: str
    max_model_len: int


class _Models(BaseModel):
    data: list[_Model] = Field(min_length=1)


class _Logprobs(BaseModel):
    top_logprobs: list[dict[str, float]] = Field(min_length=1)


class _Choice(BaseModel):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Completion(BaseModel):
    choices: list[_Choice]


class VllmServer:
    """A vLLM server that was started with `--enable-prompt-embeds`.

    Args:
        url: its address, with or without /v1.
        vocabulary: number of tokens.

    Attributes:
        longest: positions of a prompt and its answer that the server allows.
        scores: whether it was started with `--max-logprobs -1`.

    Raises:
        BackendError: no vLLM server answers there.
        DependencyError: httpx is not installed.
    """

    def __init__(self, url: str, vocabulary: int) -> None:
        self._url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._vocabulary = vocabulary
        key = os.environ.get(KEY) or None
        self._sender = Sender(_SECONDS, key)
        self._client = HttpClient(Limits(_LARGEST_REPLY, _SECONDS), key)
        with _errors():
            model = self._read(_Models, self._client.get(f"{self._url}/models")).data[0]
        self._model, self.longest = model.id, model.max_model_len
        self.scores = self._gives_all_probabilities()

    def tokens(self, rows: Floats, sampling: Sampling, stop_ids: Sequence[int], limit: int) -> Iterator[int]:
        settings = {
            "temperature": max(sampling.temperature, 0.0),
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop_token_ids": list(stop_ids),
            "max_tokens": limit,
            "stream": True,
        }
        with _errors(), closing(self._events(self._body(rows, settings))) as events:
            for event in events:
                for choice in self._parse(_Completion, event).choices:  # none in an event that counts tokens
                    yield from choice.token_ids or ()

    def log_probabilities(self, rows: Floats) -> Floats:
        choice = {"max_tokens": 1, "temperature": 0, "logprobs": self._vocabulary, **_BY_ID}
        with _errors():
            reply = self._client.post(f"{self._url}/completions", self._body(rows, choice))
            choices = self._read(_Completion, reply).choices
        values = np.full(self._vocabulary, -np.inf, np.float32)
        try:
            for name, value in choices[0].logprobs.top_logprobs[0].items():
                if (token := int(name.removeprefix("token_id:"))) < 0:
                    raise IndexError(token)
                values[token] = value
        except (AttributeError, IndexError, ValueError):
            raise BackendError(f"{shown(self._url)}: expected probabilities of tokens by id, found none") from None
        return values

    def close(self) -> None:
        """Nothing runs in this process."""

    def _gives_all_probabilities(self) -> bool:
        body = {"model": self._model, "prompt": [1], "max_tokens": 1, "logprobs": self._vocabulary, **_BY_ID}
        with _errors():
            return self._client.post(f"{self._url}/completions", json.dumps(body).encode()).status == 200

    def _body(self, rows: Floats, choice: Mapping[str, Any]) -> bytes:
        """A request for a completion, with rows in float16, and with what the server may have other defaults for."""
        embeddings = base64.b64encode(tensor_file(rows.astype(np.float16))).decode()
        fixed = {"top_k": 0, "min_p": 0, "repetition_penalty": 1, "ignore_eos": True, "return_token_ids": True}
        return json.dumps({"model": self._model, "prompt_embeds": embeddings, **fixed, **choice}).encode()

    def _events(self, body: bytes) -> Generator[bytes, None, None]:
        """The server-sent events of a streamed completion."""
        url, rest = f"{self._url}/completions", b""
        with self._sender.exchange("POST", url, body) as (response, deadline):
            if response.status_code != 200:
                self._refuse(response.status_code, self._sender.excerpt(beginning(response)))
            for block in blocks(response, deadline, _LARGEST_REPLY):
                deadline.renew()
                *lines, rest = (rest + block).split(b"\n")
                events = (line.removeprefix(_EVENT).strip() for line in lines if line.startswith(_EVENT))
                yield from (event for event in events if event != _END)

    def _read(self, kind: "type[Any]", reply: HttpReply) -> Any:
        if reply.status != 200:
            self._refuse(reply.status, reply.excerpt)
        return self._parse(kind, reply.content)

    def _parse(self, kind: "type[Any]", content: bytes) -> Any:
        try:
            return kind.model_validate_json(content)
        except ValidationError:
            raise BackendError(f"{shown(self._url)}: expected vLLM's reply, found {content[:200]!r}") from None

    def _refuse(self, status: int, excerpt: str) -> None:
        raise BackendError(f"{shown(self._url)} refuses a request with status {status}: {excerpt}")


@contextmanager
def _errors() -> Iterator[None]:
    """Errors of the network as BackendError."""
    try:
        yield
    except HttpError as error:
        raise BackendError(f"vLLM's server: {error}") from None
