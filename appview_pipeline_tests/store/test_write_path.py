"""The writer and PostgreSQL: what passes is tried again, and one writer a stream has the cursor."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg2
import pytest

from appview_pipeline import backoff
from appview_pipeline.errors import Stopped
from appview_pipeline.indexing.changes import Change, DeadLetter
from appview_pipeline.ingest import transactions as transactions_module
from appview_pipeline.ingest.transactions import Transactions
from appview_pipeline.ingest.writer import Position, Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store.apply import apply as real_apply
from appview_pipeline.store.batch import CursorMoved, Report
from appview_pipeline.store.cursors import cursor_of
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.session_lock import LockLost, LockTaken
from appview_pipeline.store.stream_lock import stream_lock
from appview_pipeline_tests.support.batches import changes_of, writer_for
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.refusing_table import refuse
from appview_pipeline_tests.support.tables import Fresh, assert_equal, dump, one, record_keys, rows

RELAY = "wss://relay.example"


def test_an_error_of_ours_is_raised_and_nothing_written(database: Database, stream: Stream) -> None:
    refuse(database, "NEW.text = 'b'", "42501")
    ann = Person(stream, "ann")
    position = Position(RELAY, "0/1", None)
    with pytest.raises(DatabaseError) as caught:
        writer_for(database, position).write(changes_of(ann.commit(post("a", "a")), ann.commit(post("b", "b"))), 0.0)
    assert isinstance(caught.value.__cause__, psycopg2.errors.InsufficientPrivilege)
    assert record_keys(database) == set() and position.seq is None
    assert rows(database.url, "SELECT 1 FROM pipeline.cursor") == []


def test_a_writer_that_is_asked_to_stop_does_not_wait_for_the_database(fresh: Fresh, stream: Stream) -> None:
    with fresh() as database:
        refuse(database, "true", "40001")
        stop = threading.Event()
        writer = Writer(database, Settings(database_url=database.url), "test", stopped=stop.is_set)
        threading.Timer(0.7, stop.set).start()
        started = time.monotonic()
        with pytest.raises(Stopped):
            writer.write(changes_of(Person(stream, "ann").commit(post("a", "a"))), time.time())
        assert 0.6 < time.monotonic() - started < 3
        assert writer.retries > 2 and record_keys(database) == set()


def test_the_pauses_between_tries_grow_and_are_bounded(
    database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def wait(self: Transactions, seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 12:
            raise Stopped

    monkeypatch.setattr(Transactions, "wait", wait)
    refuse(database, "true", "40001")
    with pytest.raises(Stopped):
        writer_for(database).write(changes_of(Person(stream, "ann").commit(post("a", "a"))), time.time())
    assert pauses[0] <= 0.05 and 5 <= pauses[-1] <= backoff.batch().longest == 10


def test_of_two_writers_with_one_position_one_writes(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    frames = [ann.commit(post(key, key)) for key in "abcd"]
    for start, mine, other in ((None, frames[0], frames[1]), (1, frames[2], frames[3])):
        first, second = (writer_for(database, Position(RELAY, "0/1", start)) for _ in range(2))
        first.write(changes_of(mine), time.time())
        before = dump(database.url)
        with pytest.raises(CursorMoved):
            second.write(changes_of(other), time.time())
        assert_equal(dump(database.url), before)
        assert second.position is not None and second.position.seq == start
    assert record_keys(database) == {"a", "c"}
    assert one(database.url, "SELECT count(*) FROM pipeline.batch") == 2


def test_writers_at_the_same_time(database: Database, stream: Stream) -> None:
    """Many threads, one position: exactly one of them writes."""
    ann = Person(stream, "ann")
    changes = changes_of(ann.commit(post("a", "a")))
    start, outcomes = threading.Barrier(4), []

    def run() -> None:
        writer = writer_for(database, Position(RELAY, "0/1", None))
        start.wait()
        try:
            writer.write(changes, time.time())
            outcomes.append("wrote")
        except CursorMoved:
            outcomes.append("moved")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["moved", "moved", "moved", "wrote"]
    assert one(database.url, "SELECT count(*) FROM pipeline.batch") == 1


def test_cursors_are_of_a_relay_and_a_shard(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    for relay, shard in ((RELAY, "0/1"), ("wss://other.example", "0/1"), (RELAY, "1/2")):
        writer_for(database, Position(relay, shard, None)).write(
            changes_of(ann.commit(post(relay[6] + shard[0], "x"))), 0.0
        )
    with database.connect("reader") as connection:
        assert cursor_of(connection, RELAY, "0/1") == 1
        assert cursor_of(connection, RELAY, "1/2") == 3
        assert cursor_of(connection, "wss://nobody.example", "0/1") is None


def test_events_sent_twice_do_not_move_the_cursor_back(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    frames = [ann.commit(post(key, key)) for key in "abc"]
    position = Position(RELAY, "0/1", None)
    writer = writer_for(database, position)
    writer.write(changes_of(*frames), time.time())
    writer.write(changes_of(frames[0]), time.time())
    assert position.seq == 3 == one(database.url, "SELECT seq FROM pipeline.cursor")
    writer.write(changes_of(b"unreadable"), time.time())
    assert position.seq == 3


def test_a_batch_whose_commit_is_lost_is_not_written_twice(
    database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after COMMIT took effect: the same batch again finds the cursor moved, and says so."""
    broke: list[bool] = []

    def apply(*args: Any, **named: Any) -> Report:
        report = real_apply(*args, **named)
        if not broke:
            broke.append(True)
            raise psycopg2.OperationalError("server closed the connection unexpectedly")
        return report

    monkeypatch.setattr(transactions_module, "apply", apply)
    ann = Person(stream, "ann")
    with pytest.raises(CursorMoved):
        writer_for(database, Position(RELAY, "0/1", None)).write(changes_of(ann.commit(post("a", "a"))), time.time())
    assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg') == 1


