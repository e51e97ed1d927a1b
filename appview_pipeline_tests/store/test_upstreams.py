"""What is kept of the identity process: servers that are left alone, and its reports."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from appview_pipeline.store.database import Database
from appview_pipeline.store.identity_reports import (
    IdentityReport,
    accounts_met,
    add_report,
    last_report,
    newest_report,
    reported_after,
)
from appview_pipeline.store.sweeps import sweep_to_its_end
from appview_pipeline.store.upstreams import (
    MAX_ROWS,
    MAX_UPSTREAMS,
    LeftAlone,
    StoredUpstream,
    forget_upstreams,
    left_alone,
    list_upstreams,
    save_upstreams,
)
from appview_pipeline_tests.support.tables import one, rows

NOW = datetime.now(timezone.utc).timestamp()
WELL = StoredUpstream("well.test", "closed", 0, 0, None, None, None)
DOWN = StoredUpstream("down.test", "open", 5, 1, NOW + 86_400, None, "no answer within 15 s")
PARKED = StoredUpstream("parked.test", "closed", 0, 0, None, NOW + 86_400, "it answered 429")


def test_servers_are_kept_while_they_are_left_alone_and_a_day_longer(database: Database) -> None:
    with database.connect("writer") as connection:
        save_upstreams(connection, [WELL, DOWN, PARKED], NOW)
        assert [it.host for it in list_upstreams(connection)] == ["down.test", "parked.test"]
        assert list_upstreams(connection, 1)[0].reason == DOWN.reason and left_alone(connection) == LeftAlone(1, 1)
        back = replace(DOWN, breaker="closed", failures=0, open_until=None)
        save_upstreams(connection, [back], NOW)
        (down,) = (it for it in list_upstreams(connection) if it.host == "down.test")
        assert (down.breaker, down.opened) == ("closed", 1), "one sees that it had opened"
        assert left_alone(connection) == LeftAlone(0, 0), "one that is not known any more is not left alone"
        connection.commit()
    rows(database.url, "UPDATE pipeline.upstream SET updated_at = now() - interval '25 h'")
    with database.connect("writer") as connection:
        save_upstreams(connection, [], NOW)
        assert list_upstreams(connection) == []
        save_upstreams(connection, [DOWN], NOW)
        forget_upstreams(connection)
        assert list_upstreams(connection) == []


def test_rows_that_did_not_change_are_not_written(database: Database) -> None:
    versions = "SELECT array_agg(xmin::text ORDER BY host) FROM pipeline.upstream"
    with database.connect("writer") as connection:
        save_upstreams(connection, [DOWN, PARKED], NOW)
    before = one(database.url, versions)
    with database.connect("writer") as connection:
        save_upstreams(connection, [DOWN, PARKED], NOW)
    assert one(database.url, versions) == before


def test_strangers_can_name_any_number_of_servers(database: Database) -> None:
    many = [replace(PARKED, host=f"{number}.test") for number in range(MAX_UPSTREAMS + 50)]
    with database.connect("writer") as connection:
        save_upstreams(connection, [*many, DOWN], NOW)
        assert one(database.url, "SELECT 1") == 1 and left_alone(connection) == LeftAlone(1, MAX_UPSTREAMS - 1)
    for batch in range(8):
        failing = [replace(WELL, host=f"{batch}-{number}.test", failures=1) for number in range(MAX_UPSTREAMS - 1)]
        with database.connect("writer") as connection:
            save_upstreams(connection, [*failing, DOWN], NOW)
    assert MAX_UPSTREAMS < one(database.url, "SELECT count(*) FROM pipeline.upstream") <= MAX_ROWS + 1
    newest = "SELECT count(*) FROM pipeline.upstream WHERE host = 'down.test' OR host LIKE '7-%'"
    assert one(database.url, newest) == MAX_UPSTREAMS


def test_reports_are_summed_by_hour_and_swept(database: Database) -> None:
    with database.connect("writer") as connection:
        assert (newest_report(connection), last_report(connection)) == (0, None)
        for number in range(4):
            add_report(connection, IdentityReport(5.0, resolved=10, failed=number, queued=number, oldest_seconds=2.5))
    rows(database.url, "UPDATE pipeline.identity_batch SET finished_at = now() - interval '30 h' WHERE id <= 2")
    with database.connect("maintenance") as connection:
        old, new = reported_after(connection, 0)
        assert (old.resolved, old.failed, old.queued, old.last_id) == (20, 1, 1, 2)
        assert (new.resolved, new.failed, new.queued, new.last_id, new.seconds) == (20, 5, 3, 4, 10.0)
        assert reported_after(connection, 4) == [] and reported_after(connection, 3)[0].resolved == 10
        last = last_report(connection)
        assert last is not None and (last.queued, last.oldest_seconds) == (3, 2.5) and last.age_seconds < 60
        assert sweep_to_its_end(connection, "identity batches", datetime.now(timezone.utc) - timedelta(days=1)) == 2
        assert newest_report(connection) == 4


def test_how_many_accounts_of_the_stream_were_known(database: Database) -> None:
    rows(database.url, "INSERT INTO pipeline.batch (source, accounts, unresolved) VALUES ('r', 100, 50)")
    with database.connect("reader") as connection:
        begin = accounts_met(connection, None)
        assert (begin.accounts, begin.batch) == (0, 1)
        rows(
            database.url, "INSERT INTO pipeline.batch (source, accounts, unresolved) VALUES ('r', 40, 3), ('r', 60, 5)"
        )
    with database.connect("reader") as connection:
        met = accounts_met(connection, begin.batch)
        assert (met.accounts, met.unresolved, met.batch) == (100, 8, 3)
        assert accounts_met(connection, met.batch).batch == 3
