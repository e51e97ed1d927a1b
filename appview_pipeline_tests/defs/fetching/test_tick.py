"""Ticks of the fetch sensor: they keep the process, report once what it did and how complete the index is, and say what
is wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from appview_pipeline.backfill.fetch_process import fetch_process
from appview_pipeline.defs.backfill.pool import POOL, know_pool
from appview_pipeline.defs.fetching import sensor as sensor_module
from appview_pipeline.defs.fetching import tick as tick_module
from appview_pipeline.defs.fetching.asset import fetched_records
from appview_pipeline.defs.fetching.sensor import fetch_sensor
from appview_pipeline.defs.fetching.tick import State, parse
from appview_pipeline.defs.leases import leased_tick
from appview_pipeline_tests.support.dagster_events import execute, materialize, reported, switch_off, values
from appview_pipeline_tests.support.database import connect

# Writes two reports at once, then waits for its lease to be closed.
CHILD = """
import os, sys, psycopg2
connection = psycopg2.connect(sys.argv[1])
with connection.cursor() as cursor:
    for n in range(2):
        cursor.execute(
            "INSERT INTO pipeline.fetch_batch (seconds, asked, found, absent, invalid, unreachable, refused, "
            "queued_repositories, asked_by_collection, waiting, oldest_seconds, given_up, signatures_checked, "
            "signatures_bad) VALUES (5, 50, 30, 9, 1, 8, 2, 1, %s, %s, 12.5, 3, 20, 1)",
            ('{"app.bsky.feed.post": 45, "app.bsky.graph.list": 5}', 10 - n),
        )
