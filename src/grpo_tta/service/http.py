"""The FastAPI application: `/v1/classify`, `/healthz`, `/metrics`, `/openapi.json`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar, final

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from grpo_tta.classifier import GRPOTTA, Prediction
from grpo_tta.errors import UserError
from grpo_tta.images.read import DecodedImage
from grpo_tta.service.batcher import Batcher, Places
from grpo_tta.service.bodies import Asked, parse_json, read_body, read_multipart
from grpo_tta.service.classifiers import Classifiers, Labels
from grpo_tta.service.images import Opened
from grpo_tta.service.limits import Code, Limits, RefusedError
from grpo_tta.service.metrics import CONTENT_TYPE, Metrics
from grpo_tta.service.schema import Answers, Health, refusals, request_body

T = TypeVar("T")
log = logging.getLogger("grpo_tta.service")
GONE = 499  # what a log calls a client that left; nobody reads it


@final
class _Service:
    """The parts that live as long as the application."""

    def __init__(self, classifier: GRPOTTA, limits: Limits, batch: int) -> None:
        self.classifier, self.limits = classifier, limits
        self.places = Places(limits.queue, "images")
        self.pixels = Places(limits.queue_pixels, "pixels")
        self.bytes = Places(limits.queue_bytes, "bytes")
        self.decoders = ThreadPoolExecutor(2, thread_name_prefix="grpo-tta-decode")
        work = Classifiers(classifier).predict
        self.batcher: Batcher[Labels, DecodedImage, Prediction] = Batcher(
            work, batch=batch, on_batch=lambda size: self.metrics.batches.observe(size)
        )
        self.metrics = Metrics(lambda: self.batcher.waiting, lambda: self.batcher.in_work, lambda: self.places.taken)

    async def close(self) -> None:
        await self.batcher.close()
        self.decoders.shutdown()

    async def classify(self, request: Request) -> JSONResponse:
        """Reads, decodes, waits for the answers; gives up when the time is over or the client is gone."""
        declared = request.headers.get("content-length", "")
        most = self.limits.body_bytes
        with self.bytes.take(min(int(declared), most) if declared.isdecimal() else most):
            return await self._classify(request)

    async def _classify(self, request: Request) -> JSONResponse:
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        try:
            async with asyncio.timeout_at(deadline):
                asked = await self._read(request)
        except TimeoutError:
            seconds = f"{self.limits.seconds:g}"
            raise RefusedError("upload_too_slow", f"The request did not arrive within {seconds} seconds; send less.") from None
        try:
            async with asyncio.timeout_at(deadline):
                answers = await _while_connected(request, self._answer(asked))
        except TimeoutError:
            seconds = f"{self.limits.seconds:g}"
            raise RefusedError("too_slow", f"The answer took more than {seconds} seconds; try again later.") from None
        self.metrics.images.inc(len(answers))
        self.metrics.changed.inc(sum(answer.label != answer.label_before for answer in answers))
        self.metrics.forwards.inc(sum(answer.forwards for answer in answers))
        labels = self.classifier.labels if asked.labels is None else asked.labels
        content = {"model": self.classifier.backbone.name, "labels": labels, "results": [answer.plain() for answer in answers]}
        return JSONResponse(content)

    async def _read(self, request: Request) -> Asked:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await read_multipart(request, self.limits)
        if kind == "application/json":
            body = b"".join([chunk async for chunk in read_body(request, self.limits)])
            return await self._decoding(parse_json, body, self.limits)
        shown = kind[:80].encode(errors="replace").decode() or "nothing"
        raise RefusedError("unsupported_media_type", f"Send multipart/form-data or application/json, not {shown}.")

    async def _answer(self, asked: Asked) -> list[Prediction]:
        with self.places.take(len(asked.images)):
            opened = await self._decoding(lambda: [Opened(x, n, self.limits) for n, x in enumerate(asked.images)])
            with self.pixels.take(sum(image.pixels for image in opened)):
                images = await self._decoding(lambda: [image.decode(self.classifier.least_side) for image in opened])
                try:
                    return await self.batcher.answers(asked.labels, images)
                except UserError as error:
                    if asked.labels is None:  # then it is not the client's doing
                        raise
                    raise RefusedError("unusable_labels", str(error)) from None

    async def _decoding(self, do: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.decoders, do, *arguments)


async def _while_connected(request: Request, doing: Coroutine[Any, Any, T]) -> T:
    """The outcome of `doing`, which is cancelled as soon as the client disconnects.

    Raises:
        ClientDisconnect: it did.
    """
    task = asyncio.ensure_future(doing)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refused(refusal: RefusedError) -> JSONResponse:
    headers = {"Retry-After": "1"} if refusal.status == 503 else {}
    problem = {"code": refusal.code, "message": refusal.message, "image": refusal.image}
    return JSONResponse({"error": problem}, refusal.status, headers)


def create_service(classifier: GRPOTTA, limits: Limits | None = None, *, batch: int = 16) -> FastAPI:
    """The application, to be run by any ASGI server in one process.

    Args:
        classifier: answers requests; requests may bring labels of their own and share its model and settings.
        limits: of requests and of the queue.
        batch: images adapted in one pass; give the classifier the same.

    Raises:
        UserError: the batch is empty.
    """
    if batch < 1:
        raise UserError(f"A batch of {batch} images cannot be adapted; set batch to at least 1.")
    limits = limits or Limits()
    service = _Service(classifier, limits, batch)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await service.close()

    # FastAPI's own documentation pages load scripts from outside hosts.
    app = FastAPI(
        title="grpo-tta",
        summary="Test-time adaptation of a CLIP-like model to each image alone.",
        version=version("grpo-tta"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    @app.post(
        "/v1/classify",
        summary="Adapts to every image alone and classifies it.",
        response_model=Answers,
        responses=refusals(400, 408, 413, 415, 422, 500, 503),
        openapi_extra={"requestBody": request_body(limits)},
    )
    async def classify(request: Request) -> Response:
        began = time.perf_counter()
        outcome = "ok"
        try:
            return await service.classify(request)
        except RefusedError as refusal:
            outcome = refusal.code
            return _refused(refusal)
        except ClientDisconnect:
            outcome = "client_left"
            return Response(status_code=GONE)
        except Exception:
            outcome = "internal"
            log.exception("a request failed")
            return _refused(RefusedError("internal", "The service failed on this request; its log says why."))
        finally:
            service.metrics.requests.labels(outcome).inc()
            service.metrics.seconds.observe(time.perf_counter() - began)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether the service is up.", response_model=Health)
    async def healthz() -> Response:
        labels = list(classifier.labels)
        return JSONResponse(
            {"status": "ok", "model": classifier.backbone.name, "labels": labels, "version": version("grpo-tta")}
        )

    @app.head("/metrics", include_in_schema=False)
    @app.get(
        "/metrics", summary="Prometheus metrics.", response_class=Response, responses={200: {"content": {CONTENT_TYPE: {}}}}
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        code: Code = "method_not_allowed" if error.status_code == 405 else "not_found"
        response = _refused(RefusedError(code, f"{request.method} {request.url.path}: {error.detail}; see /openapi.json."))
        response.headers.update(error.headers or {})
        return response

    return app
