"""WebSocket messages of every kind: large, fragmented, over the limit, text, closes, pings, broken protocol."""

from __future__ import annotations

import socket
import time

import pytest
from websockets.asyncio.server import ServerConnection

from appview_pipeline.network.notices import MAX_NOTICES
from appview_pipeline.protocol.event_stream import MAX_FRAME_BYTES
from appview_pipeline_tests.support.scripted_servers import (
    OUTDATED,
    Relay,
    client_frames,
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


def test_notices_are_bounded() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        for _ in range(MAX_NOTICES + 100):
            await connection.send(OUTDATED)
        await connection.send(frame(1))
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 0) as subscription:
        take_until(subscription, 1)
        assert len(subscription.notices()) == MAX_NOTICES
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
def test_a_message_over_the_limit_is_skipped_and_its_neighbours_come_through(fragmented: bool) -> None:
    huge = frame(4, MAX_FRAME_BYTES)

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
def test_close_codes_are_reported_and_survived(code: int, reason: str) -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await connection.send(frame((cursor or 0) + 1))
        if number == 0:
            await connection.close(code, reason)
        await forever(connection)

    with Relay(handler) as relay, quick(relay.url, 0) as subscription:
        assert seqs(take_until(subscription, 2)) == [1, 2]
        words = f"{relay.url} closed the connection (code {code}{', ' + reason if reason else ''})."
        assert subscription.status.last_error == words


@pytest.mark.parametrize(
    ("sent", "words"),
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
def test_a_server_that_breaks_the_websocket_protocol_is_left_with_back_off(sent: bytes, words: str) -> None:
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
        assert words in error or words == "asked"
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
