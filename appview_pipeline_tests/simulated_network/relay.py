"""A relay: `com.atproto.sync.subscribeRepos` over a real WebSocket, with the relay's cursor rules, and with faults.

Frames are published into a bounded window; any number of clients read it at their own pace. The server runs in its own
thread and event loop. Frames are handed to the socket many at a time, already framed as WebSocket messages: one client
can be fed tens of thousands of frames of 5 kB a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import libipld
from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

SUBSCRIBE_REPOS = "/xrpc/com.atproto.sync.subscribeRepos"
BURST_BYTES = 256 * 1024
CLOSE_SECONDS = 3.0

# Answers a plain XRPC query: (status, JSON-able body), or None for "no such method".
Query = Callable[[str, dict[str, str]], "tuple[int, Any] | None"]


def info_frame(name: str, message: str) -> bytes:
    return bytes(
        libipld.encode_dag_cbor({"op": 1, "t": "#info"}) + libipld.encode_dag_cbor({"name": name, "message": message})
    )


def error_frame(name: str, message: str) -> bytes:
    return bytes(libipld.encode_dag_cbor({"op": -1}) + libipld.encode_dag_cbor({"error": name, "message": message}))


def frame_seq(frame: bytes) -> int | None:
    """The frame's `seq`; None for #info, errors and damaged frames."""
    try:
        body = libipld.decode_dag_cbor_multi(frame)[1]
    except Exception:
        return None
    return body.get("seq") if isinstance(body, dict) else None


def message(payload: bytes) -> bytes:
    """`payload` as one unmasked binary WebSocket message (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x82" + size.to_bytes(1, "big") + payload
    if size < 65_536:
        return b"\x82\x7e" + size.to_bytes(2, "big") + payload
    return b"\x82\x7f" + size.to_bytes(8, "big") + payload


@dataclass
class Faults:
    """Faults of the relay, and counters that prove that they happened. All may be changed while the relay runs.

    - `refuse`: HTTP statuses (429, 503, ...) for the next connections, one each; `retry_after` goes with them.
    - `drop_after`: frames after which the next connections are cut without a close handshake, one number each.
    - `close_after`: the same with a close handshake of the given code: (frames, code).
    - `stall_after`: (frames, seconds): the next connections fall silent, socket open, pings unanswered.
    - `damage`: seq -> message(s) sent in place of that frame; an empty list loses it.
    - `consumer_too_slow_after`: frames a client may lag behind the newest before it is thrown out; None: for ever.
    - `ignore_cursor_rules`: like the indigo relay: neither OutdatedCursor nor FutureCursor is ever sent.
    - `authorization`: the header that a client must send; 401 to others, with what they sent.
    """

    refuse: deque[int] = field(default_factory=deque)
    retry_after: int | None = None
    drop_after: deque[int] = field(default_factory=deque)
    close_after: deque[tuple[int, int]] = field(default_factory=deque)
    stall_after: deque[tuple[int, float]] = field(default_factory=deque)
    damage: dict[int, list[bytes]] = field(default_factory=dict)
    consumer_too_slow_after: int | None = None
    ignore_cursor_rules: bool = False
    authorization: str | None = None

    refused: int = 0
    dropped: int = 0
    stalled: int = 0
    damaged: int = 0
    too_slow: int = 0


class _Window:
    """The newest frames with their seqs, oldest dropped beyond `max_bytes`. Guarded by the relay's lock.

    Positions count all frames ever published. Dropped frames leave a gap at the head of the lists that is closed now
    and then, so that both appending and reading anywhere cost the same however long the window is.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.newest_seq = 0
        self._messages: list[bytes] = []
        self._seqs: list[int] = []
        self._offset = 0  # position of the first element of the lists
        self._gap = 0  # elements at their head that are dropped already

    @property
    def first(self) -> int:
        return self._offset + self._gap

    @property
    def end(self) -> int:
        return self._offset + len(self._messages)

    @property
    def oldest_seq(self) -> int:
        """Of the frames that are kept; when none is, of the next one at the earliest."""
        if self._gap < len(self._seqs):
            return self._seqs[self._gap]
        return self.newest_seq + 1 if self.newest_seq else 0

    def append(self, seq: int, frame: bytes) -> None:
        if seq <= self.newest_seq:
            raise ValueError(f"seq {seq} after {self.newest_seq}: a relay's seqs only rise")
        framed = message(frame)
        self._messages.append(framed)
        self._seqs.append(seq)
        self.bytes += len(framed)
        self.newest_seq = seq
        while self.bytes > self.max_bytes and self.end - self.first > 1:
            self.bytes -= len(self._messages[self._gap])
            self._messages[self._gap] = b""
            self._gap += 1
        if self._gap > 1_000 and self._gap * 2 > len(self._messages):
            del self._messages[: self._gap], self._seqs[: self._gap]
            self._offset += self._gap
            self._gap = 0

    def forget_before(self, seq: int) -> None:
        while self._gap < len(self._seqs) and self._seqs[self._gap] < seq:
            self.bytes -= len(self._messages[self._gap])
            self._messages[self._gap] = b""
            self._gap += 1

    def after(self, seq: int) -> int:
        """Position of the first frame whose seq is greater than `seq`."""
        return self._offset + bisect_right(self._seqs, seq, self._gap)

    def burst(self, position: int) -> list[tuple[int, bytes]]:
        """The frames from `position` on, about `BURST_BYTES` of them, as (seq, message)."""
        start = position - self._offset
        size = 0
        stop = start
        while stop < len(self._messages) and size < BURST_BYTES:
            size += len(self._messages[stop])
            stop += 1
        return list(zip(self._seqs[start:stop], self._messages[start:stop], strict=True))


