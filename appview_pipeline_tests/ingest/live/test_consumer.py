"""The consumer as a process, against a relay and a database: what it applies, when it ends, how it recovers."""

from __future__ import annotations

import re
import signal
import time
from functools import partial
from pathlib import Path

import libipld
import pytest

from appview_pipeline.leases.leased_process import STATUS
from appview_pipeline.store.database import Database
from appview_pipeline.store.gaps import open_gaps_of_streams
from appview_pipeline.store.session_lock import lock_key
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.consumers import Start, cursor, is_past, until, without_cursor
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.tables import Fresh, assert_equal, dump, one, record_keys, replayed_frames, rows


def test_killed_stopped_and_started_again_nothing_is_lost_or_doubled(
    fresh: Fresh, start: Start, tmp_path: Path
) -> None:
    """SIGKILL at four moments, then SIGTERM, then the end of stdin: the tables are those of a replay of it all."""
    frames = list(busy_frames(600))
    with fresh() as want, fresh() as database, Relay(frames[:400]) as relay:
        replayed_frames(want, tmp_path, frames)
        seen = 0
        for more in (0, 17, 33, 50):
            consumer = start(database.url, relay.url, APPVIEW_BATCH_EVENTS="4")
            until(partial(is_past, database, relay.url, seen + more), consumer)
            consumer.end(signal.SIGKILL)
            seen = cursor(database, relay.url) or 0
        assert 0 < seen < 400, "every one was killed while it had work to do"
        asked = [it or 0 for it in relay.cursors]
        assert asked[0] == 0 and asked == sorted(asked)
        consumer = start(database.url, relay.url)
        until(lambda: cursor(database, relay.url) == 400, consumer)
        assert relay.cursors[-1] == seen
        relay.publish(frames[400:500])
        until(lambda: cursor(database, relay.url) == 500, consumer)
        assert consumer.end() < 10 and consumer.code() == 0
        assert "Ended: signal SIGTERM" in consumer.said and "Traceback" not in consumer.said
        relay.publish(frames[500:])
        consumer = start(database.url, relay.url)
        until(lambda: cursor(database, relay.url) == 600, consumer)
        consumer.give_back()
        assert consumer.code(10) == 0
        assert "the lease was given back" in consumer.said
        assert_equal(without_cursor(database), dump(want.url))
        assert one(database.url, "SELECT sum(frames) FROM pipeline.batch") == 600


def test_one_consumer_a_stream_and_none_without_a_lease(database: Database, start: Start) -> None:
    """The second of a stream gives up with code 3; one whose lease lapses ends in time; the first goes on."""
    stream = Stream()
    ann = Person(stream, "ann")
    with Relay([ann.commit(post("a", "x"))]) as relay, Relay() as other:
        first = start(database.url, relay.url)
        until(lambda: record_keys(database) == {"a"}, first)
        forgotten = start(database.url, other.url, APPVIEW_LEASE_SECONDS="3")
        second = start(database.url, relay.url)
        until(lambda: "Subscribing" in forgotten.said, forgotten)
        forgotten.forget()
        began = time.monotonic()
        assert forgotten.code() == 0
        assert 2 < time.monotonic() - began < 10.5
        assert "the lease was not renewed for 3 s" in forgotten.said
        assert second.code() == 3
        assert len(relay.cursors) == 1, "the second never subscribed"
        assert "another consumer is at work" in second.lines[-1] and "Traceback" not in second.said
        relay.publish([ann.commit(post("b", "x"))])
        until(lambda: record_keys(database) == {"a", "b"}, first)
        # The lock of a killed consumer is free at once for one that waits for it.
        waiting = start(database.url, relay.url)
        until(lambda: "waiting for it to end" in waiting.said, waiting)
        first.end(signal.SIGKILL)
        until(lambda: len(relay.cursors) == 2, waiting, 5)
        relay.publish([ann.commit(post("c", "x"))])
        until(lambda: record_keys(database) == {"a", "b", "c"}, waiting)
        assert relay.cursors[-1] == 2
        assert waiting.end(signal.SIGINT) < 10 and waiting.code() == 0


