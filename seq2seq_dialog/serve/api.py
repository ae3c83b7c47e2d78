"""The routes of the server, and how it stops."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from .chat_completions import ChatRequest, Completion, error_body
from .jobs import Job, Piece
from .metrics import Metrics
from .scheduler import QueueFull, Scheduler, Stopping

logger = logging.getLogger(__name__)
LARGEST_BODY = 64 * 1024  # bytes; a model reads some hundred tokens of it
GRACE_SECONDS = 60  # for clients that read slowly, once all replies have been made
STOPPING = "The server is stopping."


class ApiError(Exception):
    """A request cannot be answered; `code` is in OpenAI's words."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


def api_error(error: Exception) -> ApiError:
    """Say by what status and message an exception is answered."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        message = "Too many requests wait already: try again later."
        return ApiError(429, message, "rate_limit_exceeded")
    if isinstance(error, Stopping):
        return ApiError(503, STOPPING)
    if isinstance(error, ValueError):
        return ApiError(400, str(error))
    return ApiError(500, "The server could not reply; its log says why.")


def error_response(status: int, message: str, code=None, param=None) -> JSONResponse:
    """Answer by an error in OpenAI's form."""
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(error_body(message, status, code, param), status, headers)


class KeyCheck:
    """Turns away who does not send the key, before a body is read; `/health` needs none."""

    def __init__(self, app, key: str):
        self.app, self.expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope, receive, send) -> None:
        app = self.app
        if scope["type"] == "http" and scope["path"] != "/health":
            given = Headers(scope=scope).get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self.expected):
                message = "The API key is missing or wrong: send `Authorization: Bearer KEY`."
                app = error_response(401, message, "invalid_api_key")
        await app(scope, receive, send)


class SizeCheck:
    """Turns away a body that is too large, in the form of all errors, before it is read."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        app = self.app
        size = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        if size.isdecimal() and int(size) > LARGEST_BODY:
            message = f"A request may have {LARGEST_BODY // 1024} KiB: leave older messages out."
            app = error_response(413, message)
        await app(scope, receive, send)


def make_app(
    scheduler: Scheduler, name: str, key: str | None = None, host: str = "127.0.0.1"
) -> FastAPI:
    """Make the server's application for a model that clients call `name`.

    Args:
        key: that clients must send; without one, the server answers this machine alone.
        host: the name or address by which this machine calls it, beside the usual ones.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=LARGEST_BODY)  # of any length
    app.add_middleware(SizeCheck)
    if key is not None:
        app.add_middleware(KeyCheck, key=key)
    else:  # another name for this address is that of a page elsewhere (DNS rebinding)
        hosts = ["127.0.0.1", "localhost", "[::1]", host]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    metrics = Metrics(lambda: scheduler.waiting)
    card = {"id": name, "object": "model", "created": int(time.time())}
    card["owned_by"] = "seq2seq-dialog"

    add_error_handlers(app, metrics)

    @app.get("/health")
    async def health() -> JSONResponse:
        if scheduler.is_stopping:
            return error_response(503, STOPPING)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(*metrics.page())

    @app.get("/v1/models")
    async def list_models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [card]})

    @app.get("/v1/models/{model:path}")
    async def show_model(model: str) -> JSONResponse:
        check_name(model, name)
        return JSONResponse(card)

    @app.post("/v1/chat/completions")
    async def complete(body: ChatRequest, request: Request) -> Response:
        try:
            check_name(body.model, name)
            pieces = Pieces(scheduler, metrics, body)
        except (ApiError, QueueFull, Stopping, ValueError) as error:
            refused = api_error(error)
            metrics.requests.labels(refused.status).inc()
            raise refused from error
        completion = Completion(name, len(pieces.job.source_ids))
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            events = stream_events(pieces, completion, usage)
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return EventStream(pieces, events, media_type="text/event-stream", headers=headers)
        return await answer_at_once(request, pieces, completion)

    return app


def add_error_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Let the application answer errors in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def answer_error(request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, str(error), error.code)

    @app.exception_handler(HTTPException)
    async def answer_http_error(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, f"{request.url.path}: {error.detail}.")

    @app.exception_handler(Exception)
    async def answer_bug(request: Request, error: Exception) -> JSONResponse:
        return error_response(500, str(api_error(error)))

    @app.exception_handler(RequestValidationError)
    async def answer_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        metrics.requests.labels(400).inc()
        message, place = describe_invalid(error.errors()[0])
        return error_response(400, message, param=place)


def describe_invalid(error: Mapping) -> tuple[str, str | None]:
    """Word an error of validation, and say in which field it is; None: in the whole body."""
    if error["type"] == "json_invalid":
        position = error["loc"][-1]
        return f"The body is not JSON: {error['ctx']['error']}, at character {position}.", None
    if error["type"] in ("missing", "model_attributes_type") and error["loc"] == ("body",):
        return "Send the body as `Content-Type: application/json`, a JSON object.", None
    place = ".".join(map(str, error["loc"][1:]))
    message = error["msg"].removeprefix("Value error, ")
    return (f"{place}: {message}", place) if place else (message, None)


