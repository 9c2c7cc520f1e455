"""The web application: its addresses, what they answer, and what they count."""

import asyncio
import base64
import hmac
import importlib.resources
import logging
import secrets
import threading
import time
from collections.abc import MutableMapping, Sequence
from concurrent.futures import Future
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from catdog.data.images import UnreadableImageError
from catdog.deployment.serving.body import BodyReader, Hold, Photo, RequestError
from catdog.deployment.serving.service import FullError, PhotoAnswer, PhotoService

log = logging.getLogger(__name__)

RETRY = {"Retry-After": "1"}
# A request whose photos are not answered after so long is given up.
ANSWER_S = 60.0
# Names of this machine that no other page can take for its own.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
FAILED = "the model gave no answer to this photo"
BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT = {
    "multipart/form-data": {"schema": {
        "type": "object",
        "properties": {"photos": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    }},
    "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
    "application/json": {
        "schema": {
            "type": "object", "required": ["photos"],
            "properties": {"photos": {"type": "array", "items": {"anyOf": [
                {
                    "type": "object", "required": ["data"],
                    "properties": {"name": {"type": "string"}, "data": {"type": "string", "format": "byte"}},
                },
                {"type": "string", "format": "byte", "description": "base64, or data:image/jpeg;base64,..."},
            ]}}},
        },
        "example": {"photos": [{"name": "a.jpg", "data": "/9j/4AAQSkZJRg..."}]},
    },
}  # fmt: skip
EXAMPLE: Any = {
    "model": {"name": "catdog", "version": "3", "run_id": "0f1e2d...", "classes": ["cats", "dogs"], "image_size": 160},
    "answers": [
        {"photo": "a.jpg", "class": "cats", "probability": 0.98, "probabilities": {"cats": 0.98, "dogs": 0.02}},
        {"photo": "notes.txt", "error": "not an image in a supported format"},
    ],
    "seconds": 0.031,
}  # fmt: skip


class Problem(BaseModel):
    """Why a request is refused."""

    detail: str


class ModelAbout(BaseModel):
    """The model that answers."""

    name: str | None
    version: str | None
    run_id: str
    classes: list[str]
    image_size: int


class AnswerDocument(BaseModel):
    """The answer to a photo, or why there is none."""

    photo: str
    class_: str | None = Field(None, alias="class")
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    heatmap: str | None = None
    no_heatmap: str | None = None
    error: str | None = None


class AnswersDocument(BaseModel):
    """The answers to the photos of a request, in their order."""

    model: ModelAbout
    answers: list[AnswerDocument]
    seconds: float

    model_config = {"json_schema_extra": {"example": EXAMPLE}}


class Meters:
    """What Prometheus reads.

    Args:
        service: what is measured.
        reader: what holds the requests.
    """

    def __init__(self, service: PhotoService, reader: BodyReader) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "catdog_requests", "Requests, by address and status.", ["path", "status"], registry=self.registry
        )
        self.photos = Counter("catdog_photos", "Photos, by class or error.", ["answer"], registry=self.registry)
        self.seconds = Histogram(
            "catdog_predict_seconds", "Seconds from a request's arrival to its answer.", buckets=BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        pending = Gauge("catdog_pending_photos", "Photos that wait or are being answered.", registry=self.registry)
        pending.set_function(lambda: service.pending)
        held = Gauge("catdog_held_bytes", "Bytes of requests and answers in memory.", registry=self.registry)
        held.set_function(lambda: reader.held)
        self._model = Gauge(
            "catdog_model", "The model that answers.", ["name", "version", "run_id"], registry=self.registry
        )
        self._service = service

    def render(self) -> bytes:
        """Returns all meters in Prometheus' text format."""
        about = self._service.served.about
        self._model.clear()
        self._model.labels(about["name"] or "", about["version"] or "", about["run_id"]).set(1)
        return generate_latest(self.registry)


class Endpoints:
    """What the addresses answer.

    Args:
        service: answers photos.
        reader: reads requests.
        token: what clients must send as `Authorization: Bearer TOKEN`; None: nothing.
    """

    def __init__(self, service: PhotoService, reader: BodyReader, token: str | None) -> None:
        self.service = service
        self.reader = reader
        self.token = token
        self.meters = Meters(service, reader)

    async def predict(self, request: Request, heatmap: bool = False) -> JSONResponse:
        """Says what is in one photo or several: classes and probabilities; heatmap=true adds where the evidence is."""
        began = time.perf_counter()
        self._require_token(request)
        hold: Hold = request.scope["catdog.hold"]
        photos = await self.reader.read(request, hold)
        try:
            futures = self.service.submit([photo.content for photo in photos], heatmap=heatmap)
        except FullError:
            raise RequestError(429, "the queue is full; try again in a moment", RETRY) from None
        found = await _wait(request, futures)
        answers = [_describe(photo, answer, self.meters) for photo, answer in zip(photos, found, strict=True)]
        about = next((each.served.about for each in found if isinstance(each, PhotoAnswer)), None)
        if about is None:
            reasons = "; ".join(dict.fromkeys(str(answer["error"]) for answer in answers))[:500]
            raise RequestError(500 if FAILED in reasons else 400, reasons)
        seconds = time.perf_counter() - began
        self.meters.seconds.observe(seconds)
        response = JSONResponse({"model": about, "answers": answers, "seconds": round(seconds, 6)})
        hold.resize(len(response.body))
        return response

    async def model(self, request: Request) -> JSONResponse:
        """Says which model answers."""
        self._require_token(request)
        return JSONResponse(self.service.served.about)

    async def health(self) -> dict[str, str]:
        """Says that the server answers."""
        return {"status": "ok"}

    async def metrics(self, request: Request) -> PlainTextResponse:
        """Numbers for Prometheus."""
        self._require_token(request)
        return PlainTextResponse(self.meters.render())

    async def page(self) -> HTMLResponse:
        """The page on which photos can be tried."""
        nonce = secrets.token_urlsafe(16)
        sources = f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src blob: data:; connect-src 'self'"
        nothing = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        return HTMLResponse(PAGE.replace("NONCE", nonce), headers={"Content-Security-Policy": f"{nothing}; {sources}"})

    def _require_token(self, request: Request) -> None:
        if self.token is None:
            return
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), self.token.encode()):
            detail = "this server needs a token: Authorization: Bearer TOKEN"
            raise RequestError(401, detail, {"WWW-Authenticate": "Bearer"})