def test_a_batch_that_hangs_does_not_keep_it_from_ending(database: Database, start: Start) -> None:
    rows(
        database.url,
        "CREATE FUNCTION bsky.hang() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$; "
        "CREATE TRIGGER hang BEFORE INSERT ON bsky.post FOR EACH ROW EXECUTE FUNCTION bsky.hang()",
    )
    with Relay([Person(Stream(), "ann").commit(post("a", "x"))]) as relay:
        consumer = start(database.url, relay.url)
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        until(lambda: one(database.url, sleeping) == 1, consumer)
        assert consumer.end() < 10 and consumer.code() == 0
        assert "rolls back" in consumer.said
        assert record_keys(database) == set() and cursor(database, relay.url) is None


def test_a_batch_that_takes_long_is_a_warning_with_its_statement(database: Database, start: Start) -> None:
    """At its own work, and while it waits for somebody's lock."""
    rows(
        database.url,
        "CREATE FUNCTION bsky.dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(1.5); RETURN NEW; END $$; "
        "CREATE TRIGGER dawdle BEFORE INSERT ON bsky.post FOR EACH ROW EXECUTE FUNCTION bsky.dawdle()",
    )
    ann = Person(Stream(), "ann")
    with Relay([ann.commit(post("a", "x"))]) as relay:
        consumer = start(database.url, relay.url, APPVIEW_SLOW_BATCH_SECONDS="0.4")
        until(lambda: record_keys(database) == {"a"}, consumer)
        warnings = [line for line in consumer.lines if "WARNING" in line]
        assert re.search(r"A batch of 1 change has been at work for \d+ s, now at post\.add \(\d+ s\)", warnings[0])
        assert 1 <= len(warnings) <= 3, "not each time that it looks"
        with connect(database.url) as holder:
            holder.cursor().execute("SET application_name = 'somebody'; LOCK TABLE bsky.record")
            relay.publish([ann.commit(post("b", "x"))])
            until(lambda: "waits for a lock of process" in consumer.said, consumer)
        (line,) = [line for line in consumer.lines if "waits for a lock" in line][:1]
        assert "(somebody, idle in transaction)" in line
        until(lambda: record_keys(database) == {"a", "b"}, consumer)
        assert consumer.end() < 10 and consumer.code() == 0


def test_an_error_of_a_batch_is_acted_upon_at_once_on_a_quiet_stream(database: Database, start: Start) -> None:
    """No event comes after the batch that fails, and the next batch may take a minute to fill."""
    rows(
        database.url,
        "CREATE FUNCTION pipeline.steal() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.5); UPDATE pipeline.cursor SET seq = 77; RETURN NEW; END $$; "
        "CREATE TRIGGER steal BEFORE INSERT ON pipeline.batch FOR EACH ROW EXECUTE FUNCTION pipeline.steal()",
    )
    with Relay([]) as relay:
        rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES (%s, 0)", relay.url)
        consumer = start(database.url, relay.url, APPVIEW_BATCH_SECONDS="60", APPVIEW_BATCH_EVENTS="1")
        until(lambda: relay.connections == 1, consumer)
        relay.publish([Person(Stream(), "ann").commit(post("a", "x"))])
        assert consumer.code(15) == 3
        assert "another consumer" in consumer.lines[-1] and record_keys(database) == set()


def test_a_relay_that_is_away_is_one_line_and_waited_for(database: Database, start: Start) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    frames = [ann.commit(post("a", "x"))]
    port = free_port()
    consumer = start(database.url, f"ws://127.0.0.1:{port}")
    until(lambda: "WARNING" in consumer.said, consumer)
    time.sleep(2.5)
    complaints = [line for line in consumer.lines if "WARNING" in line]
    assert 1 <= len(complaints) <= 5, "a line an attempt, and those further and further apart"
    assert all(str(port) in line and "Next attempt in" in line for line in complaints)
    assert "Traceback" not in consumer.said and consumer.process.poll() is None
    with Relay(frames, port=port):
        until(lambda: record_keys(database) == {"a"}, consumer)
        assert f"Connected to ws://127.0.0.1:{port} after cursor 0" in consumer.said
    assert consumer.end() < 10 and consumer.code() == 0
    assert one(database.url, "SELECT count(*) FROM pipeline.gap") == 0


