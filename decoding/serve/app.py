"""The endpoints: OpenAI's, health and metrics. They wait for the engine's thread, and never compute."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

import wheels
from wheels.decoding.serve.bodies import Body, ChatBody, CompletionBody, read_body
from wheels.decoding.serve.config import is_loopback
from wheels.decoding.serve.errors import Refused
from wheels.decoding.serve.guard import Guard
from wheels.decoding.serve.jobs import Delta, Job
from wheels.decoding.serve.page import add_page, settings_of
from wheels.decoding.serve.replies import ChatCompletions, Completions, failure
from wheels.decoding.serve.service import Service
from wheels.errors import shown
from wheels.secret import Secret

log = logging.getLogger("wheels")

Result = TypeVar("Result")
LEFT = 499
"""The status under which a request is counted whose client has left, as nginx has it."""


def make_app(service: Service, key: Secret) -> Guard:
    """Return the application, guarded and counted."""
    app = FastAPI(title="wheels", version=wheels.__version__, docs_url=None, redoc_url=None)
    for kind in (Refused, HTTPException, Exception):
        app.add_exception_handler(kind, _on_error)
    _add_writing(app, service, "/v1/completions", CompletionBody, Completions)
    _add_writing(app, service, "/v1/chat/completions", ChatBody, ChatCompletions)
    _add_models(app, service)
    _add_health(app, service)
    add_page(app)
    local = is_loopback(service.config.host) and not key.value
    guard = Guard(app, _error, key=key, local=local, body_limit=service.config.body_limit)
    guard.count = service.metrics.count
    return guard


def _add_writing(app: FastAPI, service: Service, path: str, kind: type[Body], replies: type[Completions]) -> None:
    """Add an endpoint that writes text."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["properties"]["model"]["enum"] = [service.name]
    definitions, told = schema.pop("$defs", {}), app.openapi
    asked = {"content": {"application/json": {"schema": schema}}, "required": True}

    def openapi() -> dict[str, Any]:
        """Return the schema, with the parts of the body where its references point."""
        found = told()
        found.setdefault("components", {}).setdefault("schemas", {}).update(definitions)
        return found

    app.openapi = openapi  # type: ignore[method-assign]

    @app.post(path, response_model=None, openapi_extra={"requestBody": asked})
    async def write(request: Request) -> Response:
        body = read_body(await request.body(), kind)
        if isinstance(body, CompletionBody) and body.prompt_logprobs is not None:
            found = await _unless_left(request, service.scores(body))
            return Response(status_code=LEFT) if found is None else JSONResponse(found)
        job = await service.job(body)
        reply = replies(service.pair, body, job, service.prices)
        if isinstance(body, CompletionBody) and body.echo:
            echoes = await _unless_left(request, service.echoes(body, job))
            if echoes is None:
                return Response(status_code=LEFT)
            reply.echoes = echoes
        service.submit(job)
        if body.stream:
            return Stream(service, job, reply)
        try:
            deltas = await _unless_left(request, _collected(job))
        finally:
            service.leave(job)
        return Response(status_code=LEFT) if deltas is None else JSONResponse(reply.answer(deltas))


def _add_models(app: FastAPI, service: Service) -> None:
    """Add the list of models: there is one."""
    told = {"id": service.name, "object": "model", "created": service.started, "owned_by": "wheels"}
    told |= {"max_model_len": service.context, "wheels": settings_of(service)}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [told]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != service.name:
            raise Refused(404, f"the model {shown(name)} does not exist", param="model", code="model_not_found")
        return told


def _add_health(app: FastAPI, service: Service) -> None:
    """Add what orchestrators and Prometheus ask for."""

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        if not service.worker.is_alive():
            raise Refused(500, "the models' thread has ended")
        return {"live": True}

    @app.get("/health/ready")
    @app.get("/health")
    async def ready() -> dict[str, bool]:
        if service.draining:
            raise Refused(503, "the server is shutting down", retry_after=5)
        return await live() | {"ready": True}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(service.gauges()), media_type="text/plain; version=0.0.4")


def _error(refused: Refused) -> JSONResponse:
    """Return an error as OpenAI's object."""
    return JSONResponse(refused.body(), refused.status, headers=refused.headers)


async def _on_error(request: Request, error: Exception) -> Response:
    """Answer with what went wrong; a fault of ours is in the log alone."""
    if isinstance(error, HTTPException):
        error = Refused(error.status_code, f"{request.method} {shown(request.url.path)}: {error.detail}")
    if not isinstance(error, Refused):
        log.error("%s failed: %s: %s", request.url.path, type(error).__name__, error)
        error = Refused(500, "the server failed at this request; its log says why")
    return _error(error)


class Stream(StreamingResponse):
    """The events of a job; however it ends, its places are given up."""

    def __init__(self, service: Service, job: Job, reply: Completions) -> None:
        super().__init__(reply.events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.service, self.job = service, job

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events until the end, or until the client leaves: whichever comes first."""
        sending = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.service.leave(self.job)
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)


async def _left(receive: Any) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _collected(job: Job) -> list[Delta]:
    """Return all deltas of a job."""
    return [delta async for deltas in job.deltas() for delta in deltas]


async def _unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return what some work gives; None where the client leaves before.

    Raises:
        Refused: where the engine failed.
    """
    collecting = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait((collecting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            return None
        return collecting.result()
    except Exception as error:
        raise failure(error) from error
    finally:
        for task in (collecting, leaving):
            task.cancel()
