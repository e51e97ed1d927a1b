"""The newest part of the label feed in memory: from which positions a client can go on there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from appview_pipeline.labels import live_feed
from appview_pipeline.labels.live_feed import Behind, Frame, LiveFeed, Part, ServedFeed
from appview_pipeline.store.database import Database


def part(after: int, to: int, *frames: tuple[int, int]) -> Part:
    """A part with frames from an id up to another one."""
    return Part(after, to, [Frame(first, seq, b"x" * 10) for first, seq in frames], 10 * len(frames))


def seqs(live: LiveFeed, position: int) -> list[int] | None:
    found = live.after(position)
    return None if found is None else [frame.seq for frame in found.frames]


def in_loop(database: Database, test: Callable[[LiveFeed], Awaitable[None]]) -> None:
    """Runs a test with a feed that begins after 10, and that nobody reads."""

    async def run() -> None:
        def fail(error: BaseException) -> None:
            raise error

        await test(LiveFeed(ServedFeed(database), 10, fail))

    asyncio.run(run())


def test_positions(database: Database) -> None:
    async def test(live: LiveFeed) -> None:
        assert live.after(10) is live.after(12) is None
        with pytest.raises(Behind):
            live.after(9)
        await live._add(part(10, 20, (12, 14), (15, 18)))
        await live._add(part(20, 30, (21, 30)))
        with pytest.raises(Behind):
            live.after(9)
        assert [seqs(live, position) for position in (10, 11, 14, 18, 19, 20)] == [
            [14, 18],
            [14, 18],
            [18],
            [],
            [],
            [30],
        ]
        for within in (12, 13, 15, 17, 21, 29):  # what was sent of the frame would be sent again
            with pytest.raises(Behind):
                live.after(within)
        assert live.after(30) is live.after(31) is None

    in_loop(database, test)


def test_parts_without_labels_take_no_room(database: Database) -> None:
    async def test(live: LiveFeed) -> None:
        await live._add(part(10, 20, (20, 20)))
        for end in range(30, 100_000, 10):
            await live._add(part(end - 10, end))
        assert len(live._parts) == 1
        assert seqs(live, 15) == [20] and seqs(live, 20) == seqs(live, 70_000) == []

    in_loop(database, test)


def test_the_oldest_parts_go(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(live: LiveFeed) -> None:
        for end in range(20, 120, 10):
            await live._add(part(end - 10, end, (end - 5, end - 5), (end, end)))
        assert [found.to for found in live._parts] == kept
        assert seqs(live, kept[0] - 10) == [kept[0] - 5, kept[0]]
        with pytest.raises(Behind):
            live.after(kept[0] - 11)

    kept = [90, 100, 110]
    monkeypatch.setattr(live_feed, "MAX_PARTS", 3)
    in_loop(database, test)
    monkeypatch.setattr(live_feed, "MAX_PARTS", 1_000)
    monkeypatch.setattr(live_feed, "MAX_BYTES", 45)
    kept = [100, 110]
    in_loop(database, test)


def test_a_waiter_wakes_with_what_is_newer_than_its_position(database: Database) -> None:
    async def test(live: LiveFeed) -> None:
        waiting = asyncio.create_task(live.wait(25))
        await live._add(part(10, 20))
        await asyncio.sleep(0)
        assert not waiting.done()
        await live._add(part(20, 30))
        await asyncio.wait_for(waiting, 10)

    in_loop(database, test)