class Frame:
    """What surrounds every answer: it is counted, gets the headers that all have, and is a sentence whatever goes wrong.

    Args:
        app: what answers.
        endpoints: where it is counted, and memory is held.
        paths: the addresses that are counted each for itself.
        local: whether the server is for this machine alone. Any page that a browser shows can send requests to it then, under
            another name that leads here too, so only this machine's own names and pages are answered.
        parting: while it is set, each answer closes its connection.
    """

    def __init__(
        self, app: ASGIApp, endpoints: Endpoints, paths: frozenset[str], local: bool, parting: threading.Event
    ) -> None:
        self._app = app
        self._endpoints = endpoints
        self._paths = paths
        self._local = local
        self._parting = parting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        begun = False

        async def send_framed(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._endpoints.meters.requests.labels(path, str(message["status"])).inc()
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                if self._parting.is_set():
                    headers["Connection"] = "close"
            elif not message.get("more_body"):
                # In two parts: Uvicorn begins the last one only when the client has taken nearly all of the rest.
                await send({**message, "more_body": True})
                message = {"type": "http.response.body"}
            await send(message)

        try:
            with self._endpoints.reader.hold() as scope["catdog.hold"]:
                await self._answer(scope, receive, send_framed)
        except asyncio.CancelledError:
            # The server ends, and its patience as well.
            if begun:
                raise
            response = JSONResponse({"detail": "the server is being stopped; try again in a moment"}, 503, RETRY)
            await response(scope, receive, send_framed)
        except Exception:
            # The traceback is for the log, not for clients.
            log.exception("answering %s", scope["path"])
            if begun:
                raise
            await JSONResponse({"detail": "internal error"}, 500)(scope, receive, send_framed)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._local and (_strip_port(host) not in LOCAL_HOSTS or origin not in (None, f"http://{host}")):
            detail = "this server is for this machine alone, as http://127.0.0.1; set CATDOG_TOKEN to let others in"
            await JSONResponse({"detail": detail}, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def build_app(
    service: PhotoService,
    reader: BodyReader,
    token: str | None = None,
    *,
    local: bool = False,
    parting: threading.Event | None = None,
) -> FastAPI:
    """Returns the web application; its arguments are those of `Endpoints`, and `local` and `parting` those of `Frame`."""
    endpoints = Endpoints(service, reader, token)
    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(title="catdog", description="What is in a photo, by a trained model.", docs_url=None, redoc_url=None,
                  swagger_ui_oauth2_redirect_url=None, version="1")  # fmt: skip
    app.add_api_route(
        "/predict", endpoints.predict, methods=["POST"], response_model=AnswersDocument,
        responses={status: {"model": Problem} for status in (400, 401, 408, 413, 415, 429, 500, 503)},
        openapi_extra={"requestBody": {"content": CONTENT, "required": True}},
    )  # fmt: skip
    refused: dict[int | str, dict[str, Any]] = {401: {"model": Problem}}
    app.add_api_route("/model", endpoints.model, response_model=ModelAbout, responses=refused)
    app.add_api_route("/health", endpoints.health)
    app.add_api_route("/metrics", endpoints.metrics, response_class=PlainTextResponse, responses=refused)
    app.add_api_route("/", endpoints.page, response_class=HTMLResponse, include_in_schema=False)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    app.add_middleware(Frame, endpoints=endpoints, paths=paths, local=local, parting=parting or threading.Event())
    _describe_in_openapi(app, token is not None)

    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def explain(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def explain_value(_: Request, error: RequestValidationError) -> JSONResponse:
        words = [f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"detail": "; ".join(words)[:500]}, 400)

    return app


def _describe_in_openapi(app: FastAPI, needs_token: bool) -> None:
    """Corrects what FastAPI says of all applications: bad values are a 400 here, and the token is checked by hand."""
    document = app.openapi()
    for operation in (each for path in document["paths"].values() for each in path.values()):
        operation["responses"].pop("422", None)
        if needs_token and "401" in operation["responses"]:
            operation["security"] = [{"token": []}]
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    if needs_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}


def _strip_port(host: str) -> str:
    return host.lower() if host.endswith("]") else (host.lower().rpartition(":")[0] or host.lower())


async def _wait(request: Request, futures: Sequence["Future[PhotoAnswer]"]) -> list[PhotoAnswer | BaseException]:
    """Returns the answers, or the exceptions in their place. Those that nobody waits for any more are not computed.

    Raises:
        RequestError: the client has gone, or they take too long.
    """
    waiting = [asyncio.wrap_future(future) for future in futures]
    for each in waiting:
        # Otherwise asyncio logs an exception that nobody has asked for.
        each.add_done_callback(lambda done: done.cancelled() or done.exception())
    answered = asyncio.ensure_future(asyncio.wait(waiting))
    gone = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait((answered, gone), timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            return [each.exception() or each.result() for each in waiting]
        if gone.done():
            # Nobody reads it, but it is counted.
            raise RequestError(499, "the client has gone")
        raise RequestError(503, f"no answer within {ANSWER_S:.0f} s; try again in a moment", RETRY)
    finally:
        answered.cancel()
        gone.cancel()
        for future, each in zip(futures, waiting, strict=True):
            future.cancel()
            each.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _describe(photo: Photo, answer: PhotoAnswer | BaseException, meters: Meters) -> dict[str, Any]:
    if isinstance(answer, BaseException):
        meters.photos.labels("error").inc()
        if isinstance(answer, UnreadableImageError):
            return {"photo": photo.name, "error": str(answer)}
        log.error("answering a photo", exc_info=answer)
        return {"photo": photo.name, "error": FAILED}
    meters.photos.labels(answer.class_name).inc()
    classes = answer.served.model.class_names
    # A float32 as a float64 has the same value, so a client sees every bit.
    probabilities = dict(zip(classes, map(float, answer.probabilities), strict=True))
    found: dict[str, Any] = {
        "photo": photo.name, "class": answer.class_name, "probability": probabilities[answer.class_name],
        "probabilities": probabilities,
    }  # fmt: skip
    if answer.heatmap:
        found["heatmap"] = f"data:image/png;base64,{base64.b64encode(answer.heatmap).decode()}"
    elif answer.no_heatmap:
        found["no_heatmap"] = answer.no_heatmap
    return found


PAGE = importlib.resources.files("catdog.deployment.serving").joinpath("page.html").read_text(encoding="utf-8")
