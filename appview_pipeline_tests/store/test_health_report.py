"""The health report: each number from rows that are there, and no table read from end to end that may be large."""

from __future__ import annotations

import dataclasses
import threading
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from appview_pipeline import backoff
from appview_pipeline.settings import Settings, load
from appview_pipeline.store import health_report, sync_reports
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.health_report import HealthReport, read_health
from appview_pipeline.store.labelers import LOCK
from appview_pipeline.store.session_lock import session_lock
from appview_pipeline.store.sql import sections
from appview_pipeline.store.stream_lock import stream_lock
from appview_pipeline.store.sync_reports import OpenGaps, repository_states
from appview_pipeline.store.table_sizes import measure_tables
from appview_pipeline_tests.support import explain
from appview_pipeline_tests.support.explain import ExplainingCursor
from appview_pipeline_tests.support.tables import one, rows

RELAY = "wss://relay.example"


def settings_of(database: Database, **changes: Any) -> Settings:
    return dataclasses.replace(load(), database_url=database.url, relay_url=RELAY, **changes)


def read(database: Database, **changes: Any) -> HealthReport:
    with database.connect("health") as connection:
        return read_health(connection, settings_of(database, **changes))


def add_batches(database: Database, *, minutes: tuple[int, int], per_second: float, shard: str = "0/1") -> None:
    """A batch each ten seconds, from so many minutes ago to so many, two seconds behind the relay."""
    rows(
        database.url,
        "INSERT INTO pipeline.batch (source, shard, events, rejected, skipped, bytes, decode_ms, apply_ms, relay_time, "
        "applied_at) SELECT %s, %s, %s, 1, 2, 100, 5, 10, t - interval '2 s', t "
        "FROM generate_series(now() - %s * interval '1 min', now() - %s * interval '1 min', interval '10 s') t",
        *(RELAY, shard, round(10 * per_second), *minutes),
    )


def test_streams_with_their_rates_by_the_relays_clock(database: Database) -> None:
    assert read(database).streams == []
    rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES (%s, 17), ('wss://old.example', 4)", RELAY)
    add_batches(database, minutes=(65, 11), per_second=50)
    add_batches(database, minutes=(9, 0), per_second=20)
    with stream_lock(database, RELAY, "0/1"):
        (stream,) = (found := read(database)).in_use
    assert (stream.relay, stream.seq, stream.is_consumed) == (RELAY, 17, True) and 0 <= stream.idle_seconds < 60
    assert stream.lag_seconds == pytest.approx(2.0)
    assert stream.events_per_second == pytest.approx(20, rel=0.05)
    assert stream.usual_events_per_second == pytest.approx(50, rel=0.05)
    assert stream.rejected_last_hour == stream.batches_last_hour > 300
    assert stream.skipped_last_hour == 2 * stream.batches_last_hour
    assert stream.bytes_last_hour == 100 * stream.batches_last_hour
    assert stream.apply_seconds_last_hour == pytest.approx(stream.batches_last_hour / 100)
    assert stream.decode_seconds_last_hour == pytest.approx(stream.batches_last_hour / 200)
    assert [it.relay for it in found.streams if not it.is_in_use] == ["wss://old.example"]
    assert not read(database).in_use[0].is_consumed, "nobody holds the lock any more"


def test_catching_up_is_no_higher_rate(database: Database) -> None:
    """Sixty batches of ten minutes each are applied within a minute: the network sent no more because of that."""
    rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES (%s, 17)", RELAY)
    rows(
        database.url,
        "INSERT INTO pipeline.batch (source, events, relay_time, applied_at) SELECT %s, 6000, "
        "now() - (60 - n) * interval '10 min', now() - (60 - n) * interval '1 s' FROM generate_series(1, 60) n",
        RELAY,
    )
    (stream,) = read(database).in_use
    assert stream.events_per_second == pytest.approx(10, rel=0.05) and stream.usual_events_per_second is None


