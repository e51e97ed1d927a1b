"""The subscription against real sockets: nothing lost or repeated, memory bounded, and no failure that spins."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time

import libipld
import pytest
from websockets.asyncio.server import ServerConnection

from appview_pipeline.backoff import Backoff
from appview_pipeline.network import connection as connections
from appview_pipeline.network.subscription import EventStream, Subscription
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.scripted_servers import (
    OUTDATED,
    Relay,
    error_frame,
    forever,
    frame,
    handshake,
    idle,
    quick,
    raw_server,
    seqs,
    take_until,
)
from appview_pipeline_tests.support.waiting import wait_for


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


def test_another_event_stream_is_known_by_its_method_and_its_usual_header() -> None:
    """Label streams, say: resumed, with gaps noticed, and told from frames about the stream, as the relay's is."""
    header = libipld.encode_dag_cbor({"op": 1, "t": "#labels"})

    def labels(seq: int) -> bytes:
        return header + libipld.encode_dag_cbor({"seq": seq, "labels": []})

    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        for message in [labels(1), labels(2)] if number == 0 else [OUTDATED, labels(5)]:
            await connection.send(message)
        if number:
            await forever(connection)

    stream = EventStream("com.atproto.label.subscribeLabels", header)
    with Relay(handler, method=stream.method) as relay, quick(relay.url, 0, stream=stream) as subscription:
        assert take_until(subscription, 3) == [labels(1), labels(2), labels(5)]
        assert relay.cursors == [0, 2]
        assert [(notice.kind, notice.first_seq) for notice in subscription.notices()] == [("info", None), ("gap", 5)]


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
            blocked_at = -1
            while blocked_at < sent:  # a slow server still fills what lies between it and us
                blocked_at = sent
                time.sleep(0.6)  # several ping time-outs: a pong that we don't read ourselves is not missing
            status = subscription.status
            assert status.buffered_bytes < buffer_bytes + 3_000_000
            # Beyond our buffer: those of two sockets, which the kernel lets grow to 6 MB each (tcp_rmem, tcp_wmem).
            assert blocked_at * size < status.buffered_bytes + 12_000_000
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


def test_a_connection_lost_while_the_buffer_is_full_is_not_replaced_before_it_drains() -> None:
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


def stop_seconds(subscription: Subscription) -> float:
    began = time.monotonic()
    subscription.stop()
    seconds = time.monotonic() - began
    assert subscription.status.state == "stopped"
    assert not subscription.status.connected
    assert not subscription._loop.is_alive
    return seconds


def test_stop_is_prompt_in_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Subscription(f"ws://127.0.0.1:{free_port()}", 1, backoff=Backoff(first=60, longest=60))
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

    monkeypatch.setattr(connections, "seq_of", broken)
    with Relay(handler) as relay, quick(relay.url) as subscription:
        wait_for(lambda: subscription._failure)
        with pytest.raises(RuntimeError, match="thread failed"):
            list(iter(lambda: subscription.take(1, 0), None))