connection.commit()
print("fetching", flush=True)
while os.read(0, 100): pass
"""
SILENT = "import os\nwhile os.read(0, 100): pass"
QUEUE = "INSERT INTO pipeline.backfill_queue (did, reason, priority) VALUES ('did:plc:{}', 'gap', {})"
DID = "did:plc:" + "a" * 24

Ticks = Callable[..., tuple[dg.SensorResult, dg.DagsterInstance]]


@pytest.fixture
def ticks(index: None, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    """Runs one tick of 1.5 s after the other, with a stand-in for the process."""
    libpq = re.sub(r"^postgresql\+psycopg2", "postgresql", database_url)
    for name, value in {
        "TICK_SECONDS": 1.5,
        "REPORT_SECONDS": 0.8,
        "POLL_SECONDS": 0.05,
        "SETTLED_SECONDS": 0.5,
        "HEALTH_SECONDS": 0.0,
    }.items():
        monkeypatch.setattr(leased_tick, name, value)
    monkeypatch.setattr(tick_module, "EVENTS_SECONDS", 0.0)
    monkeypatch.setattr(sensor_module, "_state", State(fetch_process((sys.executable, "-c", CHILD, libpq))))
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:

        def tick(cursor: str | None = None, tick_id: str = "1", code: str = "") -> Any:
            if code:
                monkeypatch.setattr(sensor_module, "_state", State(fetch_process((sys.executable, "-c", code))))
            context = dg.build_sensor_context(instance, cursor, sensor_name="fetch_sensor")
            context._log_key = ["__repository__", "fetch_sensor", tick_id]
            return fetch_sensor(context), instance

        yield tick
        sensor_module._state.process.stop(1.0)


def evaluation(instance: dg.DagsterInstance, asset: str, check: str) -> dg.AssetCheckEvaluation:
    """The newest evaluation of a check."""
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    (found,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert found.evaluation is not None
    return found.evaluation


def observed(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    found = instance.fetch_observations(dg.AssetKey("repositories"), limit=100).records
    return [values(record.asset_observation.metadata) for record in reversed(found)]  # type: ignore[union-attr]


def test_what_was_fetched_is_reported_once_with_numbers_that_plot(ticks: Ticks) -> None:
    result, instance = ticks('{"report": 0}')
    assert "100 missing records asked for in " in str(result.skip_reason)
    assert "60 found, 18 not there, 18 failed; 9 missing, the oldest for 12 s; 40 signatures checked, 2 bad" in str(
        result.skip_reason
    )
    (event,) = reported(instance, "fetched_records")
    details, collections = event.pop("details"), event.pop("collections")
    assert event == {
        "asked": 100, "found": 60, "not_found": 18, "failed": 18, "queue_length": 9, "queue_age_seconds": 12.5,
        "signatures_checked": 40, "signatures_bad": 2, "success_rate": 0.9762,
    }  # fmt: skip
    assert (details["answers_without_a_valid_proof"], details["not_answered"]) == (2, 16)
    assert [(row.data["collection"], row.data["asked"]) for row in collections.records] == [
        ("app.bsky.feed.post", 90),
        ("app.bsky.graph.list", 10),
    ]
    assert instance.event_log_storage.get_pool_limits() == [], "without a default there is no limit"
    result, instance = ticks(result.cursor)
    assert len(reported(instance, "fetched_records")) == 1 and parse(result.cursor) == 2
    assert sensor_module._state.process.starts == 1, "one process through all ticks"
    assert evaluation(instance, "fetched_records", "fetching").passed


def test_how_complete_the_index_is_is_observed(ticks: Ticks, database_url: str) -> None:
    with connect(database_url) as connection:
        execute(
            connection,
            *(
                f"INSERT INTO pipeline.repo (did, sync_state, active) VALUES ('did:plc:{n}', '{state}', true)"
                for n, state in enumerate(["unknown", "unknown", "synchronized", "desynchronized", "error"])
            ),
            *(QUEUE.format(n, priority) for n, priority in enumerate([3, 2, 2, 1, 0, 0])),
            "INSERT INTO pipeline.gap (kind, did, detected_at) VALUES "
            "('repository', 'did:plc:3', now() - interval '2 h'), ('repository', 'did:plc:4', now() - interval '9 d')",
        )
    _, instance = ticks('{"report": 0}', code=SILENT)
    first = observed(instance)[-1]
    assert {name: first[f"repositories_{name}"] for name in ("unknown", "synchronized", "desynchronized", "error")} == {
        "unknown": 2, "synchronized": 1, "desynchronized": 1, "error": 1,
    }  # fmt: skip
    assert first["queue_asked_for"] == 1 and first["queue_desynchronized"] == 2 and first["queue_rest"] == 2
    assert first["open_gaps"] == 2 and 7_100 < first["oldest_gap_seconds"] < 7_300
    assert "records_per_second" not in first
    with connect(database_url) as connection:
        execute(
            connection,
            "INSERT INTO pipeline.backfill_batch (seconds, repositories, records, bytes, failures) "
            "VALUES (5, 4, 4000, 9000000, '{\"timeout\": 2}')",
        )
    _, instance = ticks(code="")
    last = observed(instance)[-1] if "records_per_second" in observed(instance)[-1] else observed(instance)[-2]
    assert last["records_per_second"] > 100 and last["details"]["fetched_since_last_report"]["records"] == 4_000


def test_switched_off_the_tick_says_so(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPVIEW_SKIP_PDS_FETCHING", "1")
    result, _ = ticks('{"report": 0}')
    assert "APPVIEW_SKIP_PDS_FETCHING is on, so no missing records are fetched; 9 missing" in str(result.skip_reason)


def test_switching_the_sensor_off_ends_the_process(ticks: Ticks) -> None:
    ticks('{"report": 0}')
    assert sensor_module._state.process.pid is not None
    _, instance = ticks()
    switch_off(instance, "fetch_sensor")
    result, _ = ticks(tick_id="2")
    assert "switched off" in str(result.skip_reason) and sensor_module._state.process.pid is None


def test_the_pool_of_backfills_has_its_limit_before_the_first_run() -> None:
    with dg.instance_for_test(
        overrides={"concurrency": {"pools": {"granularity": "run", "default_limit": 2}}}
    ) as instance:
        for _ in range(2):
            know_pool(instance)
        (pool,) = instance.event_log_storage.get_pool_limits()
        assert (pool.name, pool.limit) == (POOL, 2)
        instance.event_log_storage.set_concurrency_slots(POOL, 5)
        know_pool(instance)
        assert [it.limit for it in instance.event_log_storage.get_pool_limits()] == [5], "what a person has set stays"


def test_the_asset_and_its_checks_can_be_run_by_hand(index: None, database_url: str) -> None:
    assert fetched_records
    with connect(database_url) as connection:
        execute(
            connection,
            "INSERT INTO pipeline.pending (uri, kind, missing) SELECT 'at://a/b/' || n, 'quote', 'at://c/d/' || n "
            "FROM generate_series(1, 3) n",
        )
    done = materialize("fetched_records")
    (event,) = done.materializations()
    found = values(event.metadata)
    assert found["queue_length"] == 3 and [dict(row.data) for row in found["missing"].records] == [
        {"what waits": "quote", "missing records": 3}
    ]
    evaluations = {it.check_name: it for it in done.evaluations()}
    assert not evaluations["fetching"].passed and "reported nothing yet" in str(evaluations["fetching"].description)
    assert evaluations["fetches_succeed"].passed