def test_what_is_missing_and_what_waits(database: Database) -> None:
    url = database.url
    rows(
        url,
        "INSERT INTO pipeline.repo (did, sync_state, active) VALUES ('did:plc:a', 'synchronized', true), "
        "('did:plc:b', 'desynchronized', true), ('did:plc:c', 'error', true)",
    )
    rows(
        url,
        "INSERT INTO pipeline.gap (kind, did, detected_at) VALUES ('repository', 'did:plc:b', now() - interval '2 h'), "
        "('chain', 'did:plc:b', now() - interval '1 h'), ('chain', 'did:plc:c', now() - interval '3 d')",
    )
    rows(
        url,
        "INSERT INTO pipeline.pending (uri, kind, missing, not_before) VALUES "
        "('at://a/x/1', 'reply', 'at://b/x/1', now() - interval '10 min'), "
        "('at://a/x/2', 'reply', 'at://b/x/2', now() + interval '1 h'), ('at://a/x/3', 'reply', 'at://b/x/3', NULL)",
    )
    rows(
        url,
        "INSERT INTO pipeline.dead_letter (fingerprint, source, kind, reason, first_seen) VALUES "
        "('\\x01', 'r', 'lexicon', 'x', now()), ('\\x02', 'r', 'lexicon', 'x', now() - interval '2 h')",
    )
    rows(url, "INSERT INTO pipeline.dead_letter_overflow VALUES ('lexicon', date_trunc('minute', now()), 41)")
    found = read(database)
    assert (found.repositories.total, found.repositories.incomplete) == (3, 2)
    assert found.repositories.by_state == {"synchronized": 1, "desynchronized": 1, "error": 1}
    assert {kind: it.count for kind, it in found.gaps.items()} == {"chain": 2, "repository": 1}
    assert found.gaps["chain"].oldest_seconds == pytest.approx(259_200, abs=60)
    assert isinstance(found.open_gaps, OpenGaps) and (found.open_gaps.count, found.open_gaps.workable) == (3, 2)
    assert found.pending.due == 1 and found.pending.oldest_due_seconds == pytest.approx(600, abs=60)
    assert found.dead_letters_last_hour == {"lexicon": 42}


def test_the_queue_of_repositories_without_those_of_parked_hosts(database: Database) -> None:
    url = database.url
    rows(
        url,
        "INSERT INTO pipeline.pds_host (host, accounts, parked_until, reason) VALUES "
        "('https://good', 900, NULL, NULL), ('https://open', 10, NULL, NULL), "
        "('https://parked', 90, now() + interval '1 h', 'it asked for a pause')",
    )
    rows(
        url,
        "INSERT INTO pipeline.upstream (host, breaker, open_until, reason) VALUES "
        "('open', 'open', now() + interval '1 min', 'it failed'), ('good', 'open', now() - interval '1 min', 'before')",
    )
    queued = (
        "INSERT INTO pipeline.backfill_queue (did, reason, priority, host, not_before) VALUES (%s, 'gap', %s, %s, %s)"
    )
    now = datetime.now(timezone.utc)
    for did, priority, host, minutes in (
        ("did:plc:a", 2, "https://parked", 500), ("did:plc:b", 2, "https://good", 30), ("did:plc:c", 3, "", 20),
        ("did:plc:d", 0, "https://parked", 900), ("did:plc:e", 0, "https://good", 60), ("did:plc:f", 1, "", -60),
    ):  # fmt: skip
        rows(url, queued, did, priority, host, now - timedelta(minutes=minutes))
    rows(
        url,
        "INSERT INTO pipeline.backfill_batch (seconds, repositories, records, bytes, failed) VALUES (5, 4, 9, 7, 1)",
    )
    found = read(database)
    assert found.queue.oldest_urgent_seconds == pytest.approx(1_800, abs=60)
    assert found.queue.oldest_other_seconds == pytest.approx(3_600, abs=60)
    assert (found.queue.state.urgent, found.queue.state.waiting[0]) == (3, 2)
    done = found.backfill
    assert (done.repositories, done.records, done.bytes, done.failed, done.seconds) == (4, 9, 7, 1, 21_600.0)
    assert done.last_seconds is not None and done.last_seconds < 60
    hosts = found.hosts
    assert (hosts.hosts, hosts.accounts, hosts.paused, hosts.paused_accounts) == (3, 1_000, 2, 100)
    assert hosts.largest == {"https://parked": "it asked for a pause", "https://open": "it failed"}
    assert hosts.paused_share == 0.1 and found.left_alone.open == 2


