"""Ticks of the label sensor: they keep the process, report each labeler once, and say what is wrong."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from appview_pipeline.defs.labels import sensor as sensor_module
from appview_pipeline.defs.labels import tick as tick_module
from appview_pipeline.defs.labels.partitions import NAME
from appview_pipeline.defs.labels.sensor import label_sensor
from appview_pipeline.defs.labels.tick import State, parse
from appview_pipeline.defs.leases import leased_tick
from appview_pipeline.labels.label_process import label_process
from appview_pipeline_tests.support.dagster_events import switch_off, values
from appview_pipeline_tests.support.labelers import add_labeler
from appview_pipeline_tests.support.tables import rows

A, B = "did:plc:aaaa", "did:plc:bbbb"
# Applies some labels of a labeler once, then waits for its lease to be closed.
CHILD = """
import os, sys, psycopg2
connection = psycopg2.connect(sys.argv[1])
with connection.cursor() as cursor:
    cursor.execute(
        "INSERT INTO pipeline.labeler (did, state, endpoint, cursor, frames, labels, changed, repeated, rejected, "
        "rejected_by_kind, in_effect, last_frame_at, caught_up_at, last_cts) VALUES "
        "('did:plc:aaaa', 'connected', 'wss://a.test', 90, 9, 80, 60, 20, 10, %s, 50, now(), now(), now())",
        ('{"label-signature": 10}',),
    )
    cursor.execute("INSERT INTO pipeline.labeler (did, state, reason) VALUES ('did:plc:bbbb', 'parked', 'no key')")
