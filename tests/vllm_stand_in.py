"""A real HTTP server that speaks the part of vLLM's completions API that the SDK uses, over the SDK's own decoder.

It reads prompt embeddings with `torch.load`, as vLLM does. `tests/test_vllm.py` runs the same tests against vLLM.
"""

import base64
import json
from contextlib import contextmanager
from io import BytesIO
from threading import Lock

import numpy as np
import torch
from chat_server import chat_server

from sdk.runtime.backends.interface import Decoder


class StandIn:
    """How the server answers; a test may change it.

    Args:
        decoder: computes the answers.

    Attributes:
        requests: bodies of the requests for completions.
        sent: tokens of the last answer that were sent.
        longest, most_logprobs: as `--max-model-len` and `--max-logprobs`; None allows all.
        ends_after: tokens after which an answer ends without a reason; None: never.
        top: log probabilities in place of those of the decoder.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.lock = decoder, Lock()
        self.requests: list[dict] = []
        self.sent, self.longest, self.most_logprobs, self.ends_after = 0, 4096, None, None
        self.top: dict[str, float] = {}

    def rows(self, body):
        if "prompt" in body:
            return self.decoder.embed(body["prompt"])
        content = base64.b64decode(body["prompt_embeds"], validate=True)
        return torch.load(BytesIO(content), weights_only=True).float().numpy()

    def tokens(self, body):
        cache, rows = self.decoder.new_cache(4096), self.rows(body)
        room = self.longest - len(rows)  # vLLM ends a sequence that has `--max-model-len` tokens
        for _ in range(min(body["max_tokens"], self.ends_after or 4096, room)):
            with self.lock:
                token = int(self.decoder.extend(cache, rows)[-1].argmax())
            yield token
            if token in body["stop_token_ids"]:
                return
            rows = self.decoder.embed([token])

    def probabilities(self, body):
        with self.lock:
            logits = self.decoder.extend(self.decoder.new_cache(4096), self.rows(body))[-1].astype(np.float64)
        values = logits - logits.max()
        values -= np.log(np.exp(values).sum())
        return {f"token_id:{token}": value for token, value in enumerate(values.tolist())}

    def answer(self, request):
        body = request["body"]
        if body is None:
            model = {"id": "decoder", "max_model_len": self.longest}
            return 200, {}, {"data": [model]} if request["path"] == "/v1/models" else {}
        self.requests.append(body)
        if body.get("logprobs") is None:
            return 200, {}, self.events(body)
        if self.most_logprobs is not None and body["logprobs"] > self.most_logprobs:
            return 400, {}, {"error": {"message": f"greater than max allowed: {self.most_logprobs}"}}
        return 200, {}, {"choices": [{"logprobs": {"top_logprobs": [self.top or self.probabilities(body)]}}]}

    def events(self, body):
        self.sent = 0
        for token in self.tokens(body):
            yield json.dumps({"choices": [{"text": "[DONE]", "token_ids": [token]}]})
            self.sent += 1
        yield '{"choices": [], "usage": {}}'  # as with --enable-force-include-usage
        yield "[DONE]"


@contextmanager
def stand_in(decoder: Decoder):
    """Serve until the block ends; yields the address and the StandIn."""
    server_side = StandIn(decoder)
    with chat_server(server_side.answer) as (url, _):
        yield url.removesuffix("/v1"), server_side