def test_connections_that_are_cut_lose_nothing(database: Database, start: Start, fresh: Fresh, tmp_path: Path) -> None:
    """The writer's: the batch is tried again. The lock's: the consumer ends, for another may be at work."""
    frames = list(busy_frames(150, seed=3))
    terminate = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND {}"
    )
    with Relay(frames[:100]) as relay, fresh() as want:
        locks = (
            "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            f"AND (classid::bigint << 32 | objid::bigint) = {lock_key(f'consumer {relay.url} 0/1')})"
        )
        consumer = start(database.url, relay.url, APPVIEW_BATCH_EVENTS="5")
        until(lambda: (cursor(database, relay.url) or 0) > 5, consumer)
        assert one(database.url, terminate.format(f"NOT {locks}")) >= 1
        relay.disconnect_all()  # the relay's side too
        until(lambda: cursor(database, relay.url) == 100, consumer)
        assert one(database.url, terminate.format(locks)) >= 1
        time.sleep(1.2)
        relay.publish(frames[100:])
        assert consumer.code() == 5
        assert "lock is gone" in consumer.lines[-1] and "another consumer" not in consumer.said
        assert "Traceback" not in consumer.said
        consumer = start(database.url, relay.url)
        until(lambda: cursor(database, relay.url) == 150, consumer)
        consumer.end()
        replayed_frames(want, tmp_path, frames)
        assert_equal(without_cursor(database), dump(want.url))


@pytest.mark.parametrize("cursors", [("0", {"a", "b", "c"}), ("1", {"b", "c"}), ("", {"c"})])
def test_where_a_new_stream_begins(database: Database, start: Start, cursors: tuple[str, set[str]]) -> None:
    given, want = cursors
    ann = Person(Stream(), "ann")
    with Relay([ann.commit(post("a", "x")), ann.commit(post("b", "x"))]) as relay:
        consumer = start(database.url, relay.url, APPVIEW_START_CURSOR=given)
        until(lambda: relay.live == 1, consumer)
        relay.publish([ann.commit(post("c", "x"))])
        until(lambda: "c" in record_keys(database), consumer)
        assert record_keys(database) == want
        assert relay.cursors == [int(given) if given else None]
        assert cursor(database, relay.url) == 3


def test_between_the_streams_of_two_relays_is_a_gap(database: Database, start: Start) -> None:
    """It is noted with the first event of the new one, so that no survey begins before that."""
    stream = Stream()
    ann = Person(stream, "ann")
    with Relay([]) as former, Relay([]) as relay:
        consumer = start(database.url, former.url)
        until(lambda: former.live == 1, consumer)
        former.publish([ann.commit(post("a", "x"))])
        until(lambda: "a" in record_keys(database), consumer)
        consumer.end()
        assert one(database.url, "SELECT count(*) FROM pipeline.gap") == 0, "the first one of all begins where it does"
        consumer = start(database.url, relay.url)
        until(lambda: relay.live == 1, consumer)
        assert one(database.url, "SELECT count(*) FROM pipeline.gap") == 0
        relay.publish([ann.commit(post("b", "x"))])
        until(lambda: "b" in record_keys(database), consumer)
        consumer.end()
        found = rows(database.url, "SELECT kind, relay, shard, from_text, to_text FROM pipeline.gap")
        assert found == [("sequence", relay.url, "0/1", None, None)]
        with database.connect("reader") as connection:
            (gap,) = open_gaps_of_streams(connection)
        assert gap.after is None and gap.from_time is not None, "the other stream's newest event"


def test_what_the_relay_no_longer_has_is_a_gap(database: Database, start: Start) -> None:
    stream = Stream(first_seq=500)
    ann = Person(stream, "ann")
    with Relay([ann.commit(post("a", "x")), b"\x00damaged"]) as relay:
        rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES (%s, 20)", relay.url)
        consumer = start(database.url, relay.url)
        until(lambda: cursor(database, relay.url) == 500, consumer)
        found = rows(database.url, "SELECT kind, relay, from_text, to_text FROM pipeline.gap")
        assert found == [("outdated_cursor", relay.url, "20", "500")]
        until(lambda: one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 1, consumer)
        assert one(database.url, "SELECT source FROM pipeline.dead_letter") == relay.url
        consumer.end()


def test_a_relay_that_starts_its_numbers_again_is_followed(database: Database, start: Start) -> None:
    ann = Person(Stream(), "ann")
    with Relay([ann.commit(post("a", "x"))]) as relay:
        relay.faults.ignore_cursor_rules = True
        rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES (%s, 90000)", relay.url)
        consumer = start(database.url, relay.url)
        until(lambda: relay.live == 1, consumer)
        relay.publish([ann.commit(post("b", "x"))])
        until(lambda: cursor(database, relay.url) == 2, consumer)
        assert "b" in record_keys(database)
        assert one(database.url, "SELECT kind FROM pipeline.gap WHERE relay IS NOT NULL") == "sequence"
        consumer.end()


