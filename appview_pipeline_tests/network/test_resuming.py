"""Where and when the subscription goes on after a connection: cursors, gaps, jumps, pauses between attempts."""

from __future__ import annotations

import asyncio
import time

import pytest
from websockets.asyncio.server import ServerConnection

from appview_pipeline.backoff import Backoff
from appview_pipeline.network.subscription import Subscription
from appview_pipeline_tests.support.scripted_servers import (
    OUTDATED,
    Relay,
    error_frame,
    forever,
    frame,
    info_frame,
    quick,
    seqs,
    take_until,
)
from appview_pipeline_tests.support.waiting import wait_for


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
