"""What reports are made of: the numbers of batches."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from appview_pipeline.store import reports
from appview_pipeline.store.sweeps import sweep_to_its_end
from appview_pipeline_tests.support.dagster_events import RELAY, add_batch
from appview_pipeline_tests.support.database import connect


def test_applied_after_sums_by_hour(database_url: str) -> None:
    hour = datetime(2026, 11, 24, 13, tzinfo=timezone.utc)
    like, post = "app.bsky.feed.like", "app.bsky.feed.post"
    with connect(database_url) as connection:
        assert reports.applied_after(connection, 0, RELAY) == []
        assert reports.newest_batch(connection) == 0
        first = add_batch(connection, at=hour, seq=1, events=5)
        add_batch(
            connection,
            at=hour + timedelta(minutes=59, seconds=59),
            seq=6,
            events=7,
            ops={like: {"create": 3, "delete": 1}},
            written={"like": 4},
            rejected=2,
            rejected_by_kind={"cbor": 2},
            ignored={"com.example.a": 4, "com.example.b": 1},
            bytes=5_000_000_000,
        )
        add_batch(connection, at=hour + timedelta(hours=1), seq=13, ops={like: {"create": 1}, post: {"update": 2}})
        add_batch(
            connection, at=hour + timedelta(hours=1, seconds=1), seq=900, source="/tmp/a.zst", written={"like": 9}
        )
        last = add_batch(connection, at=hour + timedelta(hours=1, seconds=2), seq=14, ops={like: {"create": 1}})
        one, two = reports.applied_after(connection, first, RELAY)
        assert (one.hour, one.batches, one.events, one.first_seq, one.last_seq) == (hour, 1, 7, 6, 12)
        assert (one.rejected, one.rejected_by_kind, one.ignored, one.bytes) == (2, {"cbor": 2}, 5, 5_000_000_000)
        assert one.ops == {f"{like} create": 3, f"{like} delete": 1} and one.written == {"like": 4}
        assert (two.batches, two.last_id, two.first_seq, two.last_seq) == (3, last, 13, 14), (
            "the replay's seqs left out"
        )
        assert two.ops == {f"{like} create": 2, f"{post} update": 2} and two.written == {"like": 9}
        assert two.lag_seconds == 2.0
        assert reports.written_between(connection, hour, hour + timedelta(hours=1)) == {"like": 4}
        (bounded,) = reports.applied_after(connection, 0, RELAY, limit=1)
        assert bounded.last_id == first


def test_sweep_keeps_what_is_young(database_url: str) -> None:
    now = datetime.now(timezone.utc)
    with connect(database_url) as connection:
        for days in range(10):
            add_batch(connection, at=now - timedelta(days=days, minutes=1))
        assert sweep_to_its_end(connection, "batches", now - timedelta(days=7)) == 3
        assert sweep_to_its_end(connection, "batches", now - timedelta(days=7)) == 0


def test_sweep_keeps_the_newest_of_a_stream(database_url: str) -> None:
    """It says since when events are missing, however long nothing has come."""
    now = datetime.now(timezone.utc)
    with connect(database_url) as connection:
        for days in (30, 25, 20):
            for source in (RELAY, "wss://other.example", "replay"):
                add_batch(connection, source=source, at=now - timedelta(days=days), seq=40 - days)
        add_batch(connection, source="wss://other.example", at=now, seq=40)
        assert sweep_to_its_end(connection, "batches", now - timedelta(days=7)) == 7
        with connection.cursor() as cursor:
            cursor.execute("SELECT source, last_seq FROM pipeline.batch ORDER BY id")
            kept = cursor.fetchall()
    assert kept == [(RELAY, 10), (RELAY, 20), ("wss://other.example", 40)], "and the first of all"