connection.commit()
print("reading", flush=True)
while os.read(0, 100): pass
"""
FAILING = "import sys; print('the port is wrong: correct it'); sys.exit(4)"

Ticks = Callable[..., tuple[dg.SensorResult, dg.DagsterInstance]]


@pytest.fixture
def ticks(index: None, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    """Runs one tick of 1.2 s after the other, with a stand-in for the process."""
    libpq = re.sub(r"^postgresql\+psycopg2", "postgresql", database_url)
    for name, value in {
        "TICK_SECONDS": 1.2,
        "REPORT_SECONDS": 0.8,
        "POLL_SECONDS": 0.05,
        "SETTLED_SECONDS": 0.5,
        "HEALTH_SECONDS": 0.0,
    }.items():
        monkeypatch.setattr(leased_tick, name, value)
    monkeypatch.setattr(tick_module, "EVENTS_SECONDS", 0.0)
    monkeypatch.setattr(sensor_module, "_state", State(label_process((sys.executable, "-c", CHILD, libpq))))
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:

        def tick(cursor: str | None = None, tick_id: str = "1", code: str = "") -> Any:
            if code:
                monkeypatch.setattr(sensor_module, "_state", State(label_process((sys.executable, "-c", code))))
            context = dg.build_sensor_context(instance, cursor, sensor_name="label_sensor")
            context._log_key = ["__repository__", "label_sensor", tick_id]
            return label_sensor(context), instance

        yield tick
        sensor_module._state.process.stop(1.0)


def evaluation(instance: dg.DagsterInstance, check: str) -> dg.AssetCheckEvaluation:
    """The newest evaluation of a check."""
    key = dg.AssetCheckKey(dg.AssetKey("labels"), check)
    (found,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert found.evaluation is not None
    return found.evaluation


def reported(instance: dg.DagsterInstance) -> list[tuple[str | None, dict[str, Any]]]:
    """The materializations of the asset, with their partitions."""
    found = instance.fetch_materializations(dg.AssetKey("labels"), limit=100).records
    events = [record.asset_materialization for record in reversed(found)]
    return [(event.partition, values(event.metadata)) for event in events if event is not None]


def observed(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """What was said of all labelers together."""
    found = instance.fetch_observations(dg.AssetKey("labels"), limit=100).records
    return [values(it.asset_observation.metadata) for it in reversed(found) if it.asset_observation is not None]


def test_each_labeler_is_reported_once_with_what_came_of_it(ticks: Ticks, database_url: str) -> None:
    result, instance = ticks()
    assert "80 labels in " in str(result.skip_reason) and "60 took effect, 10 rejected" in str(result.skip_reason)
    assert "labelers: 1 connected, 1 parked" in str(result.skip_reason)
    assert sorted(instance.get_dynamic_partitions(NAME)) == [A, B]
    found = dict(reported(instance))
    assert found.keys() == {A, B} and len(reported(instance)) == 2
    numbers = ("labels", "changed", "repeated", "rejected", "labels_in_effect")
    assert [found[A][name] for name in numbers] == [80, 60, 20, 10, 50]
    assert found[B]["state"].endswith("no key")
    together, before = observed(instance)[-1], len(observed(instance))
    assert (together["labelers_connected"], together["labelers_parked"], together["all_in_effect"]) == (1, 1, 50)
    keep_up = evaluation(instance, "labelers_keep_up")
    assert not keep_up.passed and "1 parked: did:plc:bbbb: no key." in str(keep_up.description)
    assert evaluation(instance, "reading_labels").passed

    rows(database_url, "UPDATE pipeline.labeler SET labels = 90, frames = 10, cursor = 95 WHERE did = %s", A)
    rows(database_url, "DELETE FROM pipeline.labeler WHERE did = %s", B)
    result, instance = ticks(result.cursor)
    assert parse(result.cursor) is not None
    (third,) = reported(instance)[2:]
    assert third[0] == A and third[1]["labels"] == 10 and third[1]["rejected"] == 0
    assert sensor_module._state.process.starts == 1, "one process through all ticks"
    assert instance.get_dynamic_partitions(NAME) == [A], "of a labeler that was removed there is no partition"
    assert len(observed(instance)) == before, "a single labeler is not summed up"


def test_a_code_server_that_starts_goes_on_where_the_totals_are(ticks: Ticks, database_url: str) -> None:
    add_labeler(database_url, A, state="connected", labels=500, frames=50)
    _, instance = ticks('{"reported_at": "2026-01-01T00:00:00+00:00"}', code="import os\nwhile os.read(0, 100): pass")
    assert reported(instance) == []
    rows(database_url, "UPDATE pipeline.labeler SET labels = 501, frames = 51")
    _, instance = ticks()
    assert [(did, it["labels"]) for did, it in reported(instance)] == [(A, 1)]


def test_labels_made_here_have_a_partition(ticks: Ticks, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPVIEW_LABELER_DID", "did:web:here.test")
    monkeypatch.setenv("APPVIEW_LABELERS", "none")
    _, instance = ticks()
    assert "did:web:here.test" in instance.get_dynamic_partitions(NAME)
    assert sensor_module._state.process.starts == 1, "they expire, too"
    assert evaluation(instance, "labelers_keep_up").passed


def test_without_labelers_there_is_no_process_and_the_tick_says_so(
    ticks: Ticks, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_labeler(database_url, B, state="parked", reason="it was read before")
    monkeypatch.setenv("APPVIEW_LABELERS", "none")
    for _ in range(2):
        result, instance = ticks()
        assert result.skip_reason is not None and "APPVIEW_LABELERS=none" in str(result.skip_reason.skip_message)
    assert sensor_module._state.process.starts == 0
    assert evaluation(instance, "reading_labels").passed and evaluation(instance, "labelers_keep_up").passed
    assert reported(instance) == []
    key = dg.AssetCheckKey(dg.AssetKey("labels"), "labelers_keep_up")
    assert len(instance.event_log_storage.get_asset_check_execution_history(key, limit=10)) == 1


def test_what_keeps_the_process_from_its_work_is_said(ticks: Ticks, database_url: str) -> None:
    add_labeler(database_url, A, state="connected")
    result, instance = ticks(code=FAILING)
    time.sleep(0.6)
    result, instance = ticks()
    assert "the port is wrong: correct it" in str(result.skip_reason)
    for check in ("reading_labels", "labelers_keep_up"):
        found = evaluation(instance, check)
        assert not found.passed and found.severity == dg.AssetCheckSeverity.ERROR
        assert "the port is wrong: correct it" in str(found.description)


def test_switching_the_sensor_off_ends_the_process(ticks: Ticks) -> None:
    ticks()
    assert sensor_module._state.process.pid is not None
    _, instance = ticks()
    switch_off(instance, "label_sensor")
    result, _ = ticks(tick_id="2")
    assert "switched off" in str(result.skip_reason) and sensor_module._state.process.pid is None


def test_a_preview_only_says_what_goes_on(ticks: Ticks) -> None:
    result, _ = ticks(tick_id="preview")
    assert "no label process runs" in str(result.skip_reason) and "nothing was reported yet" in str(result.skip_reason)
