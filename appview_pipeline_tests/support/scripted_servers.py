"""Servers whose answers a test writes: a relay over WebSocket, a server on raw sockets; and their frames."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import libipld
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from appview_pipeline.backoff import Backoff
from appview_pipeline.network.subscription import SUBSCRIBE_REPOS, Subscription
from appview_pipeline.protocol.event_stream import seq_of
from appview_pipeline.protocol.peek import COMMIT_HEADER

Handler = Callable[[ServerConnection, int, "int | None"], Awaitable[None]]


def frame(seq: int, size: int = 100) -> bytes:
    body = {"seq": seq, "blocks": b"\x00" * size}
    return COMMIT_HEADER + libipld.encode_dag_cbor(body)


def control(header: dict[str, Any], body: dict[str, Any]) -> bytes:
    return libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(body)


def error_frame(name: str, message: str = "") -> bytes:
    return control({"op": -1}, {"error": name, "message": message})


def info_frame(name: str) -> bytes:
    return control({"t": "#info", "op": 1}, {"name": name, "message": "Possibly missed events."})


OUTDATED = info_frame("OutdatedCursor")


class Relay:
    """A WebSocket server in a thread; `handler(connection, number, cursor)` plays the n-th connection (from 0)."""

    def __init__(self, handler: Handler, method: str = SUBSCRIBE_REPOS.method, **options: Any) -> None:
        self._handler = handler
        self._method = method
        self._options = {"ping_interval": None, "compression": None, "max_size": None, "close_timeout": 0.5, **options}
        self.cursors: list[int | None] = []
        self.times: list[float] = []
        self.user_agents: list[str | None] = []
        self.hosts: list[str | None] = []
        self._connections: set[ServerConnection] = set()
        self.closed = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server: Server
        async with serve(self._play, "127.0.0.1", 0, **self._options) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()

    async def _play(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        parts = urlsplit(connection.request.path)
        assert parts.path == f"/xrpc/{self._method}"
        cursor = parse_qs(parts.query).get("cursor")
        self.cursors.append(int(cursor[0]) if cursor else None)
        self.times.append(time.monotonic())
        self.user_agents.append(connection.request.headers.get("User-Agent"))
        self.hosts.append(connection.request.headers.get("Host"))
        self._connections.add(connection)
        try:
            await self._handler(connection, len(self.cursors) - 1, self.cursors[-1])
        except ConnectionClosed:
            pass
        finally:
            self._connections.discard(connection)
            self.closed.set()

    def drop(self) -> None:
        """Breaks off the connections that there are."""
        for connection in tuple(self._connections):
            self._loop.call_soon_threadsafe(connection.transport.abort)


def quick(url: str, cursor: int | None = None, buffer_bytes: int = 64_000_000, **options: Any) -> Subscription:
    options.setdefault("backoff", Backoff(first=0.02, longest=0.1))
    return Subscription(url, cursor, buffer_bytes, **options)


def take_until(subscription: Subscription, count: int, seconds: float = 60) -> list[bytes]:
    frames: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(frames) < count and time.monotonic() < deadline:
        frames += subscription.take(1_000, 0.05)
    return frames


def seqs(frames: list[bytes]) -> list[int | None]:
    return [seq_of(f) for f in frames]


async def forever(connection: ServerConnection) -> None:
    await connection.wait_closed()


async def idle(connection: ServerConnection, number: int, cursor: int | None) -> None:
    await forever(connection)


@contextlib.contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[tuple[int, list[float]]]:
    """A TCP server that lets `answer` deal with each connection, one at a time."""
    listener = socket.create_server(("127.0.0.1", 0))
    times: list[float] = []

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            times.append(time.monotonic())
            with connection, contextlib.suppress(OSError):
                answer(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], times
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def refusing(status: str, headers: str = "", body: str = "") -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    return answer


def handshake(connection: socket.socket) -> None:
    """The server's half of the opening handshake, for tests that speak WebSocket byte by byte."""
    key = re.search(rb"Sec-WebSocket-Key: (\S+)", connection.recv(65536), re.IGNORECASE)
    if key is None:
        raise ConnectionError("the client has gone")
    accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def client_frames(data: bytes) -> list[tuple[int, bytes]]:
    """The opcodes and unmasked payloads of short client frames."""
    frames = []
    while data:
        opcode, size, mask = data[0] & 0xF, data[1] & 0x7F, data[2:6]
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(data[6 : 6 + size]))
        frames.append((opcode, payload))
        data = data[6 + size :]
    return frames
