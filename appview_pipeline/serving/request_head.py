"""A client's connection over HTTP: uvicorn's, with a limit of the time that a client takes for a request's head.

Without one, clients that connect and say nothing would keep others out for as long as they like: the server serves a
limited number of connections.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from appview_pipeline import backoff


class TimedConnection(H11Protocol):
    """One client's connection. Used by the event loop's thread only."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has `SERVING_HEAD_SECONDS` for its first request."""
        super().connection_made(transport)
        self._overdue = self.loop.call_later(backoff.SERVING_HEAD_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Once it has begun another request after the first one, it has as long for that."""
        if self._overdue is None and (self.cycle is None or self.cycle.response_complete):
            self._overdue = self.loop.call_later(backoff.SERVING_HEAD_SECONDS, self._give_up)
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before or self.transport.get_protocol() is not self:  # a request has come, or a WebSocket
            self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._settle()
        super().connection_lost(exc)

    def _settle(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _give_up(self) -> None:
        self._overdue = None
        self.transport.close()
