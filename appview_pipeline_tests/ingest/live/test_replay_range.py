"""A range of a relay's numbers once more: what is applied, what the summary says, which gaps it closes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.changes import Change, Gap
from appview_pipeline.ingest.live.replay_range import RangeSummary, SentNumbers, replay_range
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.support.batches import writer_for
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.tables import Fresh, assert_equal, dump, one, replayed_frames, rows


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test can sit out."""
    monkeypatch.setattr(backoff, "RANGE_QUIET_SECONDS", 0.5)
    monkeypatch.setattr(backoff, "RANGE_CONNECT_SECONDS", 1.0)


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    return list(busy_frames(120))


@pytest.fixture
def relay(frames: list[bytes]) -> Iterator[Relay]:
    with Relay(frames) as made:
        yield made


def settings(database: Database, relay: Relay, **more: object) -> Settings:
    return Settings(database_url=database.url, relay_url=relay.url, **more)  # type: ignore[arg-type]


def note(database: Database, relay: Relay, after: int, until: int, shard: str = "0/1", kind: str = "sequence") -> None:
    gap = Gap(kind=kind, relay=relay.url, shard=shard, after=str(after), until=str(until))
    writer_for(database).write([Change(size=0, is_position=True, gaps=[gap])], 0.0)


def open_gaps(database: Database) -> list[tuple[str, str]]:
    found = rows(
        database.url,
        "SELECT from_text, to_text FROM pipeline.gap WHERE relay IS NOT NULL AND resolved_at IS NULL ORDER BY id",
    )
    return [(after, until) for after, until in found]


def test_a_range_is_applied_like_the_stream_and_moves_no_cursor(
    fresh: Fresh, relay: Relay, frames: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with fresh() as want, fresh() as database:
        replayed_frames(want, tmp_path_factory.mktemp("frames"), frames)
        seen: list[int] = []
        found = replay_range(
            settings(database, relay, batch_events=50),
            database,
            1,
            120,
            progress=lambda so_far: seen.append(so_far.events),
        )
        assert (found.first_seq, found.last_seq, found.frames, found.holes) == (1, 120, 120, [])
        assert found.ended == "the range has been sent" and found.sent_part == 1.0
        assert seen == sorted(seen) and seen[-1] == found.events
        assert_equal(dump(database.url), dump(want.url))
        assert one(database.url, "SELECT count(*) FROM pipeline.cursor") == 0
        again = replay_range(settings(database, relay), database, 1, 120)
        assert again.stale > 100
        assert_equal(dump(database.url), dump(want.url))


def test_only_the_range_is_applied(database: Database, relay: Relay) -> None:
    found = replay_range(settings(database, relay), database, 40, 60)
    assert (found.first_seq, found.last_seq, found.frames) == (40, 60, 21)
    assert rows(database.url, "SELECT min(first_seq), max(last_seq) FROM pipeline.batch") == [(40, 60)]


def test_without_an_end_it_goes_to_where_the_consumer_is(database: Database, relay: Relay) -> None:
    rows(database.url, "INSERT INTO pipeline.cursor (relay, shard, seq) VALUES (%s, '0/1', 55)", relay.url)
    found = replay_range(settings(database, relay), database, 50)
    assert (found.to_seq, found.last_seq, found.frames) == (55, 55, 6)
    with pytest.raises(OperatorError, match="beyond 55"):
        replay_range(settings(database, relay), database, 56)


def test_where_nothing_was_consumed_it_goes_on_until_the_relay_is_silent(database: Database, relay: Relay) -> None:
    found = replay_range(settings(database, relay), database, 101)
    assert (found.last_seq, found.frames, found.to_seq) == (120, 20, None)
    assert "sends nothing more" in found.ended and found.sent_part == 1.0


@pytest.mark.parametrize("tells", [True, False], ids=["with OutdatedCursor", "without a word"])
def test_what_the_relay_no_longer_has_is_a_hole_and_its_gap_stays(
    database: Database, relay: Relay, tells: bool
) -> None:
    relay.faults.ignore_cursor_rules = not tells
    relay.forget_before(81)
    for after, until in ((10, 20), (70, 90), (90, 100), (115, 130)):
        note(database, relay, after, until, shard="1/2", kind="outdated_cursor")
    found = replay_range(settings(database, relay, sequence_gap=5), database, 11, 120)
    assert found.holes == [(10, 81)] and found.first_seq == 81
    assert found.sent_part == pytest.approx(40 / 110)
    assert found.gaps_closed == 1
    assert open_gaps(database) == [("10", "20"), ("70", "90"), ("115", "130")]


def test_an_event_that_can_not_be_read_is_a_hole(database: Database, relay: Relay) -> None:
    relay.faults.damage[50] = [b"\xff\xff damaged"]
    relay.faults.damage[60] = []
    for after in (40, 49, 59):
        note(database, relay, after, after + 2)
    found = replay_range(settings(database, relay), database, 41, 80)
    assert found.holes == [(49, 51)], "a number that the relay leaves out is none"
    assert found.gaps_closed == 2 and open_gaps(database) == [("49", "51")]
    assert found.rejected >= 1


def test_it_ends_when_it_should(database: Database, relay: Relay) -> None:
    stop = threading.Event()
    found = replay_range(
        settings(database, relay, batch_events=10),
        database,
        1,
        1_000_000,
        progress=lambda so_far: stop.set(),
        stopped=stop.is_set,
    )
    assert found.ended == "it was stopped" and 0 < found.frames < 120
    assert replay_range(settings(database, relay), database, 1, 10**6, max_seconds=0.0).ended == "its time is over"


def test_mistakes_are_one_sentence(database: Database, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    for from_seq, to_seq in ((0, 5), (9, 8), (1, 2**53)):
        with pytest.raises(OperatorError, match="The range"):
            replay_range(settings(database, relay), database, from_seq, to_seq)
    with pytest.raises(OperatorError, match="lies in its future"):
        replay_range(settings(database, relay), database, 500, 600)
    url = relay.url
    relay.stop()
    with pytest.raises(OperatorError, match="start the replay again later"):
        replay_range(Settings(database_url=database.url, relay_url=url), database, 1, 5)


def test_numbers_that_come_twice_or_back_are_no_holes() -> None:
    numbers = SentNumbers(RangeSummary(11, 40), allowed=3)
    for seq in (10, 11, 12, 12, 11, 15, 20, 25):
        numbers.sent(seq)
    assert numbers.summary.holes == [(15, 20), (20, 25)]
    numbers.sent(90)
    assert numbers.summary.holes[-1] == (25, 41), "what lies beyond the range does not count"
    assert numbers.covers(10, 15) and not numbers.covers(9, 12) and not numbers.covers(14, 16)