def test_a_large_host_that_is_parked_does_not_hide_what_waits_at_others(database: Database) -> None:
    """The first rows of each part of the queue are its."""
    rows(
        database.url,
        "INSERT INTO pipeline.pds_host (host, accounts, parked_until) VALUES "
        "('https://a', 9000, now() + interval '1 h'), ('https://z', 100, NULL)",
    )
    rows(
        database.url,
        "INSERT INTO pipeline.backfill_queue (did, reason, priority, host, not_before) "
        "SELECT 'did:plc:' || n, 'listed', n / 4001, CASE WHEN n > 4000 THEN 'https://z' ELSE 'https://a' END, "
        "now() - interval '1 h' FROM generate_series(1, 4001) n",
    )
    assert read(database).queue.oldest_other_seconds == pytest.approx(3_600, abs=60)
    rows(database.url, "UPDATE pipeline.backfill_queue SET not_before = now() + interval '1 h' WHERE priority = 1")
    assert read(database).queue.oldest_other_seconds is None


def test_growth_and_how_long_the_disk_lasts(database: Database) -> None:
    first = read(database).disk
    assert first.bytes > 1_000_000 and first.growth is None and first.days_left is None
    assert first.volume_bytes is not None and first.free_bytes is not None, "this server is reached by a socket"
    with database.connect("maintenance") as connection:
        measured = measure_tables(connection)
        again = measure_tables(connection)
        assert {it.name for it in again} == {it.name for it in measured}
    assert measured[0].bytes >= measured[-1].bytes and {"bsky.record", "pipeline.repo"} <= {it.name for it in measured}
    assert len(again) == one(database.url, "SELECT count(*) FROM pipeline.table_size"), "an hour is measured once"
    total = sum(it.bytes for it in again)
    for hours, less in ((30, 200_000), (2, 100), (100, 300_000)):
        rows(
            database.url,
            "INSERT INTO pipeline.table_size (hour, table_name, bytes, row_estimate) "
            "VALUES (date_trunc('hour', now(), 'UTC') - %s * interval '1 h', 'bsky.record', %s, 1)",
            hours,
            total - less,
        )
    found = read(database, disk_bytes=first.bytes + 1_600_000)
    assert found.disk.volume_bytes == first.bytes + 1_600_000
    assert found.disk.growth == pytest.approx(160_000) and found.disk.growth_seconds == 30 * 3_600
    assert found.disk.days_left is not None and 8 < found.disk.days_left < 10.1
    assert found.tables["bsky.record"].bytes == next(it.bytes for it in again if it.name == "bsky.record")


def test_the_server_itself(database: Database) -> None:
    inside, done = threading.Event(), threading.Event()

    def transaction() -> None:
        with database.dedicated("writer") as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT txid_current()")
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=transaction)
    thread.start()
    try:
        assert inside.wait(30)
        with session_lock(database, LOCK, taken="it is taken"):
            found = read(database)
    finally:
        done.set()
        thread.join()
    server = found.server
    assert server.oldest_transaction_seconds is not None and server.oldest_transaction_seconds >= 0
    assert "appview-pipeline writer, idle in transaction" in str(server.oldest_transaction)
    assert 0 < server.connections < server.max_connections and server.transaction_id_age > 0
    assert server.started_at is not None and server.version and found.is_reading_labels
    assert found.schema_version == one_version(database)
    assert read(database).server.oldest_transaction_seconds is None


def test_connections_are_counted_without_a_privilege(database: Database) -> None:
    """A role that is no superuser does not see of what type the sessions of others are."""
    rows(database.url, "CREATE ROLE without_privileges")
    try:
        with database.dedicated("writer"), database.dedicated("health") as connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE without_privileges")
            cursor.execute(sections("report/health.sql")["server"])
            assert cursor.fetchall()[0][2] >= 2, "these two"
    finally:
        rows(database.url, "DROP ROLE without_privileges")


