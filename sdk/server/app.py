"""The HTTP interface: routes, errors, and what surrounds every request."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import Request

from sdk import __version__
from sdk.analyzer import Analyzer
from sdk.errors import CancelledError, SdkError
from sdk.examine import Request as AnalysisRequest
from sdk.examine import RequestedTask
from sdk.faba.prompts import TASKS
from sdk.results import Analysis
from sdk.runtime.clock import Clock
from sdk.runtime.pipeline import Answer
from sdk.runtime.shared_steps import SharedSteps
from sdk.server.chat import CHAT_BODY, DEFINITIONS, ChatRequest, Reply
from sdk.server.guard import Guard, error_body, handle_errors
from sdk.server.metrics import Metrics
from sdk.server.page import add_page
from sdk.server.seats import Limits, Seats
from sdk.server.uploads import BODY, Options, parse, read_body, read_upload
from sdk.server.visits import Done, Found, Piece, Reception, VisitCache

Result = TypeVar("Result")
_LEFT_S = 0.2  # between two looks whether the client is still there
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {
        401: "no or another API key",
        408: "the request came too slowly",
        413: "the request is too large",
        415: "another content type",
        422: "the picture or an option cannot be used",
        429: "no seat is free; Retry-After says when to come again",
    }.items()
}


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        limits: requests at once and waiting.
        max_bytes: of one request.
        cache_bytes: of KV caches that are kept for further questions about a picture.
        api_key: that `Authorization: Bearer` must carry under /v1 and /metrics; None asks for none.
        scores: add the probabilities of the labels to every analysis.
        share_from_bytes: size of a decoder from which requests share decode steps. A smaller one stays in the caches
            of a processor, so that a step costs little more than the threads that wait for each other.
    """

    limits: Limits = field(default_factory=Limits)
    max_bytes: int = 20_000_000
    cache_bytes: int = 2_000_000_000
    api_key: str | None = None
    scores: bool = False
    share_from_bytes: int = 100_000_000


def create_app(analyzer: Analyzer, settings: Settings | None = None) -> FastAPI:
    """The application around an opened Analyzer, which is warmed up when the application starts.

    Args:
        analyzer: closing it is left to the caller.
        settings: None takes the defaults.
    """
    server = _Server(analyzer, settings or Settings())
    app = FastAPI(title="EmoLA Edge", version=__version__, lifespan=server.lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, metrics=lambda: server.metrics, api_key=server.settings.api_key)
    handle_errors(app)
    upload: dict[str, Any] = {"openapi_extra": {"requestBody": BODY}, "responses": _RESPONSES}
    chat: dict[str, Any] = {"openapi_extra": {"requestBody": CHAT_BODY}, "responses": _RESPONSES}
    app.post("/v1/analyze", response_model=Analysis, **upload)(server.analyze)
    app.post("/v1/stream", response_class=StreamingResponse, **upload)(server.stream)
    app.post("/v1/chat/completions", response_model=None, **chat)(server.chat)
    app.get("/v1/models", responses={401: _RESPONSES[401]})(server.models)
    app.get("/healthz")(server.healthz)
    app.get("/readyz", responses={503: {"description": "the model is being warmed up"}})(server.readyz)
    app.get("/metrics", response_class=Response, responses={401: _RESPONSES[401]})(server.metrics_text)
    add_page(app)
    app.openapi()["components"]["schemas"].update(DEFINITIONS)
    return app


