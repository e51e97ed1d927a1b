"""A relay: `com.atproto.sync.subscribeRepos` over a real WebSocket, with the relay's cursor rules, and with faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from appview_pipeline_tests.simulated_network.http_service import Parameters
from appview_pipeline_tests.simulated_network.stream_server import (
    Faults,
    StreamServer,
    error_frame,
    frame_seq,
    info_frame,
    message,
)

__all__ = ["SUBSCRIBE_REPOS", "Faults", "Relay", "error_frame", "frame_seq", "info_frame", "message"]

SUBSCRIBE_REPOS = "/xrpc/com.atproto.sync.subscribeRepos"

# Answers a plain XRPC query: (status, JSON-able body), or None for "no such method".
Query = Callable[[str, dict[str, str]], "tuple[int, Any] | None"]


class Relay(StreamServer):
    """A relay on 127.0.0.1. Use as a context manager, or `start` and `stop`.

    `frames` are there from the beginning (the window); `publish` adds. `query` answers plain XRPC queries on the same
    port (`com.atproto.sync.listRepos`).
    """

    method = SUBSCRIBE_REPOS
    name = "relay"

    def __init__(
        self,
        frames: Iterable[bytes] = (),
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        query: Query | None = None,
        window_bytes: int = 1_000_000_000,
        ping_interval: float = 30.0,
    ) -> None:
        super().__init__(port=port, host=host, window_bytes=window_bytes, ping_interval=ping_interval)
        self._query = query
        self._append(frames)

    def query(self, path: str, parameters: Parameters) -> tuple[int, Any] | None:
        if self._query is None:
            return None
        return self._query(path.removeprefix("/xrpc/"), {name: values[-1] for name, values in parameters.items()})
