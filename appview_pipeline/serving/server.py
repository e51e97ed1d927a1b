"""A server of ours: an application behind uvicorn, with limits, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.serving.access_log import AccessLog
from appview_pipeline.serving.listening import BACKLOG, url_of
from appview_pipeline.serving.request_head import TimedConnection

MAX_HEAD_BYTES = 16 * 1024
"""Size limit of a request's line and headers."""


class HttpServer:
    """Serves `application` on a socket that listens.

    `connections`: limit of the clients that are connected at the same time; more are answered with 503. Other keyword
    arguments are uvicorn's (WebSockets). The application has a lifespan.
    """

    def __init__(
        self,
        application: Starlette,
        listener: socket.socket,
        *,
        connections: int,
        websocket: type[asyncio.Protocol] | None = None,
        **more: Any,
    ) -> None:
        self._listener = listener
        self._failure: BaseException | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                AccessLog(application),
                http=TimedConnection,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                ws="none" if websocket is None else websocket,
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                limit_concurrency=connections,
                timeout_graceful_shutdown=backoff.SERVING_END_SECONDS,
                **more,
            )
        )

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where it listens, as `http://host:port`."""
        return url_of(self._listener)

    def run(self) -> None:
        """Serves until it is stopped. Raises what `fail` was given: an `OperatorError` as it is."""
        with _ended_by_sigterm():
            self._server.run(sockets=[self._listener])
        if isinstance(self._failure, OperatorError):
            raise self._failure
        if self._failure is not None:
            raise RuntimeError("the server failed") from self._failure

    def stop(self) -> None:
        """Asks it to end, which takes some seconds at most. May be called from any thread."""
        self._server.should_exit = True

    def fail(self, error: BaseException) -> None:
        """Asks it to end because of an error, which `run` then raises. May be called from any thread."""
        self._failure = error
        self.stop()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """The server ends in order after a SIGTERM, and raises it again then, which would look like a crash."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
