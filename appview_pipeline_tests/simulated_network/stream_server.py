"""A server of one event stream over a real WebSocket, with the protocol's cursor rules, and with faults.

Frames are published into a bounded window; any number of clients read it at their own pace. The server runs in an event
loop in a thread, its own or one that several servers share. Frames are handed to the socket many at a time, already
framed as WebSocket messages: one client can be fed tens of thousands of frames of 5 kB a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar
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

from appview_pipeline_tests.simulated_network.http_service import Parameters

Result = TypeVar("Result")
Server = TypeVar("Server", bound="StreamServer")

BURST_BYTES = 256 * 1024
CLOSE_SECONDS = 3.0
BACKLOG = 128


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


def message(payload: bytes | str) -> bytes:
    """`payload` as one unmasked WebSocket message, binary or (str) text (RFC 6455 section 5.2)."""
    opcode, payload = (b"\x82", payload) if isinstance(payload, bytes) else (b"\x81", payload.encode())
    size = len(payload)
    if size < 126:
        return opcode + size.to_bytes(1, "big") + payload
    if size < 65_536:
        return opcode + b"\x7e" + size.to_bytes(2, "big") + payload
    return opcode + b"\x7f" + size.to_bytes(8, "big") + payload


@dataclass
class Faults:
    """Faults of a server, and counters that prove that they happened. All may be changed while it runs.

    - `refuse`: HTTP statuses (429, 503, ...) for the next connections, one each; `retry_after` goes with them.
    - `refuse_every`: the status for every connection, as long as it is set.
    - `drop_after`: frames after which the next connections are cut without a close handshake, one number each.
    - `drop_every`: the same for every connection, as long as it is set.
    - `close_after`: the same with a close handshake of the given code: (frames, code).
    - `stall_after`: (frames, seconds): the next connections fall silent, socket open, pings unanswered.
    - `silent`: every connection is accepted, and nothing is ever sent: no frame, no answer to a ping.
    - `flood`: messages that are sent again and again, as fast as the client reads, in place of the frames.
    - `damage`: seq -> message(s) sent in its place, text messages where they are str; an empty list loses it.
    - `consumer_too_slow_after`: frames a client may lag behind the newest before it is thrown out; None: for ever.
    - `ignore_cursor_rules`: like the indigo relay: neither OutdatedCursor nor FutureCursor is ever sent.
    - `authorization`: the header that a client must send; 401 to others, with what they sent.
    """

    refuse: deque[int] = field(default_factory=deque)
    refuse_every: int | None = None
    retry_after: int | None = None
    drop_after: deque[int] = field(default_factory=deque)
    drop_every: int | None = None
    close_after: deque[tuple[int, int]] = field(default_factory=deque)
    stall_after: deque[tuple[int, float]] = field(default_factory=deque)
    silent: bool = False
    flood: Sequence[bytes | str] = ()
    damage: dict[int, Sequence[bytes | str]] = field(default_factory=dict)
    consumer_too_slow_after: int | None = None
    ignore_cursor_rules: bool = False
    authorization: str | None = None

    refused: int = 0
    dropped: int = 0
    stalled: int = 0
    damaged: int = 0
    flooded: int = 0
    too_slow: int = 0


class Window:
    """The newest frames with their seqs, oldest dropped beyond `max_bytes`. Guarded by the server's lock.

    Positions count all frames ever published. Dropped frames leave a gap at the head of the lists that is closed now
    and then, so that both appending and reading anywhere cost the same however long the window is. A frame that is
    removed from the middle leaves an empty message.
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

    def append(self, seq: int, frame: bytes) -> int:
        """Adds a frame, and returns its position."""
        if seq <= self.newest_seq:
            raise ValueError(f"seq {seq} after {self.newest_seq}: a stream's seqs only rise")
        framed = message(frame)
        self._messages.append(framed)
        self._seqs.append(seq)
        self.bytes += len(framed)
        self.newest_seq = seq
        while self.bytes > self.max_bytes and self.end - self.first > 1:
            self._drop(self._gap)
            self._gap += 1
        if self._gap > 1_000 and self._gap * 2 > len(self._messages):
            del self._messages[: self._gap], self._seqs[: self._gap]
            self._offset += self._gap
            self._gap = 0
        return self.end - 1

    def _drop(self, index: int) -> None:
        self.bytes -= len(self._messages[index])
        self._messages[index] = b""

    def remove(self, position: int) -> None:
        """Takes one frame out, wherever it stands; its neighbours stay. One that is dropped already does not matter."""
        if position >= self._offset:
            self._drop(position - self._offset)

    def replace(self, position: int, frame: bytes) -> None:
        """Puts another frame in the place of one that is still there."""
        if position >= self.first:
            self._drop(position - self._offset)
            framed = self._messages[position - self._offset] = message(frame)
            self.bytes += len(framed)

    def forget_before(self, seq: int) -> None:
        while self._gap < len(self._seqs) and self._seqs[self._gap] < seq:
            self._drop(self._gap)
            self._gap += 1

    def forget_after(self, seq: int) -> None:
        """Drops the frames with higher seqs, which are given out again: the server was restored from a backup."""
        index = max(bisect_right(self._seqs, seq), self._gap)
        self.bytes -= sum(map(len, self._messages[index:]))
        del self._messages[index:], self._seqs[index:]
        self.newest_seq = seq

    def after(self, seq: int) -> int:
        """Position of the first frame whose seq is greater than `seq`."""
        return self._offset + bisect_right(self._seqs, seq, self._gap)

    def burst(self, position: int) -> list[tuple[int, bytes]]:
        """The frames from `position` on, about `BURST_BYTES` of them, as (seq, message); removed ones are empty."""
        start = position - self._offset
        size = 0
        stop = start
        while stop < len(self._messages) and size < BURST_BYTES:
            size += len(self._messages[stop])
            stop += 1
        return list(zip(self._seqs[start:stop], self._messages[start:stop], strict=True))


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs `work` in the loop, and returns what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def call(self, function: Callable[[], object]) -> None:
        """Calls `function` in the loop soon; not at all once it has ended."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        self.call(self.loop.stop)
        self._thread.join(10)


class _Subscription(WSListener):
    """One client's connection."""

    def __init__(self, server: StreamServer, cursor: int | None) -> None:
        super().__init__()
        self.server = server
        self.cursor = cursor
        self.writable = asyncio.Event()
        self.writable.set()
        self.silent = server.faults.silent
        self.sent = 0
        self.task: asyncio.Task[None] | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.server.connections += 1
        self.server.cursors.append(self.cursor)
        self.server.open.add(transport)
        self.server.clients.add(self)
        if not self.silent:
            self.task = asyncio.get_running_loop().create_task(self._serve(transport))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.server.open.discard(transport)
        self.server.clients.discard(self)
        self.writable.set()
        if self.task:
            self.task.cancel()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.PING:
            self.server.pings_received += 1
            if not self.silent:
                transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.PONG:
            self.server.pongs_received += 1
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
            await asyncio.sleep(self.server.ping_interval)
            if not self.silent:
                transport.send_ping()

    async def _stream(self, transport: WSTransport) -> None:
        server, faults, window = self.server, self.server.faults, self.server.window
        drop_after = faults.drop_after.popleft() if faults.drop_after else faults.drop_every
        close_after = faults.close_after.popleft() if faults.close_after else None
        stall_after = faults.stall_after.popleft() if faults.stall_after else None
        with server.lock:
            position, opening = self._start(window)
        if opening:
            transport.send(WSMsgType.BINARY, opening[0])
            if opening[1]:
                await self._close(transport, 1008, "FutureCursor")
                return
        live = False
        while not transport.is_disconnected:
            if faults.flood:
                await self._flood(transport)
            with server.lock:
                if position < window.first:  # outrun: the window moved past this client
                    position = window.first
                burst = window.burst(position)
                behind = window.end - position
                woken = server.published
            if not burst and not live:
                live = True
                server.live += 1
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
            server.frames_sent += len(burst)
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

    async def _flood(self, transport: WSTransport) -> None:
        faults = self.server.faults
        while faults.flood and not transport.is_disconnected:
            messages = [message(payload) for payload in faults.flood]
            times = max(1, BURST_BYTES // max(1, sum(map(len, messages))))
            transport.underlying_transport.write(b"".join(messages * times))
            faults.flooded += len(messages) * times
            await self.writable.wait()
            await asyncio.sleep(0)

    def _start(self, window: Window) -> tuple[int, tuple[bytes, bool] | None]:
        """Where a client begins, and the first frame: (frame, whether the connection ends with it). Lock held."""
        cursor = self.cursor
        if cursor is None:
            return window.end, None
        if cursor > window.newest_seq:
            if self.server.faults.ignore_cursor_rules:
                return window.end, None
            return window.end, (error_frame("FutureCursor", "Cursor in the future."), True)
        position = window.after(cursor)
        if 0 < cursor < window.oldest_seq - 1 and not self.server.faults.ignore_cursor_rules:
            text = "Requested cursor exceeded limit. Possibly missing events"
            return position, (info_frame("OutdatedCursor", text), False)
        return position, None

    def _damaged(self, burst: list[tuple[int, bytes]]) -> Iterable[bytes]:
        for seq, framed in burst:
            replacement = self.server.faults.damage.get(seq)
            if replacement is None:
                yield framed
            else:
                self.server.faults.damaged += 1
                yield from map(message, replacement)


class StreamServer:
    """A server of the stream `method` on 127.0.0.1. Use as a context manager, or `start` and `stop`.

    `publish` adds frames. `query` answers plain XRPC queries on the same port. With `thread` the server runs in that
    thread's loop beside others, otherwise in a thread of its own. Counters `connections`, `live` (those that have
    caught up since), `frames_sent`, `cursors`, `pings_received` and `pongs_received` are for tests to read.
    """

    method = ""
    name = "stream"

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        window_bytes: int = 1_000_000_000,
        ping_interval: float = 30.0,
        thread: LoopThread | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.ping_interval = ping_interval
        self.faults = Faults()
        self.lock = threading.Lock()
        self.window = Window(window_bytes)
        self.connections = 0
        self.live = 0
        self.frames_sent = 0
        self.cursors: list[int | None] = []
        self.pings_received = 0
        self.pongs_received = 0
        self.open: set[WSTransport] = set()
        self.clients: set[_Subscription] = set()
        self.published: asyncio.Event  # set at the next publication; made in the server's loop
        self._shared = thread
        self._thread: LoopThread | None = None
        self._listening: socket.socket | None = None  # connections queue here, also while nobody takes them
        self._reserved: socket.socket | None = None  # holds the port while connections are refused
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}"

    @property
    def _loop(self) -> asyncio.AbstractEventLoop | None:
        return self._thread.loop if self._thread else None

    # ---- for subclasses

    def query(self, path: str, parameters: Parameters) -> tuple[int, Any] | None:
        """The answer to a request of another path: (status, JSON-able body), or None for "no such method"."""
        return None

    # ---- frames

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
        if count:
            self.wake()
        return count

    def wake(self) -> None:
        """Lets the clients look for new frames."""
        if self._thread:
            self._thread.call(self._wake)

    def _wake(self) -> None:
        with self.lock:
            woken, self.published = self.published, asyncio.Event()
        woken.set()

    def forget_before(self, seq: int) -> None:
        """Drops the frames with lower seqs: the window is shorter than a client's absence was."""
        with self.lock:
            self.window.forget_before(seq)

    # ---- connections

    def disconnect_all(self) -> None:
        """Cuts every open connection, as a server that restarts does."""
        if self._thread:
            self._thread.call(self._cut_all)

    def _cut_all(self) -> None:
        for transport in [*self.open]:
            transport.disconnect(graceful=False)

    def _accept(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener | None:
        target = urlsplit(request.path.decode("ascii", "replace"))
        parameters = parse_qs(target.query)
        if target.path != self.method:
            answer = self.query(target.path, parameters)
            status, body = answer or (404, {"error": "MethodNotImplemented", "message": "No such method"})
            return _answer(status, body)
        refused = self.faults.refuse.popleft() if self.faults.refuse else self.faults.refuse_every
        if refused is not None:
            self.faults.refused += 1
            headers = {} if self.faults.retry_after is None else {"Retry-After": str(self.faults.retry_after)}
            name = "RateLimitExceeded" if refused == 429 else "InternalServerError"
            return _answer(refused, {"error": name, "message": "simulated"}, headers)
        if self.faults.authorization is not None:
            sent = str(request.headers.get("Authorization"))
            if sent != self.faults.authorization:
                return _answer(401, {"error": "AuthMissing", "message": sent})
        cursor = parameters.get("cursor", [None])[-1]
        if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
            return _answer(400, {"error": "InvalidRequest", "message": "cursor must be an integer"})
        return _Subscription(self, None if cursor is None else int(cursor))

    # ---- life

    def start(self: Server) -> Server:
        self._listening = socket.create_server((self.host, self.port), backlog=BACKLOG)
        self.port = self._listening.getsockname()[1]
        self._thread = self._shared or LoopThread(f"simulated-{self.name}")
        self._thread.run(self._begin())
        return self

    async def _begin(self) -> None:
        self.published = asyncio.Event()
        await self._serve()

    async def _serve(self) -> None:
        assert self._listening is not None
        self._server = await ws_create_server(
            self._accept, sock=self._listening.dup(), enable_auto_pong=False, logger_name=f"simulated {self.name}"
        )

    def refuse(self) -> None:
        """Connections are refused, and the open ones cut, as when the process has died; until `accept`.

        The port stays ours: another socket is bound to it and does not listen.
        """
        if self._thread:
            self._thread.run(self._refuse())

    def hang(self) -> None:
        """Connections are made, and no handshake is ever answered; the open ones are cut. Until `accept`."""
        if self._thread:
            self._thread.run(self._hang())

    def freeze(self) -> None:
        """The server hangs, its sockets open: nothing is sent on the connections that there are, and no ping answered;
        new ones are the same. After `thaw` new ones work, and the old ones stay as they are."""
        self.faults.silent = True
        if self._thread:
            self._thread.run(self._freeze())

    async def _freeze(self) -> None:
        for client in self.clients:
            client.silent = True
            if client.task is not None:
                client.task.cancel()

    def thaw(self) -> None:
        """New connections work again."""
        self.faults.silent = False

    def accept(self) -> None:
        """Connections are accepted and answered again."""
        if self._thread:
            self._thread.run(self._accept_again())

    async def _hang(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut_all()

    async def _refuse(self) -> None:
        await self._hang()
        if self._listening is not None:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reserved = self._bound()
            self._listening.close()
            self._listening = None

    async def _accept_again(self) -> None:
        if self._reserved is not None:
            self._listening = self._bound()
            self._listening.listen(BACKLOG)
            self._reserved.close()
            self._reserved = None
        if self._server is None:
            await self._serve()

    def _bound(self) -> socket.socket:
        """Another socket at our port."""
        bound = socket.socket()
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind((self.host, self.port))
        return bound

    def stop(self) -> None:
        if self._thread is None:
            return
        self._thread.run(self._hang())
        for held in (self._listening, self._reserved):
            if held is not None:
                held.close()
        self._listening = self._reserved = None
        if self._shared is None:
            self._thread.stop()
        self._thread = None

    def __enter__(self: Server) -> Server:
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
