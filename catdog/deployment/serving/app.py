"""The web application: its addresses, what they answer, and what they count."""

import asyncio
import base64
import hmac
import importlib.resources
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from catdog.data.images import UnreadableImageError
from catdog.deployment.serving.body import BodyReader, Photo, RequestError
from catdog.deployment.serving.service import FullError, PhotoAnswer, PhotoService

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
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
            "properties": {"photos": {"type": "array", "items": {
                "type": "object", "required": ["data"],
                "properties": {"name": {"type": "string"}, "data": {"type": "string", "format": "byte"}},
            }}},
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
    """

    def __init__(self, service: PhotoService) -> None:
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
        self.meters = Meters(service)

    async def predict(self, request: Request, heatmap: bool = False) -> JSONResponse:
        """Says what is in one photo or several: classes and probabilities; heatmap=true adds where the evidence is."""
        began = time.perf_counter()
        self._require_token(request)
        with self.reader.reserve(request):
            photos = await self.reader.read(request)
            try:
                futures = self.service.submit([photo.content for photo in photos], heatmap=heatmap)
            except FullError:
                raise RequestError(429, "the queue is full; try again in a moment") from None
            found = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        answers = [_describe(photo, answer, self.meters) for photo, answer in zip(photos, found, strict=True)]
        if all("error" in answer for answer in answers):
            raise RequestError(400, "; ".join(dict.fromkeys(str(answer["error"]) for answer in answers))[:500])
        about = next(each.served.about for each in found if isinstance(each, PhotoAnswer))
        seconds = time.perf_counter() - began
        self.meters.seconds.observe(seconds)
        return JSONResponse({"model": about, "answers": answers, "seconds": round(seconds, 6)})

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
        headers = {"Content-Security-Policy": f"default-src 'none'; base-uri 'none'; form-action 'none'; {sources}"}
        return HTMLResponse(PAGE.replace("NONCE", nonce), headers=headers)

    def _require_token(self, request: Request) -> None:
        sent = request.headers.get("authorization", "")
        if self.token is not None and not hmac.compare_digest(sent.encode(), f"Bearer {self.token}".encode()):
            raise RequestError(401, "this server needs a token: Authorization: Bearer TOKEN")


def build_app(service: PhotoService, reader: BodyReader, token: str | None = None) -> FastAPI:
    """Returns the web application; its arguments are those of `Endpoints`."""
    endpoints = Endpoints(service, reader, token)
    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(title="catdog", description="What is in a photo, by a trained model.", docs_url=None, redoc_url=None,
                  swagger_ui_oauth2_redirect_url=None, version="1")  # fmt: skip
    app.add_api_route(
        "/predict", endpoints.predict, methods=["POST"], response_model=AnswersDocument,
        responses={status: {"model": Problem} for status in (400, 401, 408, 413, 415, 429)},
        openapi_extra={"requestBody": {"content": CONTENT, "required": True}},
    )  # fmt: skip
    refused: dict[int | str, dict[str, Any]] = {401: {"model": Problem}}
    app.add_api_route("/model", endpoints.model, response_model=ModelAbout, responses=refused)
    app.add_api_route("/health", endpoints.health)
    app.add_api_route("/metrics", endpoints.metrics, response_class=PlainTextResponse, responses=refused)
    app.add_api_route("/", endpoints.page, response_class=HTMLResponse, include_in_schema=False)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)

    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> JSONResponse:
        headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == 429 else {}
        return JSONResponse({"detail": error.detail}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def explain(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def explain_value(_: Request, error: RequestValidationError) -> JSONResponse:
        words = [f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"detail": "; ".join(words)[:500]}, 400)

    @app.middleware("http")
    async def count(request: Request, answer: Callable[[Request], Awaitable[Any]]) -> Any:
        try:
            response = await answer(request)
        except Exception:
            # The traceback is for the log, not for clients.
            log.exception("answering %s", request.url.path)
            response = JSONResponse({"detail": "internal error"}, 500)
        path = request.url.path if request.url.path in paths else "other"
        endpoints.meters.requests.labels(path, str(response.status_code)).inc()
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return app


def _describe(photo: Photo, answer: PhotoAnswer | BaseException, meters: Meters) -> dict[str, Any]:
    if isinstance(answer, UnreadableImageError):
        meters.photos.labels("error").inc()
        return {"photo": photo.name, "error": str(answer)}
    if isinstance(answer, BaseException):
        raise answer
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
