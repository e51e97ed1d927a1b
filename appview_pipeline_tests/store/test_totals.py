"""Totals never go back: not when reports are counted, not when they are swept, and not beside transactions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest

from appview_pipeline.store import totals
from appview_pipeline.store.database import Database
from appview_pipeline.store.sweeps import sweep_to_its_end
from appview_pipeline.store.totals import COUNTED_AT_ONCE, Totals, count_reports, read_totals, seconds_behind
from appview_pipeline_tests.support.database import connect, run

RELAY = "wss://relay.example"
BATCHES = f"""
INSERT INTO pipeline.batch (source, shard, frames, events, bytes, decode_ms, apply_ms, ops, written, rejected_by_kind,
    ignored, applied_at)
SELECT '{RELAY}', '0/1', 11, 10, 1000, 20, CASE WHEN n % 10 = 0 THEN 300 ELSE 30 END,
    '{{"a.b.c": {{"create": 3, "delete": 1}}}}', '{{"like": 2}}', '{{"lexicon": 1}}', '{{"x.y.z": 2}}',
    now() - n * interval '10 minutes'
FROM generate_series(1, 100) n"""
"""A batch each 10 minutes, the newest one 10 minutes ago."""
OTHERS = """
INSERT INTO pipeline.batch (source, rejected_by_kind, applied_at)
VALUES ('replay:a.zst', '{"lexicon": 5}', now() - interval '2 hours'), ('backfill', '{"lexicon": 2}', now());
INSERT INTO pipeline.identity_batch (seconds, resolved, failed, verified, finished_at)
VALUES (1, 7, 2, 5, now() - interval '1 hour'), (1, 3, 0, 0, now());
INSERT INTO pipeline.fetch_batch (seconds, asked, found, absent, signatures_checked, signatures_bad, finished_at)
VALUES (1, 5, 3, 2, 9, 1, now() - interval '1 hour');
INSERT INTO pipeline.backfill_batch (seconds, repositories, created, bytes, failures, ended_at)
VALUES (1, 4, 40, 400, '{"unreachable": 3}', now() - interval '1 hour')"""

SWEEPS = ("batches", "identity batches", "fetch batches", "backfill batches")


def read(database: Database) -> Totals:
    with database.connect("reader") as connection:
        return read_totals(connection)


def count(database: Database) -> None:
    with database.connect("maintenance") as connection:
        count_reports(connection)


def test_totals_are_those_of_all_reports_whatever_was_counted_and_swept(database: Database) -> None:
    assert read(database) == {}
    run(database.url, BATCHES)
    run(database.url, OTHERS)
    before = read(database)
    assert before["stream_events"] == {(RELAY, "0/1"): 1_000}
    assert before["operations"] == {("stream", "a.b.c", "create"): 300, ("stream", "a.b.c", "delete"): 100}
    assert before["rejected"] == {("stream", "lexicon"): 100, ("replay", "lexicon"): 5, ("backfill", "lexicon"): 2}
    assert before["rows_written"] == {("stream", "like"): 200}
    assert before["ignored_operations"] == {("stream",): 200}
    assert before["stream_apply_bucket"][RELAY, "0/1", "0.05"] == 90
    assert before["stream_apply_bucket"][RELAY, "0/1", "0.5"] == before["stream_batches"][RELAY, "0/1"] == 100
    assert before["stream_apply_seconds"][RELAY, "0/1"] == pytest.approx(90 * 0.03 + 10 * 0.3)
    assert before["identity_resolutions"] == {("answered",): 10, ("failed",): 2}
    assert before["fetch_records"][("found",)] == 3
    assert before["fetch_signatures"] == {("good",): 8, ("bad",): 1}
    assert before["backfill_failures"] == {("unreachable",): 3}

    with database.connect("maintenance") as connection:
        assert 59_000 < seconds_behind(connection) < 62_000
    count(database)
    assert read(database) == before
    with database.connect("maintenance") as connection:
        assert 0 <= seconds_behind(connection) < 600
        tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
        assert sum(sweep_to_its_end(connection, name, tomorrow) for name in SWEEPS) > 100
    swept = read(database)
    assert swept == before, "what was counted is kept, and what was not is not swept"
    run(database.url, BATCHES)  # older than what is counted already: of a clock that was wrong
    count(database)
    later = read(database)
    assert all(value <= later[name][labels] for name, found in swept.items() for labels, value in found.items())


def test_a_report_of_a_transaction_that_goes_on_is_counted_when_it_comes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "MARGIN_SECONDS", 0.0)
    run(database.url, BATCHES)
    with connect(database.url) as slow, slow.cursor() as cursor:
        cursor.execute(f"INSERT INTO pipeline.batch (source, events) VALUES ('{RELAY}', 10)")
        count(database)
        slow.commit()
    count(database)
    assert read(database)["stream_events"] == {(RELAY, "0/1"): 1_010}


def test_collections_that_anybody_invents_are_counted_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "MAX_COLLECTIONS", 5)

    def arrive(first: int, last: int, minutes: int) -> None:
        run(
            database.url,
            f"""
            INSERT INTO pipeline.batch (source, ops, applied_at)
            SELECT '{RELAY}', jsonb_build_object('z.' || n, '{{"create": 1}}'::jsonb),
                now() - {minutes} * interval '1 min'
            FROM generate_series({first}, {last}) n
            ORDER BY n""",
        )

    def collections() -> dict[str, float]:
        return {collection: value for (_, collection, _), value in read(database)["operations"].items()}

    arrive(6, 8, 9)
    arrive(1, 5, 8)
    first = {"z.6": 1, "z.7": 1, "z.8": 1, "z.1": 1, "z.2": 1, "(others)": 3}
    assert collections() == first
    count(database)
    assert collections() == first
    arrive(1, 20, 0)
    second = {**dict.fromkeys(first, 2), "(others)": 18}
    assert collections() == second
    monkeypatch.setattr(totals, "MARGIN_SECONDS", 0.0)
    count(database)
    assert collections() == second


def test_counting_goes_on_in_parts_beside_those_who_read_and_count(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COUNTED_AT_ONCE > 1_000
    monkeypatch.setattr(totals, "COUNTED_AT_ONCE", 7)
    run(database.url, BATCHES)
    expected = read(database)
    with ThreadPoolExecutor(2) as threads:
        counting = [threads.submit(count, database) for _ in range(2)]
        while not all(it.done() for it in counting):
            assert read(database) == expected
        for it in counting:
            it.result()
    assert read(database) == expected