class _Subscription(WSListener):
    """One client's connection."""

    def __init__(self, relay: Relay, cursor: int | None) -> None:
        super().__init__()
        self.relay = relay
        self.cursor = cursor
        self.writable = asyncio.Event()
        self.writable.set()
        self.silent = False
        self.sent = 0
        self.task: asyncio.Task[None] | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.relay.connections += 1
        self.relay.cursors.append(self.cursor)
        self.relay.open.add(transport)
        self.task = asyncio.get_running_loop().create_task(self._serve(transport))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.relay.open.discard(transport)
        self.writable.set()
        if self.task:
            self.task.cancel()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.PING:
            self.relay.pings_received += 1
            if not self.silent:
                transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.PONG:
            self.relay.pongs_received += 1
        elif frame.msg_type == WSMsgType.CLOSE:
            if not transport.is_close_frame_sent:
                transport.send_close(frame.get_close_code())
            transport.disconnect()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    async def _close(self, transport: WSTransport, code: int, reason: str) -> None:
        """Says goodbye and waits a little for the answer: cutting at once could destroy what is still on its way."""
        transport.send_close(WSCloseCode(code), reason.encode())
        self.silent = True
        await asyncio.sleep(CLOSE_SECONDS)  # cancelled by the client's answer
        transport.disconnect()

    async def _serve(self, transport: WSTransport) -> None:
        pinger = asyncio.get_running_loop().create_task(self._ping(transport))
        try:
            await self._stream(transport)
        finally:
            pinger.cancel()

    async def _ping(self, transport: WSTransport) -> None:
        while True:
            await asyncio.sleep(self.relay.ping_interval)
            if not self.silent:
                transport.send_ping()

    async def _stream(self, transport: WSTransport) -> None:
        relay, faults, window = self.relay, self.relay.faults, self.relay.window
        drop_after = faults.drop_after.popleft() if faults.drop_after else None
        close_after = faults.close_after.popleft() if faults.close_after else None
        stall_after = faults.stall_after.popleft() if faults.stall_after else None
        with relay.lock:
            position, opening = self._start(window)
        if opening:
            transport.send(WSMsgType.BINARY, opening[0])
            if opening[1]:
                await self._close(transport, 1008, "FutureCursor")
                return
        live = False
        while not transport.is_disconnected:
            with relay.lock:
                if position < window.first:  # outrun: the window moved past this client
                    position = window.first
                burst = window.burst(position)
                behind = window.end - position
                woken = relay.published
            if not burst and not live:
                live = True
                relay.live += 1
            limit = faults.consumer_too_slow_after
            if live and limit is not None and behind > limit:
                faults.too_slow += 1
                transport.send(WSMsgType.BINARY, error_frame("ConsumerTooSlow", "Stream consumer too slow"))
                await self._close(transport, 1008, "ConsumerTooSlow")
                return
            if not burst:
                await woken.wait()
                continue
            for stop in (drop_after, close_after and close_after[0], stall_after and stall_after[0]):
                if stop is not None:
                    burst = burst[: max(0, stop - self.sent)]
            messages = self._damaged(burst) if faults.damage else [framed for _, framed in burst]
            transport.underlying_transport.write(b"".join(messages))
            position += len(burst)
            self.sent += len(burst)
            relay.frames_sent += len(burst)
            if self.sent == drop_after:
                faults.dropped += 1
                # Let what was written reach the client first: the cut is at a known frame.
                transport.disconnect(graceful=True)
                return
            if close_after and self.sent == close_after[0]:
                faults.dropped += 1
                await self._close(transport, close_after[1], "simulated")
                return
            if stall_after and self.sent == stall_after[0]:
                faults.stalled += 1
                self.silent = True
                await asyncio.sleep(stall_after[1])
                self.silent, stall_after = False, None
            await self.writable.wait()
            await asyncio.sleep(0)

    def _start(self, window: _Window) -> tuple[int, tuple[bytes, bool] | None]:
        """Where a client begins, and the first frame: (frame, whether the connection ends with it). Lock held."""
        cursor = self.cursor
        if cursor is None:
            return window.end, None
        if cursor > window.newest_seq:
            if self.relay.faults.ignore_cursor_rules:
                return window.end, None
            return window.end, (error_frame("FutureCursor", "Cursor in the future."), True)
        position = window.after(cursor)
        if 0 < cursor < window.oldest_seq - 1 and not self.relay.faults.ignore_cursor_rules:
            text = "Requested cursor exceeded limit. Possibly missing events"
            return position, (info_frame("OutdatedCursor", text), False)
        return position, None

    def _damaged(self, burst: list[tuple[int, bytes]]) -> Iterable[bytes]:
        for seq, framed in burst:
            replacement = self.relay.faults.damage.get(seq)
            if replacement is None:
                yield framed
            else:
                self.relay.faults.damaged += 1
                yield from map(message, replacement)


