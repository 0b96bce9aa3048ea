"""A real HTTP server on this machine that speaks as much of OpenAI's API as a test tells it to."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


def completion(text: str, finish_reason: str = "stop") -> dict:
    """A chat completion as OpenAI's API returns it."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 20},
    }


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that was killed is no error here."""


@contextmanager
def chat_server(answer: Callable):
    """Serve until the block ends.

    Args:
        answer: called with the request (path, headers, body as read from JSON, None for GET); returns a status,
            headers, and the reply as an object, as bytes, or as an iterator of events, which are streamed.

    Yields:
        The address of the API, ending in /v1, and the list of the requests so far.
    """
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.respond(None)

        def do_POST(self):
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def respond(self, body):
            request = {"path": self.path, "headers": dict(self.headers), "body": body}
            requests.append(request)
            status, headers, reply = answer(request)
            if isinstance(reply, Iterator):
                headers, content = (
                    {**headers, "Content-Type": "text/event-stream"},
                    (f"data: {event}\n\n".encode() for event in reply),
                )
            else:
                whole = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                headers, content = {**headers, "Content-Length": str(len(whole))}, [whole]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            for part in content:
                self.wfile.write(part)

        def log_message(self, *_):
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def question_of(request: dict) -> str:
    return request["body"]["messages"][0]["content"][1]["text"]


def image_of(request: dict) -> str:
    """The data URL of the picture."""
    return request["body"]["messages"][0]["content"][0]["image_url"]["url"]
