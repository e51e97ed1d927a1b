"""Ticks of the identity sensor: they keep the process, report what it resolved once, and say what is wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from appview_pipeline.defs.identity import sensor as sensor_module
from appview_pipeline.defs.identity import tick as tick_module
from appview_pipeline.defs.identity.sensor import identity_sensor
from appview_pipeline.defs.identity.tick import State, parse
from appview_pipeline.defs.leases import leased_tick
from appview_pipeline.identity.identity_process import identity_process
from appview_pipeline_tests.support.dagster_events import add_batch, execute, reported, switch_off
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.waiting import wait_for

# Writes five reports at once, then waits for its lease to be closed.
CHILD = """
import os, sys, psycopg2
connection = psycopg2.connect(sys.argv[1])
with connection.cursor() as cursor:
    for n in range(5):
        cursor.execute(
            "INSERT INTO pipeline.identity_batch (seconds, resolved, failed, verified, not_verified, lookups, hits, "
            "queued, oldest_seconds) VALUES (5, 20, 5, 15, 4, 100, 90, %s, 12.5)", (10 - n,)
        )
connection.commit()
print("resolving", flush=True)
while os.read(0, 100): pass
"""
SILENT = "import os\nwhile os.read(0, 100): pass"

Ticks = Callable[..., tuple[dg.SensorResult, dg.DagsterInstance]]


@pytest.fixture
def ticks(index: None, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    """Runs one tick of 2 s after the other, with a stand-in for the process."""
    libpq = re.sub(r"^postgresql\+psycopg2", "postgresql", database_url)
    for name, value in {
        "TICK_SECONDS": 2.0,
        "REPORT_SECONDS": 1.0,
        "POLL_SECONDS": 0.05,
        "SETTLED_SECONDS": 0.5,
    }.items():
        monkeypatch.setattr(leased_tick, name, value)
    monkeypatch.setattr(leased_tick, "HEALTH_SECONDS", 0.0)
    monkeypatch.setattr(tick_module, "EVENTS_SECONDS", 0.0)
    monkeypatch.setattr(sensor_module, "_state", State(identity_process((sys.executable, "-c", CHILD, libpq))))
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:

        def tick(cursor: str | None = None, tick_id: str = "1", code: str = "") -> Any:
            if code:
                stand_in = State(identity_process((sys.executable, "-c", code)))
                monkeypatch.setattr(sensor_module, "_state", stand_in)
            context = dg.build_sensor_context(instance, cursor, sensor_name="identity_sensor")
            context._log_key = ["__repository__", "identity_sensor", tick_id]
            return identity_sensor(context), instance

        yield tick
        sensor_module._state.process.stop(1.0)


def evaluation(instance: dg.DagsterInstance, check: str) -> dg.AssetCheckEvaluation:
    """The newest evaluation of a check on the accounts."""
    key = dg.AssetCheckKey(dg.AssetKey("actors"), check)
    (found,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert found.evaluation is not None
    return found.evaluation


def test_what_was_resolved_is_reported_once_with_numbers_that_plot(ticks: Ticks, database_url: str) -> None:
    with connect(database_url) as connection:
        add_batch(connection, written={"actor": 3, "like": 5})
        execute(
            connection,
            "INSERT INTO pipeline.upstream (host, breaker, failures, opened, open_until, reason) VALUES "
            "('pds.invalid', 'open', 5, 1, now() + interval '50 s', 'no answer within 15 s'), "
            "('well.invalid', 'closed', 0, 2, NULL, NULL)",
        )
    result, instance = ticks('{"report": 0}')
    assert re.search(r"100 accounts resolved in \d s, 25 attempts without an answer, 6 in", str(result.skip_reason))
    (event,) = reported(instance, "actors")
    details = event.pop("details")
    assert event == {
        "resolved": 100, "not_verified": 20, "queue_length": 6, "queue_age_seconds": 12.5, "breakers_open": 1,
        "rows_in_hour": 3, "success_rate": 0.8, "cache_hit_rate": 0.9,
    }  # fmt: skip
    assert details["upstreams"]["pds.invalid"]["reason"] == "no answer within 15 s"
    assert details["upstreams"]["well.invalid"]["breaker"] == "closed"
    result, instance = ticks(result.cursor)
    assert len(reported(instance, "actors")) == 1 and parse(result.cursor) == 5
    assert sensor_module._state.process.starts == 1, "one process through all ticks"
    assert evaluation(instance, "resolving").passed


def test_a_process_that_dies_again_and_again_fails_a_check(ticks: Ticks) -> None:
    result, instance = ticks(code="print('out of luck'); raise SystemExit(9)")
    last = evaluation(instance, "resolving")
    assert not last.passed and last.severity == dg.AssetCheckSeverity.ERROR
    assert "the identity process crashed (exit code 9)" in str(last.description) and "out of luck" in str(
        last.description
    )
    assert "the identity process crashed" in str(result.skip_reason)


def test_a_second_process_is_told_from_a_mistake(ticks: Ticks) -> None:
    result, _ = ticks(code="raise SystemExit(3)")
    assert "another identity process is at work; waiting for it to end" in str(result.skip_reason)
    result, _ = ticks(code="print('APPVIEW_X is wrong: set it.'); raise SystemExit(4)")
    assert "APPVIEW_X is wrong: set it." in str(result.skip_reason)


def test_preview_and_second_tick_only_look(ticks: Ticks) -> None:
    preview, _ = ticks("{}", tick_id="20261124_140000")
    assert preview.cursor == "{}" and sensor_module._state.process.starts == 0
    with sensor_module._state.working:
        second, _ = ticks("{}")
    assert "a tick is at work, no identity process runs" in str(second.skip_reason)


def test_switching_the_sensor_off_ends_the_process(ticks: Ticks) -> None:
    """In a tick, and between two ticks."""
    _, instance = ticks(code=SILENT)
    process = sensor_module._state.process
    assert process.pid is not None
    switch_off(instance, "identity_sensor")
    wait_for(lambda: process.pid is None and not sensor_module._state.working.locked(), 6)
    result, _ = ticks()
    assert "the sensor is switched off" in str(result.skip_reason) and process.pid is None


def test_a_cursor_that_is_no_cursor_is_a_new_start() -> None:
    assert parse(None) == parse("report 17") == parse("[1]") == parse("17") == parse(json.dumps({"report": "x"})) == -1
    assert parse('{"report": 17}') == 17