class Relay:
    """A relay on 127.0.0.1. Use as a context manager, or `start` and `stop`.

    `frames` are there from the beginning (the window); `publish` adds. `query` answers plain XRPC queries on the same
    port (`com.atproto.sync.listRepos`). Counters `connections`, `live` (those that have caught up since),
    `frames_sent`, `cursors`, `pings_received` and `pongs_received` are for tests to read.
    """

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
        self.host = host
        self.port = port
        self.query = query
        self.ping_interval = ping_interval
        self.faults = Faults()
        self.lock = threading.Lock()
        self.window = _Window(window_bytes)
        self.connections = 0
        self.live = 0
        self.frames_sent = 0
        self.cursors: list[int | None] = []
        self.pings_received = 0
        self.pongs_received = 0
        self.open: set[WSTransport] = set()
        self.published: asyncio.Event  # set at the next publication; made in the server's loop
        self._stopping: asyncio.Event
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._append(frames)

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}"

    def _append(self, frames: Iterable[bytes]) -> int:
        count = 0
        for frame in frames:
            seq = frame_seq(frame)
            with self.lock:
                # A frame without a readable seq is damaged; it stands right after its neighbour.
                self.window.append(self.window.newest_seq + 1 if seq is None else seq, frame)
            count += 1
        return count

    def publish(self, frames: Iterable[bytes]) -> int:
        """Adds frames at the live end, wakes the clients, and returns how many there were. Any thread may call it.

        Raises ValueError when a seq does not rise.
        """
        count = self._append(frames)
        if self._loop and count:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is listening
                self._loop.call_soon_threadsafe(self._wake)
        return count

    def forget_before(self, seq: int) -> None:
        """Drops the frames with lower seqs: the window is shorter than a client's absence was."""
        with self.lock:
            self.window.forget_before(seq)

    def _wake(self) -> None:
        with self.lock:
            woken, self.published = self.published, asyncio.Event()
        woken.set()

    def disconnect_all(self) -> None:
        """Cuts every open connection, as a relay that restarts does."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._cut_all)

    def _cut_all(self) -> None:
        for transport in [*self.open]:
            transport.disconnect(graceful=False)

    def _accept(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener | None:
        target = urlsplit(request.path.decode("ascii", "replace"))
        parameters = {name: values[-1] for name, values in parse_qs(target.query).items()}
        if target.path != SUBSCRIBE_REPOS:
            answer = self.query(target.path.removeprefix("/xrpc/"), parameters) if self.query else None
            status, body = answer or (404, {"error": "MethodNotImplemented", "message": "No such method"})
            return _answer(status, body)
        if self.faults.refuse:
            self.faults.refused += 1
            status = self.faults.refuse.popleft()
            headers = {} if self.faults.retry_after is None else {"Retry-After": str(self.faults.retry_after)}
            name = "RateLimitExceeded" if status == 429 else "InternalServerError"
            return _answer(status, {"error": name, "message": "simulated"}, headers)
        if self.faults.authorization is not None:
            sent = str(request.headers.get("Authorization"))
            if sent != self.faults.authorization:
                return _answer(401, {"error": "AuthMissing", "message": sent})
        cursor = parameters.get("cursor")
        if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
            return _answer(400, {"error": "InvalidRequest", "message": "cursor must be an integer"})
        return _Subscription(self, None if cursor is None else int(cursor))

    def start(self) -> Relay:
        ready: threading.Event = threading.Event()
        failure: list[BaseException] = []

        async def serve() -> None:
            self.published = asyncio.Event()
            self._stopping = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            try:
                server = await ws_create_server(
                    self._accept, self.host, self.port, enable_auto_pong=False, logger_name="simulated relay"
                )
            except OSError as error:
                failure.append(error)
                return
            finally:
                ready.set()
            self.port = server.sockets[0].getsockname()[1]
            listening.set()
            async with server:
                await self._stopping.wait()
                self._cut_all()

        listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="simulated-relay", daemon=True)
        self._thread.start()
        ready.wait()
        if failure:
            raise failure[0]
        listening.wait()
        return self

    def stop(self) -> None:
        if self._loop and self._thread:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)
            self._loop = None

    def __enter__(self) -> Relay:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _answer(status: int, body: Any, headers: dict[str, str] | None = None) -> WSUpgradeResponseWithListener:
    """A plain HTTP answer in place of the WebSocket."""
    content, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
    if status < 400:
        response = WSUpgradeResponse.create_ok_response(content, headers)
    else:
        response = WSUpgradeResponse.create_error_response(HTTPStatus(status), content, headers)
    return WSUpgradeResponseWithListener(response, None)
