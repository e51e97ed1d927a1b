"""The subscription against real sockets: nothing lost or repeated, memory bounded, and no failure that spins."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import libipld
import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from appview_pipeline.backoff import Backoff
from appview_pipeline.network import refusals
from appview_pipeline.network import subscription as subscriptions
from appview_pipeline.network.subscription import Subscription
from appview_pipeline.protocol import peek

Handler = Callable[[ServerConnection, int, "int | None"], Awaitable[None]]


def frame(seq: int, size: int = 100) -> bytes:
    body = {"seq": seq, "blocks": b"\x00" * size}
    return peek.COMMIT_HEADER + libipld.encode_dag_cbor(body)


def control(header: dict[str, Any], body: dict[str, Any]) -> bytes:
    return libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(body)


def error_frame(name: str, message: str = "") -> bytes:
    return control({"op": -1}, {"error": name, "message": message})


def info_frame(name: str) -> bytes:
    return control({"t": "#info", "op": 1}, {"name": name, "message": "Possibly missed events."})


OUTDATED = info_frame("OutdatedCursor")


class Relay:
    """A WebSocket server in a thread; `handler(connection, number, cursor)` plays the n-th connection (from 0)."""

    def __init__(self, handler: Handler, **options: Any) -> None:
        self._handler = handler
        self._options = {"ping_interval": None, "compression": None, "max_size": None, "close_timeout": 0.5, **options}
        self.cursors: list[int | None] = []
        self.times: list[float] = []
        self.user_agents: list[str | None] = []
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
        assert parts.path == "/xrpc/com.atproto.sync.subscribeRepos"
        cursor = parse_qs(parts.query).get("cursor")
        self.cursors.append(int(cursor[0]) if cursor else None)
        self.times.append(time.monotonic())
        self.user_agents.append(connection.request.headers.get("User-Agent"))
        try:
            await self._handler(connection, len(self.cursors) - 1, self.cursors[-1])
        except ConnectionClosed:
            pass
        finally:
            self.closed.set()


def quick(url: str, cursor: int | None = None, buffer_bytes: int = 64_000_000, **options: Any) -> Subscription:
    options.setdefault("backoff", Backoff(first=0.02, longest=0.1))
    return Subscription(url, cursor, buffer_bytes, **options)


def take_until(subscription: Subscription, count: int, seconds: float = 60) -> list[bytes]:
    frames: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(frames) < count and time.monotonic() < deadline:
        frames += subscription.take(1_000, 0.05)
    return frames


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def seqs(frames: list[bytes]) -> list[int | None]:
    return [peek.seq_of(f) for f in frames]


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


def test_live_frames_arrive_in_order() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        for seq in range(1, 2_001):
            await connection.send(frame(seq))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url) as subscription:
        assert seqs(take_until(subscription, 2_000)) == list(range(1, 2_001))
        status = subscription.status
        assert relay.cursors == [None]
        assert relay.user_agents == ["appview-pipeline"]
        assert (status.state, status.connected, status.connects, status.reconnects) == ("connected", True, 1, 0)
        assert (status.frames, status.cursor, status.buffered_frames, status.buffered_bytes) == (2_000, 2_000, 0, 0)
        assert status.bytes == sum(len(frame(seq)) for seq in range(1, 2_001))
        assert status.last_frame_at is not None and abs(time.time() - status.last_frame_at) < 5
        assert status.last_error is None
        assert subscription.notices() == []
    assert subscription.status.state == "stopped"
    assert relay.closed.wait(1)


def test_take_waits_for_what_is_wanted_and_no_longer() -> None:
    go = asyncio.Event()

    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await connection.send(frame(1))
        await go.wait()
        await connection.send(frame(2))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url) as subscription:
        began = time.monotonic()
        assert seqs(subscription.take(10, 0.3)) == [1]
        assert 0.25 < time.monotonic() - began < 1
        assert subscription.take(10, 0) == []
        threading.Timer(0.1, lambda: relay._loop.call_soon_threadsafe(go.set)).start()
        began = time.monotonic()
        assert seqs(subscription.take(1, 5)) == [2]
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("repeats_the_cursor", [False, True], ids=["after the cursor", "from the cursor"])
def test_reconnecting_loses_and_repeats_nothing(repeats_the_cursor: bool) -> None:
    """Connections of different lengths, dropped without a word, with the frames only partly taken in between."""

    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        start = (cursor or 0) + (0 if repeats_the_cursor and cursor else 1)
        for seq in range(start, min(1_001, start + 1 + 37 * (number + 1))):
            await connection.send(frame(seq))
        if start > 900:
            await forever(connection)
        if number % 2:
            connection.transport.abort()

    with Relay(handler) as relay, quick(relay.url, 0) as subscription:
        frames: list[bytes] = []
        while len(frames) < 1_000:
            frames += subscription.take(50, 0.02)
            assert subscription.status.attempts < 60
        frames += subscription.take(50, 0.1)
        assert seqs(frames) == list(range(1, 1_001))
        assert len(relay.cursors) > 3
        assert subscription.status.reconnects == len(relay.cursors) - 1
        assert subscription.notices() == []


def test_a_frame_without_a_readable_seq_is_delivered_and_never_resumed_past() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        if number == 0:
            for payload in (b"\xff" * 50, frame(8), b"", b"\xff"):
                await connection.send(payload)
            return
        await connection.send(frame(9))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 7) as subscription:
        frames = take_until(subscription, 5)
        assert frames == [b"\xff" * 50, frame(8), b"", b"\xff", frame(9)]
        assert relay.cursors[1] in (7, 8)  # 7 where all came in one read: then a repetition, never a loss


def test_back_pressure_blocks_the_server_and_loses_nothing() -> None:
    sent = 0
    total, size = 4_000, 10_000

    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        nonlocal sent
        sock = connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        for seq in range(1, total + 1):
            await connection.send(frame(seq, size))
            sent = seq
        await forever(connection)

    with Relay(handler) as relay:
        buffer_bytes = 6_000_000
        with quick(
            relay.url, 0, buffer_bytes, window_bytes=500_000, ping_seconds=0.1, pong_seconds=0.1
        ) as subscription:
            wait_for(lambda: subscription.status.reading_paused)
            time.sleep(0.6)  # several ping time-outs: a pong that we don't read ourselves is not missing
            blocked_at = sent
            status = subscription.status
            assert status.buffered_bytes < buffer_bytes + 3_000_000
            assert blocked_at * size < status.buffered_bytes + 4_000_000
            time.sleep(0.2)
            assert sent == blocked_at < total
            began = time.monotonic()
            frames = subscription.take(100_000, 5)  # full: gives what there is, does not wait for what can't come
            assert time.monotonic() - began < 1
            assert len(frames) > 500
            highest = 0
            while len(frames) < total:
                frames += subscription.take(200, 0.1)
                highest = max(highest, subscription.status.buffered_bytes)
            assert seqs(frames) == list(range(1, total + 1))
            assert highest < buffer_bytes + 3_000_000
            assert subscription.status.connects == 1


def test_tiny_frames_fill_the_buffer_too() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        for _ in range(200):
            await connection.send(b"")
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 0, 6_400) as subscription:
        wait_for(lambda: subscription.status.reading_paused)
        assert len(take_until(subscription, 200)) == 200


def test_a_connection_lost_while_the_buffer_is_full_is_not_made_anew_before_it_drains() -> None:
    def message(payload: bytes) -> bytes:
        return b"\x82\x7e" + struct.pack(">H", len(payload)) + payload

    def answer(connection: socket.socket) -> None:
        handshake(connection)
        start = 20 * (len(times) - 1) + 1
        events = [message(frame(seq, 1_000)) for seq in range(start, start + 20)]
        too_slow = error_frame("ConsumerTooSlow", "Stream consumer too slow" + "." * 100)
        # In one go, so that the end is in the same read as what fills the buffer.
        connection.sendall(b"".join(events) + (message(too_slow) if len(times) == 1 else b""))
        connection.settimeout(5)
        while connection.recv(4096):
            pass

    with raw_server(answer) as (port, times), quick(f"ws://127.0.0.1:{port}", 0, 10_000) as subscription:
        wait_for(lambda: subscription.status.reading_paused and not subscription.status.connected)
        time.sleep(0.3)
        assert len(times) == 1
        assert seqs(take_until(subscription, 40)) == list(range(1, 41))
        assert len(times) == 2
        assert [(n.kind, n.name) for n in subscription.notices()] == [("error", "ConsumerTooSlow")]


def test_consumer_too_slow_resumes_where_it_was() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        start = (cursor or 0) + 1
        for seq in range(start, start + 10):
            await connection.send(frame(seq))
        if number < 3:
            await connection.send(error_frame("ConsumerTooSlow", "Stream consumer too slow"))
            await connection.close(1008, "ConsumerTooSlow")
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 0) as subscription:
        assert seqs(take_until(subscription, 40)) == list(range(1, 41))
        assert relay.cursors == [0, 10, 20, 30]
        notices = subscription.notices()
        assert [(n.kind, n.name, n.message) for n in notices] == [
            ("error", "ConsumerTooSlow", "Stream consumer too slow")
        ] * 3
        assert notices[0].frame == error_frame("ConsumerTooSlow", "Stream consumer too slow")
        assert "ConsumerTooSlow (Stream consumer too slow)" in (subscription.status.last_error or "")


@pytest.mark.parametrize("cursor", [0, 100, None])
@pytest.mark.parametrize("how", ["close", "error frame", "dropped"])
def test_a_connection_that_brought_events_ends_the_row_of_failures(cursor: int | None, how: str) -> None:
    """`../shared/cases/reconnect-after-progress`: many short connections, each of which brings the consumer forward."""

    async def handler(connection: ServerConnection, number: int, at: int | None) -> None:
        for seq in range((at or 0) + 1, (at or 0) + 11):
            await connection.send(frame(seq))
        if how == "error frame":
            await connection.send(error_frame("ConsumerTooSlow"))
        if how == "dropped":
            connection.transport.abort()
        else:
            await connection.close(1008, "ConsumerTooSlow")

    backoff = Backoff(first=0.02, longest=60)
    with Relay(handler) as relay, quick(relay.url, cursor, backoff=backoff) as subscription:
        # Were these failures in a row, the last ten would have waited for up to a minute each.
        frames = take_until(subscription, 200, 20)
        first = (cursor or 0) + 1
        assert seqs(frames)[:200] == list(range(first, first + 200))
        assert backoff.failures <= 1, "each ends the row of the one before"


@pytest.mark.parametrize("brings", ["nothing", "the cursor's event", "what has no number", "what was before"])
def test_connections_that_bring_nothing_still_back_off(brings: str) -> None:
    async def handler(connection: ServerConnection, number: int, at: int | None) -> None:
        assert at is not None
        if brings == "the cursor's event":
            await connection.send(frame(at))
        elif brings == "what has no number":
            await connection.send(b"damaged")
        elif brings == "what was before":
            await connection.send(frame(at - 1))
        await connection.close(1008, "ConsumerTooSlow")

    backoff = Backoff(first=0.001, longest=60)
    with Relay(handler) as relay, quick(relay.url, 1_000, backoff=backoff):
        wait_for(lambda: backoff.failures >= 6)
        assert len(relay.times) >= 6


@pytest.mark.parametrize("how", ["frame and close", "frame only", "close reason only"])
def test_future_cursor_never_spins_and_never_resets_the_cursor(how: str) -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        if how != "close reason only":
            await connection.send(error_frame("FutureCursor", "Cursor in the future."))
        if how != "frame only":
            await connection.close(1008, "FutureCursor")
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 500, future_cursor_seconds=0.5) as subscription:
        wait_for(lambda: subscription.status.state == "future_cursor")
        time.sleep(0.3)
        assert relay.cursors == [500]
        status = subscription.status
        assert status.last_error == (
            f"{relay.url} says that cursor 500 lies in its future: the cursor came from another relay, or this one was "
            "reset; check APPVIEW_RELAY_URL or reset the stored cursor of this relay."
        )
        assert not status.connected and status.retry_at is not None
        wait_for(lambda: len(relay.cursors) == 2)
        assert relay.cursors == [500, 500]
        assert subscription.take(10, 0) == []
        assert subscription.status.cursor == 500


def test_the_long_wait_for_a_future_cursor_is_five_minutes() -> None:
    assert Subscription("ws://localhost", 1)._future_cursor_seconds == 300


def test_an_outdated_cursor_is_a_gap_up_to_the_first_event() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await connection.send(OUTDATED)
        await connection.send(frame(900))
        await connection.send(info_frame("SomethingNew"))
        await connection.send(frame(901))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 100) as subscription:
        assert seqs(take_until(subscription, 2)) == [900, 901]
        info, gap, other = subscription.notices()
        assert (info.kind, info.name, info.cursor, info.frame) == ("info", "OutdatedCursor", 100, OUTDATED)
        assert (gap.kind, gap.name, gap.cursor, gap.first_seq) == ("gap", "OutdatedCursor", 100, 900)
        assert (other.kind, other.name) == ("info", "SomethingNew")
        assert time.time() - 10 < info.at <= gap.at <= time.time()
        assert subscription.notices() == []


@pytest.mark.parametrize(
    ("cursor", "first", "kind"),
    [(100, 102, "gap"), (100, 101, None), (100, 40, "went_back"), (0, 5_000, None), (None, 5_000, None)],
)
def test_a_jump_that_the_relay_does_not_announce_is_noticed(cursor: int | None, first: int, kind: str | None) -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await connection.send(frame(first))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, cursor) as subscription:
        assert seqs(take_until(subscription, 1)) == [first]
        notices = subscription.notices()
        assert [n.kind for n in notices] == ([kind] if kind else [])
        assert all((n.cursor, n.first_seq, n.name) == (cursor, first, "") for n in notices)
        assert subscription.status.cursor == first


HUGE = 2**53 - 1


@pytest.mark.parametrize("odd", [[HUGE], [1], [HUGE, HUGE - 5], [10_000, 10_001]])
@pytest.mark.parametrize("together", [True, False])
def test_the_stream_is_not_resumed_from_an_odd_number(odd: list[int], together: bool) -> None:
    """Though it is the last before the connection ends, and in the middle."""

    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        if number == 0:
            for seq in (*range(101, 111), *odd, *range(111, 116), *odd):
                await connection.send(frame(seq))
                if not together:
                    await asyncio.sleep(0.03)
            return
        await connection.send(frame(116))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 100) as subscription:
        frames = take_until(subscription, 16 + 2 * len(odd))
        assert seqs(frames) == [*range(101, 111), *odd, *range(111, 116), *odd, 116]
        assert relay.cursors == [100, 115]
        assert subscription.status.cursor == 116


@pytest.mark.parametrize("first", [1, 5_000_000])
def test_the_stream_is_resumed_where_a_relay_goes_on_elsewhere(first: int) -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        if number == 0:
            for seq in (101, 102, *range(first, first + 40)):
                await connection.send(frame(seq))
                await asyncio.sleep(0.005)
            return
        await connection.send(frame(first + 40))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 100) as subscription:
        take_until(subscription, 43)
        assert relay.cursors == [100, first + 39]


def test_notices_are_bounded() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        for _ in range(subscriptions.MAX_NOTICES + 100):
            await connection.send(OUTDATED)
        await connection.send(frame(1))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 0) as subscription:
        take_until(subscription, 1)
        assert len(subscription.notices()) == subscriptions.MAX_NOTICES
        assert subscription.status.notices_dropped == 100


@pytest.mark.parametrize("size", [5_000, 200_000, 4_900_000])
def test_large_and_fragmented_messages_arrive_whole(size: int) -> None:
    whole = frame(2, size)

    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await connection.send(frame(1))
        await connection.send([whole[:1], b"", whole[1:1_000], whole[1_000:-1], whole[-1:]])
        await connection.send(whole)
        await connection.send(frame(3))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 0) as subscription:
        assert take_until(subscription, 4) == [frame(1), whole, whole, frame(3)]
        assert subscription.status.connects == 1


@pytest.mark.parametrize("fragmented", [False, True], ids=["one frame", "fragments"])
def test_a_message_over_the_limit_is_passed_over_and_its_neighbours_come_through(fragmented: bool) -> None:
    huge = frame(4, peek.MAX_FRAME_BYTES)

    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        for seq in range((cursor or 0) + 1, 8):
            if seq != 4:
                await connection.send(frame(seq))
            elif fragmented:
                await connection.send([huge[: len(huge) // 2], huge[len(huge) // 2 :]])
            else:
                await connection.send(huge)
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 0) as subscription:
        assert seqs(take_until(subscription, 6)) == [1, 2, 3, 5, 6, 7]
        assert relay.cursors == [0, 3, 4]
        (notice,) = subscription.notices()
        assert (notice.kind, notice.cursor) == ("oversized", 3)
        assert "more than 5,000,000 bytes" in notice.message


def test_text_messages_are_ignored_with_one_note() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await connection.send("hello")
        await connection.send(["hel", "lo"])
        await connection.send(frame(1))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 0) as subscription:
        assert seqs(take_until(subscription, 1)) == [1]
        assert [(n.kind, n.frame) for n in subscription.notices()] == [("text", b"hello")]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (1008, "policy"), (1012, ""), (4000, "own")])
def test_close_codes_are_told_and_survived(code: int, reason: str) -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await connection.send(frame((cursor or 0) + 1))
        if number == 0:
            await connection.close(code, reason)
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 0) as subscription:
        assert seqs(take_until(subscription, 2)) == [1, 2]
        told = f"{relay.url} closed the connection (code {code}{', ' + reason if reason else ''})."
        assert subscription.status.last_error == told


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


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"\x80\x01x", "out of order"),
        (b"\x02\x01x\x82\x01x", "out of order"),
        (b"\xc2\x01x", "compressed"),
        (b"\x83\x01x", "opcode"),
        (b"\x82\x81abcdx", "asked"),
        (b"\x88\x02\x03\xed", "close code"),
    ],
    ids=["stray continuation", "interrupted fragments", "rsv1", "opcode", "masked", "close code 1005"],
)
def test_a_server_that_breaks_the_websocket_protocol_is_left_with_back_off(sent: bytes, told: str) -> None:
    def answer(connection: socket.socket) -> None:
        handshake(connection)
        connection.sendall(sent)
        connection.settimeout(2)
        while connection.recv(4096):
            pass

    with raw_server(answer) as (port, times), quick(f"ws://127.0.0.1:{port}", 0) as subscription:
        wait_for(lambda: len(times) >= 3)
        error = subscription.status.last_error or ""
        assert "broke the WebSocket protocol" in error
        assert told in error or told == "asked"
        assert subscription.take(10, 0) == []
        assert times[-1] - times[0] > 0.003


def test_pings_are_answered_and_sent_and_a_silent_peer_is_given_up() -> None:
    got: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        handshake(connection)
        connection.sendall(b"\x89\x02hi")
        connection.settimeout(2)
        data = b""
        while chunk := connection.recv(4096):
            data += chunk
        got.append(data)

    with raw_server(answer) as (port, times):
        url = f"ws://127.0.0.1:{port}"
        with quick(url, 0, ping_seconds=0.2, pong_seconds=0.2) as subscription:
            wait_for(lambda: len(got) >= 1)
            assert subscription.status.last_error == f"{url} did not answer a ping within 0.2 s."
            assert [opcode for opcode, _ in client_frames(got[0])] == [0xA, 0x9, 0x8]
            assert client_frames(got[0])[0] == (0xA, b"hi")
            assert times


def client_frames(data: bytes) -> list[tuple[int, bytes]]:
    """The opcodes and unmasked payloads of short client frames."""
    frames = []
    while data:
        opcode, size, mask = data[0] & 0xF, data[1] & 0x7F, data[2:6]
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(data[6 : 6 + size]))
        frames.append((opcode, payload))
        data = data[6 + size :]
    return frames


def test_a_peer_that_answers_pings_may_be_quiet_unless_the_idle_timer_is_on() -> None:
    with Relay(idle) as relay:
        with quick(relay.url, 0, ping_seconds=0.1, pong_seconds=0.1) as subscription:
            wait_for(lambda: subscription.status.connected)
            time.sleep(0.8)
            assert subscription.status.connects == 1
            assert subscription.status.last_error is None
        with quick(relay.url, 0, ping_seconds=0.1, pong_seconds=0.1, idle_seconds=0.4) as subscription:
            wait_for(lambda: subscription.status.connects == 2)
            assert subscription.status.last_error == f"{relay.url} sent no event for 0.4 s."


@pytest.mark.parametrize(
    ("status", "told", "hopeless"),
    [
        ("400 Bad Request", "HTTP 400 (bad cursor): it does not accept the request; check APPVIEW_RELAY_URL", True),
        ("404 Not Found", "no event stream for us at this address", True),
        ("405 Method Not Allowed", "no event stream for us at this address", True),
        ("426 Upgrade Required", "no event stream for us at this address", True),
        ("501 Not Implemented", "no event stream for us at this address", True),
        ("200 OK", "HTTP 200 (bad cursor) instead of a WebSocket", True),
        ("429 Too Many Requests", "too many connections", False),
        ("500 Internal Server Error", "HTTP 500 (bad cursor): it has trouble of its own", False),
        ("503 Service Unavailable", "HTTP 503", False),
        ("522 Connection timed out", "HTTP 522", False),
    ],
)
def test_http_refusals(status: str, told: str, hopeless: bool) -> None:
    backoff = Backoff(first=0.05, longest=10)
    with (
        raw_server(refusing(status, body="bad cursor")) as (port, times),
        quick(f"ws://127.0.0.1:{port}", 5, backoff=backoff) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        first = subscription.status
        assert told in (first.last_error or "")
        assert first.retry_at is not None and first.last_error_at is not None
        wait = first.retry_at - first.last_error_at
        if hopeless:
            assert 5 <= wait <= 10
        else:
            assert wait < 1
            wait_for(lambda: len(times) >= 3)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (f"HTTP/1.1 101 Switching Protocols\r\nX-Trace: {'x' * 20_000}\r\n\r\n", "HTTP 101"),
        (f"HTTP/1.1 404 Not Found\r\nX-Trace: {'x' * 20_000}\r\n\r\n", "HTTP 404"),
        (f"HTTP/1.1 503 Busy\r\nX-Trace: {'x' * 40_000}", "HTTP 503"),
        ("HTTP/1.1 101 Switching Protocols\r\n" + "A: b\r\n" * 200 + "\r\n", "HTTP 101"),
        ("<html>" * 5_000, "no WebSocket handshake"),
    ],
)
def test_an_over_long_answer_is_not_hopeless(header: str, told: str) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(header.encode())
        connection.recv(65536)

    backoff = Backoff(first=0.05, longest=10)
    with (
        raw_server(answer) as (port, times),
        quick(f"ws://127.0.0.1:{port}", 5, backoff=backoff) as subscription,
    ):
        wait_for(lambda: len(times) >= 3)
        error = subscription.status.last_error or ""
        assert told in error and "too long to be read; trying again later" in error


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form: str) -> None:
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=31)
    value = "30" if form == "seconds" else at.strftime("%a, %d %b %Y %H:%M:%S GMT")
    with (
        raw_server(refusing("429 Too Many Requests", f"Retry-After: {value}\r\n")) as (port, _),
        quick(f"ws://127.0.0.1:{port}", 5) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        status = subscription.status
        assert status.retry_at is not None
        assert 28 < status.retry_at - time.time() < 32


@pytest.mark.parametrize("value", ["soon", "-1", "9" * 60, "Wed, 99 Foo 2099 00:00:00 GMT", "1e9", ""])
def test_a_senseless_retry_after_can_neither_break_nor_stop_us(value: str) -> None:
    with (
        raw_server(refusing("503 Busy", f"Retry-After: {value}\r\n")) as (port, _),
        quick(f"ws://127.0.0.1:{port}", 5) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        status = subscription.status
        assert status.retry_at is not None
        assert status.retry_at - time.time() <= refusals.MAX_RETRY_AFTER + 1


def test_a_redirect_is_not_followed_but_told() -> None:
    with (
        raw_server(refusing("301 Moved", "Location: https://elsewhere.example/\r\n")) as (port, _),
        quick(f"ws://127.0.0.1:{port}", 5) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        error = subscription.status.last_error or ""
        assert "a redirect to https://elsewhere.example/: set APPVIEW_RELAY_URL to it" in error


def test_answers_that_are_no_http() -> None:
    def garbage(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"220 mail.example ESMTP\r\n\r\n")

    with raw_server(garbage) as (port, _), quick(f"ws://127.0.0.1:{port}", 5) as subscription:
        wait_for(lambda: subscription.status.state == "waiting")
        assert "does not answer like a WebSocket server" in (subscription.status.last_error or "")

    def silent(connection: socket.socket) -> None:
        connection.recv(65536)

    with (
        raw_server(silent) as (port, _),
        quick(f"ws://127.0.0.1:{port}", 5) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        assert "closed the connection without an answer" in (subscription.status.last_error or "")


def test_a_server_that_accepts_and_says_nothing() -> None:
    given_up = threading.Event()

    def silent(connection: socket.socket) -> None:
        given_up.wait(30)

    with (
        raw_server(silent) as (port, _),
        quick(f"ws://127.0.0.1:{port}", 5, connect_seconds=0.3) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        given_up.set()
        assert f"127.0.0.1:{port} does not answer" in (subscription.status.last_error or "")


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_refused_port_is_one_sentence(host: str) -> None:
    port = unused_port()
    with quick(f"ws://{host}:{port}", 5) as subscription:
        wait_for(lambda: subscription.status.attempts >= 3)
        assert subscription.status.last_error == (
            f"{host}:{port} refuses the connection: check APPVIEW_RELAY_URL and that the server runs."
        )
        assert subscription.take(10, 0) == []


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a" * 64 + ".invalid"])
def test_a_bad_host_name_is_one_sentence(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(name: Any, *rest: Any, **options: Any) -> Any:
        if len(str(name).split(".")[0]) < 64:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(name, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with quick(f"wss://{host}", 5) as subscription:
        wait_for(lambda: subscription.status.state == "waiting")
        assert f"The host name {host} can't be resolved" in (subscription.status.last_error or "")


def test_tls_failures(tmp_path: Any) -> None:
    with Relay(idle) as relay, quick(f"wss://127.0.0.1:{relay.port}", 5) as subscription:
        wait_for(lambda: subscription.status.state == "waiting")
        assert "broke the connection off while it was being made" in (subscription.status.last_error or "")

    def plain(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(65536)
        connection.recv(65536)

    with raw_server(plain) as (port, _), quick(f"wss://127.0.0.1:{port}", 5) as subscription:
        wait_for(lambda: subscription.status.state == "waiting")
        assert f"No TLS connection to 127.0.0.1:{port} (" in (subscription.status.last_error or "")

    server_tls = self_signed(tmp_path)
    with Relay(idle, ssl=server_tls) as relay, quick(f"wss://localhost:{relay.port}", 5) as subscription:
        wait_for(lambda: subscription.status.state == "waiting")
        assert "The certificate of localhost can't be verified (self" in (subscription.status.last_error or "")

    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with (
        Relay(idle, ssl=server_tls) as relay,
        quick(f"wss://localhost:{relay.port}", 5, ssl_context=trusting) as subscription,
    ):
        wait_for(lambda: subscription.status.connected)


def self_signed(folder: Any) -> ssl.SSLContext:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def stop_seconds(subscription: Subscription) -> float:
    began = time.monotonic()
    subscription.stop()
    seconds = time.monotonic() - began
    assert subscription.status.state == "stopped"
    assert not subscription.status.connected
    assert subscription._thread is not None and not subscription._thread.is_alive()
    return seconds


def test_stop_is_prompt_in_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Subscription(f"ws://127.0.0.1:{unused_port()}", 1, backoff=Backoff(first=60, longest=60))
    waiting.start()
    wait_for(lambda: waiting.status.state == "waiting")
    assert stop_seconds(waiting) < 1

    async def flood(connection: ServerConnection, number: int, cursor: int | None) -> None:
        while True:
            await connection.send(frame(1, 10_000))

    with Relay(flood) as relay:
        full = quick(relay.url, 0, 100_000)
        full.start()
        wait_for(lambda: full.status.reading_paused)
        assert stop_seconds(full) < 1
        assert len(full.take(1_000_000, 5)) == full.status.frames  # what was received can still be taken
        assert relay.closed.wait(1)

    gone = threading.Event()

    def silent(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.settimeout(3)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(10) == b""
        gone.set()

    with raw_server(silent) as (port, times):
        shaking = quick(f"ws://127.0.0.1:{port}", 0)
        shaking.start()
        wait_for(lambda: times)
        time.sleep(0.1)
        assert stop_seconds(shaking) < 1
        assert gone.wait(1)  # the server learns it too

    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(20) and [])
    resolving = quick("wss://slow.invalid", 0)
    resolving.start()
    wait_for(lambda: resolving.status.state == "connecting")
    time.sleep(0.1)
    assert stop_seconds(resolving) < 1
    release.set()

    at_once = quick("ws://127.0.0.1:9", 0)
    at_once.start()
    assert stop_seconds(at_once) < 1
    at_once.stop()
    never_started = quick("ws://127.0.0.1:9", 0)
    never_started.stop()
    assert never_started.take(1, 5) == []


def test_stop_from_elsewhere_ends_a_waiting_take() -> None:
    with Relay(idle) as relay, quick(relay.url, 0) as subscription:
        wait_for(lambda: subscription.status.connected)
        threading.Timer(0.2, subscription.stop).start()
        began = time.monotonic()
        assert subscription.take(10, 10) == []
        assert time.monotonic() - began < 1


def test_a_defect_of_ours_is_raised_where_frames_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await connection.send(frame(1))
        await connection.send(frame(2))
        await forever(connection)

    def broken(payload: bytes) -> int:
        if payload == frame(2):
            raise ZeroDivisionError("a defect")
        return 1

    monkeypatch.setattr(subscriptions, "seq_of", broken)
    with Relay(handler) as relay, quick(relay.url) as subscription:
        wait_for(lambda: subscription._failure)
        with pytest.raises(RuntimeError, match="thread failed"):
            list(iter(lambda: subscription.take(1, 0), None))


def test_backoff_grows_with_jitter_up_to_its_limit_and_starts_again_after_a_healthy_connection() -> None:
    backoff = Backoff()
    ceilings = [1, 2, 4, 8, 16, 32, 64, 64, 64]
    waits = [[Backoff(failures=n).next() for _ in range(300)] for n in range(len(ceilings))]
    for ceiling, drawn in zip(ceilings, waits, strict=True):
        assert min(drawn) >= 0.1 and max(drawn) <= ceiling
        assert max(drawn) > 0.8 * ceiling and min(drawn) < 0.3 * ceiling
    for _ in ceilings:
        backoff.next()
    backoff.connected_for(29)
    assert backoff.failures == 9
    backoff.connected_for(30)
    assert backoff.failures == 0
    backoff.next()
    backoff.connected_for(0.1, progressed=True)
    assert backoff.failures == 0
    assert all(32 <= Backoff().longest_wait() <= 64 for _ in range(50))


def test_what_is_peeked_at_never_raises(conformance: Any) -> None:
    for path in sorted((conformance / "malformed").glob("*.frame")):
        data = path.read_bytes()
        assert peek.seq_of(data) is None or path.name not in ("a-empty.frame", "a-random.frame", "a-header-only.frame")
        noticed = peek.control_of(data)
        assert (noticed is not None) == (path.name.startswith("a-error-") or path.name.startswith("a-info-")), path.name
    assert peek.seq_of(control({"op": 1, "t": "#commit"}, {"seq": True})) is None
    assert peek.seq_of(control({"op": 1, "t": "#commit"}, {"seq": -1})) is None
    assert peek.seq_of(control({"op": 1, "t": "#commit"}, {"seq": 2**53})) is None
    hostile = peek.control_of(error_frame("Bad\nName\u202e", "x" * 10_000))
    assert hostile is not None and hostile.name == "Bad Name" and len(hostile.message) == 200
