"""What surrounds every request: the key, the count, headers, and errors in the shape of OpenAI's."""

import hmac
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdk.errors import CancelledError, ImageError, SdkError, TaskError
from sdk.server.metrics import Metrics
from sdk.server.seats import BusyError

_CLIENT_LEFT = 499  # as nginx records it; nobody receives it
_TYPES = {401: "authentication_error", 429: "rate_limit_error", 503: "server_error"}


def handle_errors(app: FastAPI) -> None:
    """Answer the errors of this project with a status and one sentence."""
    app.exception_handler(HTTPException)(_http_error)
    for kind, status in ((ImageError, 422), (TaskError, 422), (CancelledError, _CLIENT_LEFT), (SdkError, 500)):
        app.exception_handler(kind)(_sdk_error(status))
    app.exception_handler(BusyError)(_busy)


class Guard:
    """Checks the key, counts every request, and adds headers to its response."""

    def __init__(self, app: ASGIApp, metrics: Callable[[], Metrics], api_key: str | None) -> None:
        self._app, self._metrics = app, metrics
        self._key = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update({"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"})
            await send(message)

        try:
            if self._is_closed(scope):
                message = "expected the header Authorization: Bearer KEY with the key of this server"
                await error_response(401, message)(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics().request(route, status, time.monotonic() - start)

    def _is_closed(self, scope: Scope) -> bool:
        path = scope["path"]
        if self._key is None or not (path.startswith("/v1/") or path == "/metrics"):
            return False
        return not hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), self._key)


def error_body(status: int, message: str) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(error_body(status, message), status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, str(error.detail), dict(error.headers or {}))


def _sdk_error(status: int) -> Callable[[Request, Exception], Coroutine[Any, Any, Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        return error_response(status, str(error))

    return handle


async def _busy(request: Request, error: Exception) -> Response:
    assert isinstance(error, BusyError)
    return error_response(429, str(error), {"Retry-After": str(error.retry_after)})
