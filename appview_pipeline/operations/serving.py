"""Metrics for Prometheus and health for probes: `appview-pipeline serve` (docs/metrics.md).

A process of its own, which reads the database. It answers while the database is away, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from appview_pipeline.operations.health import PARTS, Part, parts_of, together
from appview_pipeline.operations.metrics.exposition import render
from appview_pipeline.operations.reading import Index, Reading, Readings
from appview_pipeline.serving.listening import listen
from appview_pipeline.serving.server import HttpServer
from appview_pipeline.settings import Settings

log = logging.getLogger(__name__)

CONNECTIONS = 64
"""Limit of the clients at the same time: Prometheus, probes, a person with a browser."""
_GZIP_BYTES = 1_000
"""Smaller answers are not compressed."""
_ABOUT = "appview-pipeline: metrics are at /metrics, health at /livez and /readyz (docs/metrics.md).\n"


def serve(
    settings: Settings,
    started: Callable[[HttpServer], None] = lambda server: None,
    read: Callable[[], Reading] | None = None,
) -> None:
    """Serves metrics and health at `APPVIEW_METRICS_ADDRESS` until SIGTERM or SIGINT, or until it is asked to stop.

    `started` is called once connections are accepted. `read` reads the database, by default that of the settings.
    Raises `OperatorError` where nothing can listen there.
    """
    index = Index(settings)
    readings = Readings(read or index.read)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        log.info("Serves metrics and health at %s", server.url)
        started(server)
        yield

    listener = listen(settings.metrics_address, "APPVIEW_METRICS_ADDRESS")
    server = HttpServer(_application(readings, lifespan), listener, connections=CONNECTIONS)
    try:
        server.run()
    finally:
        index.close()


def _application(readings: Readings, lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]]) -> Starlette:
    async def metrics(request: Request) -> Response:
        body, content_type = render(await readings.latest(), readings.counts, request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    async def ready(request: Request) -> Response:
        excluded = set(request.query_params.getlist("exclude"))
        if unknown := excluded - PARTS.keys():
            raise HTTPException(400, f"There is no part {', '.join(sorted(unknown))}: {', '.join(PARTS)}.")
        parts = parts_of(await readings.latest())
        return _answer({name: part for name, part in parts.items() if name not in excluded})

    async def ready_part(request: Request) -> Response:
        name = request.path_params["part"]
        if name not in PARTS:
            raise HTTPException(404, f"There is no part {name!r}: {', '.join(PARTS)}.")
        return _answer({name: parts_of(await readings.latest())[name]})

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/livez", _alive),
            Route("/readyz", ready),
            Route("/readyz/{part}", ready_part),
            Route("/", _about),
        ],
        middleware=[Middleware(GZipMiddleware, minimum_size=_GZIP_BYTES)],
        exception_handlers={HTTPException: _answer_error, Exception: _answer_defect},
        lifespan=lifespan,
    )


def _answer(parts: dict[str, Part]) -> Response:
    found = together(parts)
    body = {**found.as_json(), "parts": {name: part.as_json() for name, part in parts.items()}}
    return JSONResponse(body, 200 if found.is_healthy else 503, {"Cache-Control": "no-store"})


async def _alive(_: Request) -> Response:
    """The answer alone says that this process is alive; it must not depend on anything else, or a restart would be
    tried as the cure of what is elsewhere."""
    return JSONResponse(Part(True, "This process answers.").as_json(), headers={"Cache-Control": "no-store"})


async def _about(_: Request) -> Response:
    return PlainTextResponse(_ABOUT)


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(Part(False, error.detail).as_json(), error.status_code, error.headers)


async def _answer_defect(_: Request, __: Exception) -> Response:
    return JSONResponse(Part(False, "Internal server error: the log has more.").as_json(), 500)