def numbered(frame: bytes, seq: int) -> bytes:
    """The frame with another sequence number."""
    header, body = libipld.decode_dag_cbor_multi(frame)
    return bytes(libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor({**body, "seq": seq}))


@pytest.mark.parametrize("shard", ["0/1", "1/2"])
def test_an_absurd_number_costs_nothing(database: Database, start: Start, shard: str) -> None:
    """Alone, two in a row, and as the last before the connection ends: the stream is resumed where it was."""
    frames = list(busy_frames(60))
    with Relay(frames[:30]) as relay:
        relay.faults.damage = {
            10: [numbered(frames[9], 2**53 - 1)],
            20: [numbered(frames[19], 2**52)],
            21: [numbered(frames[20], 2**52 + 1)],
            30: [numbered(frames[29], 2**53 - 1)],
        }
        consumer = start(database.url, relay.url, APPVIEW_SHARD=shard)
        find = "SELECT max(seq) FROM pipeline.cursor"
        until(lambda: one(database.url, find) == 29, consumer)
        relay.disconnect_all()
        until(lambda: relay.connections == 2, consumer)
        assert relay.cursors == [0, 29]
        consumer.end(signal.SIGKILL)
        relay.faults.damage = {}
        relay.publish(frames[30:])
        consumer = start(database.url, relay.url, APPVIEW_SHARD=shard)
        until(lambda: one(database.url, find) == 60, consumer)
        assert relay.cursors[2] == 29
        consumer.end()
    assert one(database.url, "SELECT count(*) FROM pipeline.gap WHERE relay IS NOT NULL AND resolved_at IS NULL") == 0
    assert one(database.url, "SELECT sum(doubtful) FROM pipeline.batch") >= 4
    assert one(database.url, "SELECT max(last_seq) FROM pipeline.batch") == 60


def test_numbers_that_the_relay_leaves_out_are_counted_and_many_are_a_gap(database: Database, start: Start) -> None:
    frames = list(busy_frames(300))
    with Relay(frames) as relay:
        relay.faults.damage = {seq: [] for seq in (3, 5, *range(11, 211))}
        consumer = start(database.url, relay.url)
        until(lambda: cursor(database, relay.url) == 300, consumer)
        consumer.end()
        found = rows(
            database.url, "SELECT kind, shard, from_text, to_text FROM pipeline.gap WHERE relay = %s", relay.url
        )
        assert found == [("sequence", "0/1", "10", "211")]
        assert one(database.url, "SELECT sum(skipped) FROM pipeline.batch") == 202
        # Sent after all, they close it.
        relay.faults.damage = {}
        rows(database.url, "UPDATE pipeline.cursor SET seq = 2")
        consumer = start(database.url, relay.url)
        until(lambda: cursor(database, relay.url) == 300, consumer)
        consumer.end()
        assert rows(database.url, "SELECT * FROM pipeline.gap WHERE resolved_at IS NULL") == []


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"APPVIEW_DATABASE_URL": "postgresql://nobody:hush@127.0.0.1:{port}/none"}, "127.0.0.1"),
        ({"APPVIEW_BATCH_EVENTS": "many"}, "APPVIEW_BATCH_EVENTS"),
    ],
)
def test_an_operators_mistake_is_the_last_line_and_code_4(
    database: Database, start: Start, environment: dict[str, str], words: str
) -> None:
    given = {name: text.format(port=free_port()) for name, text in environment.items()}
    consumer = start(database.url, "ws://127.0.0.1:9", **given)
    assert consumer.code() == 4
    last = consumer.lines[-1]
    assert words in last and "hush" not in consumer.said and "Traceback" not in consumer.said
    assert re.fullmatch(r"\S.*[.?]\n", last), "one sentence"


def test_its_lines_say_where_it_is(database: Database, start: Start) -> None:
    """A line at the start, without the password, and JSON where that is asked for."""
    with Relay([Person(Stream(), "ann").commit(post("a", "x"))]) as relay:
        consumer = start(database.url, relay.url, APPVIEW_LOG_FORMAT="json")
        until(lambda: record_keys(database) == {"a"}, consumer)
        consumer.end()
        logged = [line for line in consumer.lines if not line.startswith(STATUS.strip())]  # status is for the sensor
        assert all(line.startswith('{"time"') for line in logged), consumer.said
        assert relay.url in consumer.lines[0] and '"service": "consumer"' in consumer.lines[0]
