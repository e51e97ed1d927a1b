"""Sequence numbers of labelers, which leap: where a stream is resumed, and what is said about it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection

from appview_pipeline.network.sequence import MAX_LEAP, LeapingNumbers
from appview_pipeline.network.subscription import SUBSCRIBE_LABELS
from appview_pipeline.protocol.label_frames import error_frame, info_frame, labels_frame
from appview_pipeline_tests.support.scripted_servers import Relay, forever, quick, seqs, take_until
from appview_pipeline_tests.support.waiting import wait_for

HUGE = 2**53 - 1
MICROS = 1_790_000_000_000_000  # some labelers number by the clock


@pytest.mark.parametrize(
    ("begins", "numbers", "reached"),
    [
        (0, [5], 5),
        (0, [40_000_000], 40_000_000),
        (7, [9, 30_000_000, 30_000_001], 30_000_001),
        (7, [8, HUGE], 8),
        (7, [8, HUGE, 9], 9),
        (7, [8, HUGE, HUGE, HUGE], 8),
        (7, [8, HUGE, 9, HUGE], 9),
        (7, [HUGE - 5, HUGE], HUGE),
        (0, [MICROS], 0),  # the stream is begun anew, and repeats this one
        (0, [MICROS, MICROS + 86_400_000_000], MICROS + 86_400_000_000),
        (MICROS, [MICROS + 11 * 86_400_000_000], MICROS + 11 * 86_400_000_000),
        (MICROS, [HUGE], MICROS),
        (100, [90], 90),
        (100, [101, 1, 102], 102),
        (100, [100], 100),
        (None, [5], 5),
    ],
)
def test_where_a_stream_is_resumed(begins: int | None, numbers: list[int], reached: int) -> None:
    counted = LeapingNumbers(begins)
    for number in numbers:
        counted.add(number)
    assert (counted.reached or 0) == reached


@given(st.lists(st.integers(1, HUGE), min_size=1, max_size=30))
def test_the_point_to_resume_from_is_a_number_that_came_and_no_later_event_is_behind_it(numbers: list[int]) -> None:
    """Whatever came: resuming from there repeats some, and leaves out none that a server in order would send next."""
    counted = LeapingNumbers(0)
    for number in numbers:
        counted.add(number)
        assert counted.reached in (0, *numbers)
        assert (counted.reached or 0) <= number


@given(st.integers(0, HUGE // 2), st.lists(st.integers(1, MAX_LEAP), max_size=30))
def test_numbers_that_rise_are_never_in_doubt(begins: int, steps: list[int]) -> None:
    counted, number = LeapingNumbers(begins), begins
    for step in steps:
        number = min(number + step, HUGE)
        assert counted.add(number) in ("follows", "repeated")
        assert counted.reached == number


def labels(seq: int) -> bytes:
    return labels_frame(seq, [])


async def send(connection: ServerConnection, *frames: bytes) -> None:
    for frame in frames:
        await connection.send(frame)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("odd", [[HUGE], [HUGE, HUGE], [3], [HUGE, 3]])
def test_a_made_up_number_costs_no_labels(odd: list[int], together: bool) -> None:
    """Though it is the last one before the connection ends."""

    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        assert cursor is not None
        if number == 0:
            for seq in (10, 200_000, *odd):
                await connection.send(labels(seq))
                await asyncio.sleep(0 if together else 0.03)
            return
        await send(connection, *(labels(seq) for seq in (10, 200_000, 300_000) if seq > cursor))
        await forever(connection)

    with Relay(handler, SUBSCRIBE_LABELS.method) as relay, quick(relay.url, 0, stream=SUBSCRIBE_LABELS) as subscription:
        # The second connection sends what is above the cursor: all three after a number that goes back.
        found = take_until(subscription, 2 + len(odd) + (3 if 3 in odd else 1))
        assert 300_000 in seqs(found)
        assert relay.cursors == [0, 200_000 if 3 not in odd else 3]


def test_leaps_are_no_gaps_but_where_the_server_says_so() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        if number == 0:
            await send(connection, labels(1), labels(5_000_000))
        elif number == 1:
            await send(connection, labels(9_000_000), info_frame("OutdatedCursor", "too old"), labels(9_000_001))
        else:
            await send(connection, info_frame("OutdatedCursor", "too old"), labels(10_000_000))
            await forever(connection)

    with Relay(handler, SUBSCRIBE_LABELS.method) as relay, quick(relay.url, 0, stream=SUBSCRIBE_LABELS) as subscription:
        assert seqs(take_until(subscription, 5)) == [1, 5_000_000, 9_000_000, 9_000_001, 10_000_000]
        assert relay.cursors == [0, 5_000_000, 9_000_001]
        assert [(one.kind, one.name, one.cursor, one.first_seq) for one in subscription.notices()] == [
            ("info", "OutdatedCursor", 5_000_000, None),
            ("info", "OutdatedCursor", 9_000_001, None),
            ("gap", "OutdatedCursor", 9_000_001, 10_000_000),
        ]


def test_a_labeler_that_was_restored_goes_back() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await send(connection, labels(40), labels(41))
        await forever(connection)

    with (
        Relay(handler, SUBSCRIBE_LABELS.method) as relay,
        quick(relay.url, 1_000, stream=SUBSCRIBE_LABELS) as subscription,
    ):
        assert seqs(take_until(subscription, 2)) == [40, 41]
        assert subscription.status.cursor == 41
        assert [(one.kind, one.first_seq) for one in subscription.notices()] == [("went_back", 40)]


def test_a_future_cursor_says_what_a_person_can_do() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await send(connection, error_frame("FutureCursor", "Cursor in the future."))
        await connection.close(1008, "FutureCursor")

    with Relay(handler, SUBSCRIBE_LABELS.method) as relay, quick(relay.url, 9, stream=SUBSCRIBE_LABELS) as subscription:
        wait_for(lambda: subscription.status.state == "future_cursor")
        assert subscription.status.last_error == (
            f"{relay.url} says that cursor 9 lies in its future: the labeler was set up anew, or an older state of it "
            "was restored; have its labels read from the beginning."
        )
        assert relay.cursors == [9] and subscription.status.cursor == 9


def test_a_message_that_is_too_large_is_not_skipped_since_its_number_is_not_known() -> None:
    async def handler(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await send(connection, *([labels(1_000)] if number == 0 else []), b"x" * 5_000_001)
        await forever(connection)

    with Relay(handler, SUBSCRIBE_LABELS.method) as relay, quick(relay.url, 0, stream=SUBSCRIBE_LABELS) as subscription:
        wait_for(lambda: subscription.status.hopeless)
        assert (subscription.status.last_error or "").endswith(
            "again, the first after 1000, and can't be read past it."
        )
        assert subscription.status.cursor == 1_000 and relay.cursors == [0, 1_000]
