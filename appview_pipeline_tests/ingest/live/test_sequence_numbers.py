"""The numbers of a stream: what was left out or went back is noted, and no odd number moves the cursor."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from appview_pipeline.indexing.changes import Change
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.live.sequence_numbers import Seen, SequenceNumbers
from appview_pipeline.ingest.live.stream_decoder import numbers_of, own_frames
from appview_pipeline.ingest.writer import reached as reached_by
from appview_pipeline.network.sequence import CONFIRMING, QUIET_SECONDS
from appview_pipeline.protocol.event_stream import seq_of
from appview_pipeline.protocol.peek import peek_seq
from appview_pipeline.shards import Shard
from appview_pipeline.store.gaps import StreamGap
from appview_pipeline_tests.support.frames import Person, Stream, post

HUGE = 2**53 - 1
Number = int | None


class Watched:
    """Numbers in batches, and what the cursor and the gaps are after them as the writer would have them."""

    def __init__(self, reached: int | None = 100, allowed: int = 10, noted: Sequence[StreamGap] = ()) -> None:
        self.numbers = SequenceNumbers("wss://relay.test", "0/1", reached, allowed=allowed, open_gaps=noted)
        self.cursor = reached
        self.open: set[tuple[str, int, int]] = {(gap.kind, gap.after, gap.until) for gap in noted}
        self.noted: set[tuple[str, int, int]] = set()
        self.skipped = 0
        self.odd = 0
        self.now = 1_000.0

    def feed(self, *numbers: Number) -> Watched:
        seen = self.numbers.see(numbers, self.now)
        changes = [*self.numbers.changes_of(seen), *self._frames(numbers, seen)]
        for change in changes:
            for gap in change.gaps:
                assert gap.after is not None and gap.until is not None
                key = (gap.kind, int(gap.after), int(gap.until))
                self.noted.add(key)
                (self.open.discard if gap.resolved else self.open.add)(key)
            self.skipped += change.skipped
            self.odd += change.doubtful
        if any(change.seq is not None and not change.is_doubtful for change in changes):
            self.cursor = reached_by(changes, self.cursor)
        assert self.cursor == self.numbers.reached
        return self

    def _frames(self, numbers: Sequence[Number], seen: Seen) -> Iterator[Change]:
        for index, number in enumerate(numbers):
            if index == seen.restart:
                yield Change(0, restarts_at=number, is_position=True)
            yield Change(1, number, is_doubtful=index in seen.doubtful)

    def each(self, numbers: Sequence[Number]) -> Watched:
        for number in numbers:
            self.feed(number)
        return self


def cuts(numbers: Sequence[Number]) -> Iterator[list[Sequence[Number]]]:
    """All at once, one by one, and in some other ways."""
    yield [numbers]
    yield [[number] for number in numbers]
    for seed in range(8):
        rng, batches = random.Random(seed), [[numbers[0]]]
        for number in numbers[1:]:
            if rng.random() < 0.3:
                batches.append([number])
            else:
                batches[-1].append(number)
        yield list(batches)


def test_the_usual() -> None:
    watched = Watched().feed(*range(101, 5_101)).feed(*range(5_101, 5_110))
    assert (watched.cursor, watched.skipped, watched.odd, watched.noted) == (5_109, 0, 0, set())


@pytest.mark.parametrize("skipped", [1, 10])
def test_what_is_left_out_legally_is_counted(skipped: int) -> None:
    numbers = [101, 102, 103 + skipped, 104 + skipped]
    for batches in cuts(numbers):
        watched = Watched()
        for batch in batches:
            watched.feed(*batch)
        assert (watched.cursor, watched.skipped, watched.noted) == (104 + skipped, skipped, set())


def test_more_is_a_gap_and_the_cursor_follows_once_it_is_confirmed() -> None:
    numbers = [101, *range(302, 330)]
    for batches in cuts(numbers):
        watched = Watched()
        for batch in batches:
            watched.feed(*batch)
        assert (watched.cursor, watched.skipped, watched.open) == (329, 200, {("sequence", 101, 302)})


@pytest.mark.parametrize("odd", [[HUGE], [1], [HUGE, HUGE - 1], [5_000, 5_001], [5_000, 900_000], [7, 7], [HUGE, 3]])
@pytest.mark.parametrize("at", [0, 1, 20])
def test_odd_numbers_never_move_the_cursor(odd: list[int], at: int) -> None:
    """Wherever they stand, the first, in the middle, the last; alone, or two in a row; however batches are cut."""
    whole = list(range(101, 121))
    numbers = [*whole[:at], *odd, *whole[at:]]
    for batches in cuts(numbers):
        watched, true = Watched(), 100
        for batch in batches:
            watched.feed(*batch)
            true = max([true, *(number for number in batch if number is not None and number in whole)])
            assert watched.cursor == true
        watched.now += 60
        watched.feed()
        assert watched.cursor == 120
        watched.feed(*range(121, 125))
        assert (watched.cursor, watched.open, watched.skipped) == (124, set(), 0)
        assert watched.odd >= 1


def test_the_first_number_of_all_may_be_odd() -> None:
    for batches in cuts([HUGE, *range(101, 121)]):
        watched = Watched(None)
        for batch in batches:
            watched.feed(*batch)
        assert watched.cursor == 120


@pytest.mark.parametrize("first", [1, 5_000_000])
def test_a_relay_that_goes_on_elsewhere_is_followed(first: int) -> None:
    for batches in cuts([101, *range(first, first + CONFIRMING + 5)]):
        watched = Watched()
        for batch in batches:
            watched.feed(*batch)
        assert watched.cursor == first + CONFIRMING + 4
        assert watched.open == {("sequence", 101, first)}


def test_on_a_quiet_stream_a_few_numbers_and_some_silence_are_enough() -> None:
    watched = Watched().feed(5_000, 5_001)
    watched.now += QUIET_SECONDS
    assert watched.feed().cursor == 100
    watched.feed(5_002)
    assert watched.feed().cursor == 100
    watched.now += QUIET_SECONDS
    assert watched.feed().cursor == 5_002
    assert watched.open == {("sequence", 100, 5_000)}


@pytest.mark.parametrize(("first", "kind"), [(2, "sequence"), (5_000, "outdated_cursor")])
def test_a_connection_that_begins_elsewhere_is_believed_after_a_moment(first: int, kind: str) -> None:
    watched = Watched()
    watched.numbers.connected(first, kind)
    watched.feed(first)
    assert watched.cursor == 100 and watched.open == {(kind, 100, first)}
    watched.now += QUIET_SECONDS
    assert watched.feed().cursor == first


def test_what_is_left_out_between_two_connections_is_a_gap_however_small() -> None:
    watched = Watched()
    watched.numbers.connected(103, "sequence")
    assert watched.feed(103, 104).open == {("sequence", 100, 103)}


def test_a_server_that_resumes_early_closes_what_it_sends_after_all() -> None:
    """Numbers 101 to 299 were missing; another connection begins at 90 and brings them."""
    for batches in cuts([*range(300, 320), *range(90, 330)]):
        watched = Watched()
        watched.numbers.connected(300, "outdated_cursor")
        for batch in batches:
            watched.feed(*batch)
        assert watched.cursor == 329
        assert {("outdated_cursor", 100, 300), ("sequence", 319, 90)} <= watched.noted
        assert watched.open == set()


def test_gaps_from_before_are_closed_too() -> None:
    """Those that the last consumer noted for a number that came to nothing."""
    noted = [StreamGap("sequence", 100, HUGE), StreamGap("sequence", 60, 90)]
    assert Watched(noted=noted).feed(101, 102).open == {("sequence", 60, 90)}


def test_a_number_that_goes_back_is_noted() -> None:
    watched = Watched().feed(*range(101, 151), 120)
    assert watched.open == {("sequence", 150, 120)} and watched.cursor == 150
    assert watched.feed(*range(151, 160)).open == set()


def test_a_reversed_stream_that_is_cut_off_is_one_gap() -> None:
    watched = Watched().each([101, *range(111, 104, -1)])
    assert watched.cursor == 111 and watched.open == {("sequence", 111, 110)}


def test_numbers_with_large_steps_are_followed() -> None:
    """Some relays number by the clock. Every step is noted, unless the setting allows it; the cursor moves on."""
    rng, numbers = random.Random(1), [1_000]
    for _ in range(200):
        numbers.append(numbers[-1] + rng.randrange(100, 2_000))
    watched = Watched(1_000).each(numbers[1:])
    assert watched.cursor is not None and watched.cursor >= numbers[-3 * CONFIRMING]
    assert Watched(1_000, 2_000).each(numbers[1:]).noted == set()


def test_a_frame_that_can_not_be_read_may_be_what_is_missing() -> None:
    for batches in cuts([101, None, 103, 104, None, 105]):
        watched = Watched()
        for batch in batches:
            watched.feed(*batch)
        assert watched.open == {("sequence", 101, 103)} and watched.cursor == 105


def test_an_event_too_large_to_be_received_is_a_gap() -> None:
    for batches in cuts([101, 102, 104, 105]):
        watched = Watched()
        watched.numbers.oversized(102)
        for batch in batches:
            watched.feed(*batch)
        assert watched.open == {("sequence", 102, 104)} and watched.cursor == 105


def test_a_hostile_stream_is_bounded() -> None:
    rng, watched = random.Random(3), Watched()
    for _ in range(3_000):
        watched.feed(*(rng.randrange(1, HUGE) for _ in range(3)))
    assert watched.cursor == 100
    assert len(watched.numbers._open) <= 1_000 and len(watched.numbers._began) <= 1_000


@pytest.mark.parametrize("seq", [1, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, HUGE])
def test_a_number_is_found_without_decoding(seq: int) -> None:
    ann = Person(Stream(), "ann")
    frame = ann.commit(post("a", "a post with seq repo and time in it"), seq=seq)
    assert peek_seq(frame) == seq_of(frame) == seq
    for odd in (ann.stream.account(ann.did, True, seq=seq), frame[:-1], b"", ann.commit(post("b", "x"), seq=-seq)):
        assert peek_seq(odd) in (seq_of(odd), seq)


def test_the_numbers_of_other_shards_count_too() -> None:
    """Whether what is between both ends has to be looked at or not."""
    stream = Stream()
    people = [Person(stream, f"person {number}") for number in range(8)]
    shard = Shard(0, 4)
    frames = [people[number % 8].commit(post(f"p{number}", "x")) for number in range(40)]
    assert 0 < len(own_frames(frames, shard)) < 40

    def numbers(frames: list[bytes]) -> list[int | None]:
        decoded = read_changes(own_frames(frames, shard), record_validators(None), IndexedCollections())
        return list(numbers_of(frames, decoded, shard))

    assert numbers(frames) == list(range(1, 41)) and numbers([]) == []
    for lost in range(40):
        rest = frames[:lost] + frames[lost + 1 :]
        assert numbers(rest) == [number for number in range(1, 41) if number != lost + 1]
        garbage = [*frames[:lost], b"\x00garbage", *frames[lost + 1 :]]
        assert numbers(garbage) == [None if number == lost + 1 else number for number in range(1, 41)]
    assert numbers(frames[::-1]) == list(range(40, 0, -1))
