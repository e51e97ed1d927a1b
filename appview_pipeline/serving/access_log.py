"""What a server of ours answered: a log line for each request, of level DEBUG."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)


class AccessLog:
    """ASGI middleware. Requests over HTTP only: streams log what they do themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http" or not log.isEnabledFor(logging.DEBUG):
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status, size = 0, 0

        async def note(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            client = scope.get("client")
            log.debug(
                "%s %s %d",
                scope["method"],
                scope["path"],
                status,
                extra={
                    "client": "unknown" if client is None else client[0],
                    "bytes": size,
                    "ms": round(1_000 * (time.monotonic() - began), 1),
                },
            )