def test_a_database_that_answers_each_question_slowly_does_not_take_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "HEALTH_READ_SECONDS", 0.0)
    with pytest.raises(DatabaseError, match="has not answered all questions within 0 s"):
        read(database)


def test_after_a_crash_nothing_is_taken_for_empty_or_counted_row_by_row(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL forgets its statistics when it crashes, is restored, or when a standby takes over."""
    rows(database.url, FILL[0])
    rows(database.url, FILL[3])
    rows(database.url, "ANALYZE")
    rows(database.url, "SELECT pg_stat_reset()")
    monkeypatch.setattr(sync_reports, "COUNTED_ROWS", 1_000)
    with database.connect("health") as connection:
        assert repository_states(connection).is_estimate, "a count would read the whole table"
    found = read(database)
    assert found.repositories.total == found.tables["pipeline.repo"].rows == found.pending.rows == 20_000
    assert found.repositories.by_state == {"synchronized": 19_800, "desynchronized": 200}


def one_version(database: Database) -> str:
    ((version,),) = rows(database.url, "SELECT version_num FROM pipeline.schema_version")
    return str(version)


FILL = (
    "INSERT INTO pipeline.repo (did, sync_state, active) SELECT 'did:plc:' || n, CASE WHEN n % 100 = 0 THEN "
    "'desynchronized' ELSE 'synchronized' END, true FROM generate_series(1, 20000) n",
    "INSERT INTO pipeline.identity (did, next_check_at) SELECT 'did:plc:' || n, now() + interval '1 h' "
    "FROM generate_series(1, 20000) n",
    "UPDATE pipeline.identity SET queue = 'retry', wanted_at = now() - interval '1 h' WHERE did LIKE '%7'",
    "INSERT INTO pipeline.pending (uri, kind, missing, not_before) SELECT 'at://did:plc:' || n || '/x/y', 'reply', "
    "'at://m/' || n, CASE WHEN n % 9 = 0 THEN now() END FROM generate_series(1, 20000) n",
    "INSERT INTO pipeline.gap (kind, did, resolved_at) SELECT 'repository', 'did:plc:' || n, CASE WHEN n % 50 > 0 THEN "
    "now() END FROM generate_series(1, 20000) n",
    "INSERT INTO pipeline.backfill_queue (did, reason, priority, host, finished_at) SELECT 'did:plc:' || n, 'listed', "
    "CASE WHEN n % 40 = 0 THEN 2 ELSE 0 END, 'https://h' || n % 20, CASE WHEN n % 3 > 0 THEN now() END "
    "FROM generate_series(1, 20000) n",
    "INSERT INTO pipeline.dead_letter (fingerprint, source, kind, reason, first_seen) SELECT int4send(n), 'r', "
    "'lexicon', 'x', now() - n * interval '1 min' FROM generate_series(1, 20000) n",
    "INSERT INTO pipeline.batch (source, relay_time, applied_at) SELECT 'wss://relay.example', t, t "
    "FROM (SELECT now() - n * interval '10 s' AS t FROM generate_series(1, 20000) n) made",
    "INSERT INTO pipeline.cursor (relay, seq) VALUES ('wss://relay.example', 1)",
    "ANALYZE",
)
FILLED = {"repo", "identity", "pending", "gap", "backfill_queue", "dead_letter", "batch"}


def test_no_large_table_is_read_from_end_to_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for statement in FILL:
        rows(database.url, statement)
    monkeypatch.setattr(ExplainingCursor, "found", set())
    monkeypatch.setattr(ExplainingCursor, "names", set())
    monkeypatch.setattr(explain, "whole_tables", explain.sequential_scans)
    monkeypatch.setattr(health_report, "MAX_COUNTED", 500)
    monkeypatch.setattr(sync_reports, "COUNTED_ROWS", 1_000)
    with database.dedicated("health") as connection:
        connection.cursor_factory = ExplainingCursor
        found = read_health(connection, settings_of(database))
    assert found.repositories.incomplete == 200 and len(ExplainingCursor.names) > 15
    assert {it for it in ExplainingCursor.found if it[1] in FILLED} == set()