def check_name(model: str, name: str) -> None:
    """Refuse another model than the one that is served."""
    if model != name:
        message = f"There is no model {model[:200]!r} here, but {name!r}."
        raise ApiError(404, message, "model_not_found")


async def client_gone(request: Request) -> None:
    """Wait until the client has closed the connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Pieces:
    """The pieces of the replies to a request, as they come; see `Scheduler.submit` for errors."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics, body: ChatRequest):
        self.scheduler, self.metrics, self.tokens = scheduler, metrics, 0
        self.status = 499  # where the client goes before all is read, as nginx says
        self.began = time.perf_counter()
        self.events: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self.job = Job(
            [message.as_context() for message in body.messages],
            body.decoding(),
            teller(self.events),
            body.n or 1,
            body.stop or [],
            bool(body.stream),
            body.seed,
        )
        scheduler.submit(self.job)

    async def read(self) -> AsyncIterator[Piece]:
        """Yield pieces until all replies have ended.

        Raises:
            ApiError: the model could not reply.
        """
        left, is_first = self.job.count, self.job.in_pieces
        while left:
            piece = await self.events.get()
            if isinstance(piece, Exception):
                error = api_error(piece)
                self.status = error.status
                raise error
            if is_first:
                self.metrics.first_token.observe(time.perf_counter() - self.began)
                is_first = False
            if piece.finish_reason is not None:
                left -= 1
                self.tokens += piece.tokens
            yield piece
        self.status = 200

    def close(self) -> None:
        """Stop what is still computed, and count the request."""
        self.scheduler.cancel(self.job)
        self.metrics.count(self.status, self.tokens, time.perf_counter() - self.began)


def teller(events: asyncio.Queue) -> Callable[[object], None]:
    """Return a function by which another thread puts something into a queue of this loop."""
    loop = asyncio.get_running_loop()

    def tell(event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(events.put_nowait, event)

    return tell


class EventStream(StreamingResponse):
    """A stream of pieces, which ends with it, also where the client goes before it has begun."""

    def __init__(self, pieces: Pieces, events: AsyncIterator[str], **options):
        super().__init__(events, **options)
        self.pieces = pieces

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.pieces.close()


async def answer_at_once(request: Request, pieces: Pieces, completion: Completion) -> Response:
    """Answer by all replies together, unless the client goes before."""
    replies = asyncio.create_task(read_replies(pieces, completion))
    gone = asyncio.create_task(client_gone(request))
    try:
        await asyncio.wait([replies, gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        pieces.close()
    if not replies.done():
        replies.cancel()
        return Response(status_code=499)  # nobody reads it
    return JSONResponse(replies.result())


async def read_replies(pieces: Pieces, completion: Completion) -> dict:
    """Wait for all replies, and write them as one answer."""
    texts, reasons = [""] * pieces.job.count, [""] * pieces.job.count
    async for piece in pieces.read():
        texts[piece.index] += piece.text
        reasons[piece.index] = piece.finish_reason or ""
    return completion.whole(list(zip(texts, reasons, strict=True)), pieces.tokens)


async def stream_events(
    pieces: Pieces, completion: Completion, with_usage: bool
) -> AsyncIterator[str]:
    """Write replies as server-sent events, piece by piece."""
    usage = {"usage": None} if with_usage else {}
    for index in range(pieces.job.count):
        yield event(completion.chunk(index, {"role": "assistant", "content": ""}) | usage)
    try:
        async for piece in pieces.read():
            if piece.text:
                yield event(completion.chunk(piece.index, {"content": piece.text}) | usage)
            if piece.finish_reason is not None:
                yield event(completion.chunk(piece.index, {}, piece.finish_reason) | usage)
    except ApiError as error:
        yield event(error_body(str(error), error.status, error.code))
        return
    if with_usage:
        yield event(completion.last_chunk(pieces.tokens))
    yield "data: [DONE]\n\n"


def event(data: dict) -> str:
    """Write a server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


class Server(uvicorn.Server):
    """A server that, told to stop, refuses requests, finishes the replies under way, and ends.

    Told a second time, it ends at once.
    """

    def __init__(self, app: FastAPI, scheduler: Scheduler):
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS, server_header=False
        )
        super().__init__(config)
        self.scheduler = scheduler

    def handle_exit(self, sig: int, frame) -> None:
        if self.scheduler.is_stopping:
            self.force_exit = True
            super().handle_exit(sig, frame)
        self.scheduler.stop()

    async def on_tick(self, counter: int) -> bool:
        should_exit = await super().on_tick(counter)
        return should_exit or self.scheduler.has_ended
