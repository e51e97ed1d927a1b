"""The writer when things go wrong: refused rows, lost connections, a second consumer; and hostile text."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2 import errors

from appview_pipeline import backoff
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest import transactions as transactions_module
from appview_pipeline.ingest.dead_letters import retry_dead_letters
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.transactions import Transactions
from appview_pipeline.ingest.writer import Position, Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store.apply import apply
from appview_pipeline.store.batch import CursorMoved
from appview_pipeline.store.cursors import cursor_of
from appview_pipeline.store.database import Database
from appview_pipeline.store.session_lock import LockLost, LockTaken
from appview_pipeline.store.staging import copy_rows
from appview_pipeline.store.stream_lock import stream_lock
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, post
from appview_pipeline_tests.support.tables import fresh_database, one, rows

RELAY = "wss://relay.test"


def write(database: Database, frames: Sequence[bytes], position: Position | None = None) -> Writer:
    writer = Writer(database, Settings(database_url=database.url), RELAY, position)
    writer.write(read_changes(frames, record_validators(), IndexedCollections()), time.time())
    return writer


def texts(database: Database) -> list[str]:
    return [text for (text,) in rows(database.url, "SELECT text FROM bsky.post ORDER BY uri")]


def test_a_refused_row_is_found_and_its_neighbours_are_written(database: Database) -> None:
    rows(database.url, "ALTER TABLE bsky.post ADD CHECK (text <> 'refuse me')")
    stream = Stream()
    people = [Person(stream, f"person{number}") for number in range(5)]
    frames = [person.commit(post("a", f"{number}a")) for number, person in enumerate(people)]
    bad = people[2].commit(post("b", "2b"), post("c", "refuse me"), post("d", "2d"))
    frames += [bad, *[person.commit(post("e", f"{number}e")) for number, person in enumerate(people)]]
    position = Position(RELAY, "0/1", None)
    write(database, frames, position)

    assert sorted(texts(database)) == sorted([f"{n}{x}" for n in range(5) for x in "ae"] + ["2b", "2d"])
    ((kind, reason, did, path, kept),) = rows(
        database.url, "SELECT kind, reason, did, path, bytes FROM pipeline.dead_letter"
    )
    assert (kind, did, path) == ("postgres", people[2].did, "app.bsky.feed.post/c")
    assert "post_text_check" in reason and b"refuse me" in bytes(kept)
    assert position.seq == stream.seq
    with database.connect("reader") as connection:
        assert cursor_of(connection, RELAY, "0/1") == stream.seq
    assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg WHERE did = %s', people[2].did) == 4
    # Looking for the row has written nothing.
    assert one(database.url, "SELECT sum(frames) FROM pipeline.batch") == len(frames)


# ---- batches that are cancelled for time


def slow_posts(database: Database, condition: str, seconds: float) -> None:
    """Each insertion of a post for which `condition` holds takes so long."""
    rows(
        database.url,
        "CREATE OR REPLACE FUNCTION bsky.dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF {condition} THEN PERFORM pg_sleep({seconds}); END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER dawdle BEFORE INSERT ON bsky.post FOR EACH ROW EXECUTE FUNCTION bsky.dawdle()",
    )


@pytest.fixture
def hasty(server: Any, template_database: str) -> Iterator[Database]:
    """A database whose writer gives a statement one second."""
    with (
        fresh_database(server, template_database) as made,
        contextlib.closing(Database(made.url, Settings(database_url=made.url, statement_timeout=1.0))) as database,
    ):
        yield database


def test_a_change_that_takes_too_long_is_a_dead_letter_and_the_stream_goes_on(
    hasty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    slow_posts(hasty, "NEW.text = 'slow'", 30)
    stream = Stream()
    people = [Person(stream, f"person{number}") for number in range(5)]
    frames = [person.commit(post("a", f"{number}a")) for number, person in enumerate(people)]
    frames.append(people[2].commit(post("b", "2b"), post("c", "slow"), post("d", "2d")))
    frames += [person.commit(post("e", f"{number}e")) for number, person in enumerate(people)]
    position = Position(RELAY, "0/1", None)
    began = time.monotonic()
    writer = write(hasty, frames, position)

    assert time.monotonic() - began < 15, "a small multiple of the time that one statement has"
    assert sorted(texts(hasty)) == sorted([f"{n}{x}" for n in range(5) for x in "ae"] + ["2b", "2d"])
    ((kind, reason, did, path, form, kept),) = rows(
        hasty.url, "SELECT kind, reason, did, path, form, bytes FROM pipeline.dead_letter"
    )
    assert (kind, did, path, form) == ("time-out", people[2].did, "app.bsky.feed.post/c", "json")
    assert "post.add" in reason and b'"slow"' in bytes(kept)
    assert (position.seq, writer.at_work) == (stream.seq, None)
    with hasty.connect("reader") as connection:
        assert cursor_of(connection, RELAY, "0/1") == stream.seq
    assert one(hasty.url, 'SELECT "postsCount" FROM bsky.profile_agg WHERE did = %s', people[2].did) == 4
    assert one(hasty.url, "SELECT sum(frames) FROM pipeline.batch") == len(frames), "no frame is applied twice"
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert people[2].did in said.getMessage() and "app.bsky.feed.post/c" in said.getMessage()
    gaps = rows(hasty.url, "SELECT kind, did, from_text FROM pipeline.gap WHERE resolved_at IS NULL")
    assert gaps == [("record", people[2].did, "app.bsky.feed.post/c")], "what is missing now is written down"
    # With its cause gone the letter can be retried.
    rows(hasty.url, "DROP TRIGGER dawdle ON bsky.post")
    retried = retry_dead_letters(Settings(database_url=hasty.url), hasty, kind="time-out")
    assert retried.resolved == 1 and "slow" in texts(hasty)


def test_a_deletion_that_takes_too_long_is_a_dead_letter_of_its_commit(hasty: Database) -> None:
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    position = Position(RELAY, "0/1", None)
    write(hasty, [ann.commit(post("a", "clings"))], position)
    slow_posts(hasty, "false", 0)
    rows(
        hasty.url,
        "CREATE OR REPLACE FUNCTION bsky.dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(30); RETURN OLD; END $$; "
        "CREATE TRIGGER cling BEFORE DELETE ON bsky.post FOR EACH ROW EXECUTE FUNCTION bsky.dawdle(); "
        "DROP TRIGGER dawdle ON bsky.post",
    )
    frames = [ann.commit(delete("app.bsky.feed.post/a")), ben.commit(post("b", "b"))]
    write(hasty, frames, position)
    assert sorted(texts(hasty)) == ["b", "clings"]
    assert rows(hasty.url, "SELECT kind, did, form FROM pipeline.dead_letter") == [("time-out", ann.did, "other")]
    assert rows(hasty.url, "SELECT kind, did FROM pipeline.gap") == [("commit", ann.did)]
    assert position.seq == stream.seq


def test_changes_that_only_together_take_too_long_are_written_in_parts(hasty: Database) -> None:
    slow_posts(hasty, "true", 0.15)
    ann = Person(Stream(), "ann")
    position = Position(RELAY, "0/1", None)
    write(hasty, [ann.commit(post(str(number), f"{number:02}")) for number in range(16)], position)
    assert texts(hasty) == [f"{number:02}" for number in sorted(range(16), key=str)]
    assert one(hasty.url, "SELECT count(*) FROM pipeline.dead_letter") == 0
    assert one(hasty.url, "SELECT count(*) FROM pipeline.gap") == 0
    assert position.seq == 16 and one(hasty.url, "SELECT count(*) FROM pipeline.batch") > 1


def test_who_holds_a_lock_turns_nothing_into_a_dead_letter(
    hasty: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A lock held for longer than any limit: the batch waits as a whole, and is written when it is free."""
    waits: list[float] = []

    with connect(hasty.url) as holder:
        holder.cursor().execute("LOCK TABLE bsky.post")

        def wait(self: Transactions, seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 6:
                holder.rollback()

        monkeypatch.setattr(Transactions, "wait", wait)
        ann = Person(Stream(), "ann")
        write(hasty, [ann.commit(post("a", "a")), ann.commit(post("b", "b"))])
    assert len(waits) == 6 and texts(hasty) == ["a", "b"]
    assert one(hasty.url, "SELECT count(*) FROM pipeline.batch") == 1
    assert one(hasty.url, "SELECT count(*) FROM pipeline.dead_letter") == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_nothing_is_given_up_while_postgresql_is_slow_at_everything(
    hasty: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow_posts(hasty, "true", 30)
    rows(
        hasty.url,
        "CREATE FUNCTION pipeline.dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END $$; "
        "CREATE TRIGGER slow BEFORE INSERT ON pipeline.batch FOR EACH ROW EXECUTE FUNCTION pipeline.dawdle()",
    )
    waits: list[float] = []

    def wait(self: Transactions, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 4:
            rows(hasty.url, "DROP TRIGGER dawdle ON bsky.post; DROP TRIGGER slow ON pipeline.batch")

    monkeypatch.setattr(Transactions, "wait", wait)
    write(hasty, [Person(Stream(), "ann").commit(post("a", "a"))])
    assert texts(hasty) == ["a"] and len(waits) == 4
    assert one(hasty.url, "SELECT count(*) FROM pipeline.dead_letter") == 0
    assert any("slow at everything" in record.getMessage() for record in caplog.records)


def test_cancellations_by_others_are_borne_for_a_while(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who cancels is not the data's fault; a limit that we don't know of must not stop the stream."""
    ann = Person(Stream(), "ann")
    left = [backoff.CANCELLATIONS_BY_OTHERS - 1]
    monkeypatch.setattr(Transactions, "wait", lambda self, seconds: None)

    def cancelled(connection: Any, batch: Any, **options: Any) -> Any:
        if batch.rows.get("stage_post") and left[0]:
            left[0] -= 1
            raise errors.QueryCanceled("canceling statement due to user request")
        return apply(connection, batch, **options)

    monkeypatch.setattr(transactions_module, "apply", cancelled)
    write(database, [ann.commit(post("a", "a"))])
    assert texts(database) == ["a"] and left == [0]
    left[0] = 1_000
    write(
        database,
        [
            ann.commit(post("b", "b")),
            ann.commit(create("app.bsky.graph.follow/f", {"subject": "did:web:somebody.test", "createdAt": WHEN})),
        ],
    )
    assert texts(database) == ["a"]
    assert rows(database.url, "SELECT kind, path FROM pipeline.dead_letter") == [("time-out", "app.bsky.feed.post/b")]
    assert one(database.url, "SELECT count(*) FROM bsky.record") == 2


@pytest.mark.parametrize("error", [errors.DeadlockDetected, errors.SerializationFailure, psycopg2.OperationalError])
def test_a_passing_error_is_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    failures = [error("once"), error("twice")]

    def failing(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return apply(*arguments, **options)

    monkeypatch.setattr(transactions_module, "apply", failing)
    writer = write(database, [Person(Stream(), "alice").commit(post("a", "hello"))])
    assert writer.retries == 2 and texts(database) == ["hello"]


def test_a_lost_connection_costs_nothing(database: Database) -> None:
    stream = Stream()
    alice = Person(stream, "alice")
    position = Position(RELAY, "0/1", None)
    writer = write(database, [alice.commit(post("a", "before"))], position)
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND "
    rows(database.url, terminate + "application_name LIKE '%writer'")
    frames = [alice.commit(post("b", "after"))]
    writer.write(read_changes(frames, record_validators(), IndexedCollections()), time.time())
    assert texts(database) == ["before", "after"]
    assert position.seq == stream.seq


def test_of_two_consumers_one_fails_and_has_written_nothing(database: Database) -> None:
    stream = Stream()
    alice = Person(stream, "alice")
    write(database, [alice.commit(post("a", "first"))], Position(RELAY, "0/1", None))
    at = stream.seq
    write(database, [alice.commit(post("b", "second"))], Position(RELAY, "0/1", at))
    with pytest.raises(CursorMoved):
        write(database, [alice.commit(post("c", "third"))], Position(RELAY, "0/1", at))
    assert texts(database) == ["first", "second"]
    with pytest.raises(CursorMoved):
        write(database, [alice.commit(post("d", "fourth"))], Position(RELAY, "0/1", None))
    assert texts(database) == ["first", "second"]


def test_the_streams_lock_has_one_holder(database: Database) -> None:
    with stream_lock(database, RELAY, "0/1"):
        with pytest.raises(LockTaken), stream_lock(database, RELAY, "0/1", patience=0.3):
            pass
        with stream_lock(database, RELAY, "1/2", patience=0.3):
            pass
    with stream_lock(database, RELAY, "0/1", patience=0.3) as lock:
        lock.ensure()
        others = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        rows(database.url, others)
        time.sleep(1.1)
        with pytest.raises(LockLost, match="gone"):
            lock.ensure()


HOSTILE = st.text(
    st.one_of(
        st.sampled_from("\t\n\r\\\0\x01\x02\x7f'\"N.x0$%{}\u202e\u2066\u200b\ufeff\U0001f600"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=20,
)
ROW = st.tuples(
    st.none() | HOSTILE,
    st.none() | HOSTILE | st.just("\\N"),
    st.booleans() | st.none(),
    st.none() | st.binary(max_size=9),
)


@given(st.lists(ROW, min_size=1, max_size=8))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_copy_gives_back_what_it_was_given_but_for_nul(database: Database, given_rows: list[tuple[Any, ...]]) -> None:
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS pg_temp.hostile")
        cursor.execute(
            "CREATE TEMPORARY TABLE hostile (n serial, a text, b text, c boolean, d bytea) ON COMMIT DELETE ROWS"
        )
        copy_rows(cursor, "hostile", ("a", "b", "c", "d"), given_rows)
        cursor.execute("SELECT a, b, c, d FROM pg_temp.hostile ORDER BY n")
        got = [(a, b, c, None if d is None else bytes(d)) for a, b, c, d in cursor.fetchall()]
    assert got == [(a and a.replace("\0", ""), b and b.replace("\0", ""), c, d) for a, b, c, d in given_rows]


def test_hostile_text_goes_all_the_way(database: Database) -> None:
    text = "tab\t nl\n cr\r bs\\ \\N \\\\N \\. 'q' \"d\" {} %s \x01 \u202e\u2066 nul:\0 "
    text += "\U0001f468\u200d\U0001f469 e\u0301 end"
    alice = Person(Stream(), "alice")
    write(database, [alice.commit(post("a", text), post("b", "\\N"), post("c", ""))])
    assert texts(database) == [text.replace("\0", ""), "\\N", ""]
    stored = one(
        database.url, "SELECT json::jsonb ->> 'text' FROM bsky.record WHERE uri = %s", alice.uri("app.bsky.feed.post/a")
    )
    assert stored == text.replace("\0", "")