class _Server:
    def __init__(self, analyzer: Analyzer, settings: Settings) -> None:
        self._analyzer, self.settings = analyzer, settings
        self._cache = VisitCache(settings.cache_bytes, analyzer.info()["memory"]["per_face"])
        pipeline, seats = analyzer.pipeline, settings.limits.seats
        is_large = analyzer.manifest.decoder_bytes(pipeline.backend.variant) >= settings.share_from_bytes
        shares = pipeline.backend.decoder.drafts and seats > 1 and is_large
        self._steps = SharedSteps(pipeline.backend.decoder, pipeline.capacity, seats) if shares else None
        self._reception = Reception(analyzer.examiner, self._cache, self._steps)
        self._ready = False

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Warm up beside the first requests; at the end wait for the running ones."""
        self._seats = Seats(self.settings.limits)
        self.metrics = Metrics(self._seats, self._cache)
        warming = asyncio.create_task(self._warm())
        yield
        warming.cancel()
        self._seats.close()
        if self._steps:
            self._steps.close()

    async def _warm(self) -> None:
        await asyncio.to_thread(self._analyzer.warmup)
        self._ready = True

    async def analyze(self, request: Request) -> Response:
        """Analyse every face of a picture, as `Analyzer.analyze` does."""
        self._seats.check_room()
        image, options = await read_upload(request, self.settings.max_bytes)

        done = await _while_connected(request, _last(self._events(image, options)))
        assert isinstance(done, Done)
        return Response(done.analysis.model_dump_json(), media_type="application/json")

    async def stream(self, request: Request) -> Response:
        """Analyse a picture; server-sent events: `faces`, `text` for each piece of an answer, `done`, or `error`."""
        self._seats.check_room()
        image, options = await read_upload(request, self.settings.max_bytes)
        events = await _begun(self._events(image, options))

        async def lines() -> AsyncIterator[str]:
            try:
                async for event in events:
                    yield _sse(event)
            except SdkError as error:
                yield f"event: error\ndata: {json.dumps(error_body(500, str(error)))}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def chat(self, request: Request) -> Response:
        """Answer a question about the most prominent face of a picture, in OpenAI's shape."""
        self._seats.check_room()
        body = parse(ChatRequest, await read_body(request, self.settings.max_bytes))
        question, picture = body.question, body.picture
        pipeline, name = self._analyzer.pipeline, self._analyzer.manifest.name
        prefix = len(self._analyzer.manifest.prompt.prefix_ids) + pipeline.image_rows
        reply = Reply(name, prefix + len(pipeline.question_ids(question)))
        pieces = self._pieces(picture, question, body)
        if body.stream:
            return StreamingResponse(_chunks(reply, await _begun(pieces), body), media_type="text/event-stream")
        answer = await _while_connected(request, _last(pieces))
        assert isinstance(answer, Answer)
        return JSONResponse(reply.whole(answer))

    async def models(self) -> dict[str, Any]:
        """The model of this server, in OpenAI's shape, with its notice and licences."""
        info = self._analyzer.info()
        model = {"id": info["name"], "object": "model", "created": 0, "owned_by": "emola-edge"}
        about = {key: info[key] for key in ("digest", "backend", "notice", "intended_use", "licences")}
        return {"object": "list", "data": [{**model, **about}]}

    async def healthz(self) -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    async def readyz(self) -> Response:
        """Whether every stage ran once."""
        return JSONResponse({"status": "ready" if self._ready else "warming up"}, 200 if self._ready else 503)

    async def metrics_text(self) -> Response:
        """Metrics in the format of Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _events(self, image: bytes, options: Options) -> AsyncIterator[Found | Piece | Done]:
        clock, start = Clock(), time.monotonic()

        def work(cancel: Event) -> Iterator[Found | Piece | Done]:
            request = self._request(options.tasks or TASKS, options.max_new_tokens, cancel)
            return self._reception.analyze(image, options.faces, request, clock)

        return self._watched(self._seats.run(work), clock, start)

    def _pieces(self, image: bytes, question: str, body: ChatRequest) -> AsyncIterator[str | Answer]:
        clock, start = Clock(), time.monotonic()

        def work(cancel: Event) -> Iterator[str | Answer]:
            request = self._request((), body.limit, cancel)
            answer = yield from self._reception.ask(image, "detect", question, request, body.sampling, clock)
            yield answer

        return self._watched(self._seats.run(work), clock, start)

    def _request(self, tasks: Sequence[RequestedTask], limit: int | None, cancel: Event) -> AnalysisRequest:
        return self._analyzer.examiner.request(tasks, self.settings.scores, max_new_tokens=limit, cancel=cancel)

    async def _watched(self, items: AsyncIterator[Result], clock: Clock, start: float) -> AsyncIterator[Result]:
        """Record the time to the first text, and the stages at the end."""
        waiting, rate = True, None
        async for item in items:
            if waiting and isinstance(item, (Piece, str)):
                waiting = False
                self.metrics.first_text(time.monotonic() - start)
            if isinstance(item, Done):
                rate = item.analysis.tokens_per_second
            yield item
        self.metrics.work(clock.elapsed_ms, rate)


async def _while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`; stop it when the client leaves."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LEFT_S)
            if not task.done() and await request.is_disconnected():
                raise CancelledError("the client left")
    finally:
        task.cancel()
    return task.result()


async def _begun(items: AsyncIterator[Result]) -> AsyncIterator[Result]:
    """The same items after the first was awaited: what it raises still becomes the status of the response."""
    first = await anext(items)

    async def all_items() -> AsyncIterator[Result]:
        yield first
        async for item in items:
            yield item

    return all_items()


async def _last(items: AsyncIterator[Result]) -> Result | None:
    found = None
    async for item in items:
        found = item
    return found


async def _chunks(reply: Reply, pieces: AsyncIterator[str | Answer], body: ChatRequest) -> AsyncIterator[str]:
    """The server-sent events of a streamed answer. The pieces are stripped as the whole answer is."""
    started, held = False, ""
    async for piece in pieces:
        if isinstance(piece, Answer):
            yield _data(reply.end(piece))
            if body.stream_options and body.stream_options.include_usage:
                yield _data(reply.usage(piece))
            continue
        text = held + piece if started else (held + piece).lstrip()
        held = text[len(text.rstrip()) :]
        if text := text.rstrip():
            yield _data(reply.chunk(text, first=not started))
            started = True
    yield "data: [DONE]\n\n"


def _data(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _sse(event: Found | Piece | Done) -> str:
    if isinstance(event, Done):
        data = event.analysis.model_dump_json()
    else:
        data = json.dumps({key: value for key, value in vars(event).items() if key != "event"}, ensure_ascii=False)
    return f"event: {event.event}\ndata: {data}\n\n"