def test_the_streams_lock_is_held_by_one(fresh: Fresh) -> None:
    with fresh() as database:
        with stream_lock(database, RELAY, "0/1") as lock:
            lock.ensure()
            started = time.monotonic()
            with pytest.raises(LockTaken), stream_lock(database, RELAY, "0/1", patience=0.6):
                pass
            assert 0.5 < time.monotonic() - started < 3
            with pytest.raises(LockTaken), stream_lock(database, RELAY, "0/1", stopped=lambda: True):
                pass
            with stream_lock(database, RELAY, "1/2", patience=0), stream_lock(database, "wss://o.example", "0/1"):
                pass
        with stream_lock(database, RELAY, "0/1", patience=0):
            pass


def test_the_streams_lock_is_waited_for_and_noticed_when_it_is_gone(fresh: Fresh) -> None:
    with fresh() as database:
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with stream_lock(database, RELAY, "0/1"):
                entered.set()
                leave.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        assert entered.wait(10)
        threading.Timer(0.6, leave.set).start()
        with stream_lock(database, RELAY, "0/1", patience=10) as lock:
            assert leave.is_set()
            # Whoever kills the session takes the lock from us; the next check says so.
            rows(
                database.url,
                "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
                "WHERE locktype = 'advisory' AND datname = current_database()",
            )
            time.sleep(1.1)
            with pytest.raises(LockLost, match="gone"):
                lock.ensure()
            with stream_lock(database, RELAY, "0/1", patience=0):
                pass
        holder.join(10)


def test_a_change_without_anything_is_only_counted(database: Database) -> None:
    """Frames of unknown types move nothing but the cursor."""
    position = Position(RELAY, "0/1", None)
    letter = DeadLetter("test", "why", None, None, None, b"x" * 100)
    (report,) = writer_for(database, position, dead_letter_bytes=10).write(
        [Change(5, 7), Change(6, None, dead_letters=[letter])], time.time()
    )
    assert (report.frames, report.events, report.rejected, report.bytes) == (2, 0, 1, 11)
    assert position.seq == 7
    kept = rows(database.url, "SELECT bytes, byte_length FROM pipeline.dead_letter")
    assert [(bytes(raw), length) for raw, length in kept] == [(b"x" * 10, 100)]
