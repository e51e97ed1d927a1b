"""Metrics for Prometheus and health for probes: `appview-pipeline serve` (docs/metrics.md).

A process of its own, which reads the database. It answers while the database is away, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appview_pipeline.serving.listening import listen
from appview_pipeline.serving.server import HttpServer
from appview_pipeline.settings import Settings

log = logging.getLogger(__name__)

CONNECTIONS = 64
"""Limit of the clients at the same time: Prometheus, probes, a person with a browser."""


def serve(settings: Settings, started: Callable[[HttpServer], None] = lambda server: None) -> None:
    """Serves metrics and health at `APPVIEW_METRICS_ADDRESS` until SIGTERM or SIGINT, or until it is asked to stop.

    `started` is called once connections are accepted. Raises `OperatorError` where nothing can listen there.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        log.info("Serves metrics and health at %s", server.url)
        started(server)
        yield

    listener = listen(settings.metrics_address, "APPVIEW_METRICS_ADDRESS")
    application = Starlette(routes=[Route("/livez", _livez)], lifespan=lifespan)
    server = HttpServer(application, listener, connections=CONNECTIONS)
    server.run()


async def _livez(_: Request) -> Response:
    return JSONResponse({"is_healthy": True, "sentence": "This process answers."})
