"""A real HTTP server that speaks the part of vLLM's completions API that the SDK uses, over the SDK's own decoder.

It reads prompt embeddings with `torch.load`, as vLLM does. `tests/test_vllm.py` runs the same tests against vLLM.
"""

import base64
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Lock, Thread

import numpy as np
import torch

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


@contextmanager
def stand_in(decoder: Decoder):
    """Serve until the block ends; yields the address and the StandIn."""
    server_side = StandIn(decoder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            model = {"id": "decoder", "max_model_len": server_side.longest}
            self.reply(200, {"data": [model]} if self.path == "/v1/models" else {})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server_side.requests.append(body)
            if body.get("logprobs") is not None:
                most = server_side.most_logprobs
                if most is not None and body["logprobs"] > most:
                    return self.reply(400, {"error": {"message": f"greater than max allowed: {most}"}})
                top = server_side.top or server_side.probabilities(body)
                return self.reply(200, {"choices": [{"logprobs": {"top_logprobs": [top]}}]})
            return self.stream(body)

        def stream(self, body):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            server_side.sent = 0
            try:
                for token in server_side.tokens(body):
                    self.event(json.dumps({"choices": [{"text": "[DONE]", "token_ids": [token]}]}))
                    server_side.sent += 1
                self.event('{"choices": [], "usage": {}}')  # as with --enable-force-include-usage
                self.event("[DONE]")
            except OSError:  # the client left
                pass

        def event(self, data):
            self.wfile.write(f"data: {data}\n\n".encode())

        def reply(self, status, content):
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server_side
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
