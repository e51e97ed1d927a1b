"""Ticks of the firehose sensor: what they report, and when they end."""

from __future__ import annotations

import dataclasses
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from appview_pipeline import settings
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.firehose import sensor as sensor_module
from appview_pipeline.defs.firehose.tick import Reported, State
from appview_pipeline.defs.leases import leased_tick, stopping
from appview_pipeline.defs.leases.code_server import code_server
from appview_pipeline.defs.tables.partitions import key_of
from appview_pipeline.ingest.live.consumer_process import consumer_process
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.support.code_server import Servicer
from appview_pipeline_tests.support.dagster_events import add_batch, reported
from appview_pipeline_tests.support.database import connect


def test_ticks_report_every_batch_once(ticks: Callable[..., Any], database_url: str) -> None:
    with connect(database_url) as connection:
        add_batch(connection, events=1_000_000)  # before our time: not ours to report
        result, instance = ticks(str(Reported(1, 1)))
        assert "(70 in" in str(result.skip_reason)
        add_batch(connection, seq=71, events=3, written={"like": 1})
        result, instance = ticks(result.cursor)
        result, instance = ticks(result.cursor)
    assert sum(report["events"] for report in reported(instance, "firehose")) == 73
    assert reported(instance, "firehose")[-1]["details"]["last_seq"] == 73
    assert [report["rows_last_minute"] for report in reported(instance, "likes")] == [70, 1]
    assert reported(instance, "likes")[-1]["rows_in_hour"] == 71
    assert sum(report["rows_last_minute"] for report in reported(instance, "record")) == 70
    assert reported(instance, "posts") == [{"rows_in_hour": 0, "rows_last_minute": 0}], "once an hour, come what may"
    assert Reported.parse(result.cursor) == Reported(12, 12, 73)
    assert reported(instance, "actors") == [], "the identity sensor's"
    assert sensor_module._state.process.starts == 1, "one consumer through all ticks"


def test_a_tick_whose_cursor_was_lost_is_not_reported_again(ticks: Callable[..., Any]) -> None:
    first, instance = ticks(str(Reported(0, 0)))
    ticks(str(Reported(0, 0)))
    assert sum(report["events"] for report in reported(instance, "firehose")) == 70
    assert Reported.parse(first.cursor).batch == 10


def evaluations(instance: dg.DagsterInstance, check: str) -> list[dg.AssetCheckEvaluation]:
    """The evaluations of a check on the firehose, oldest first."""
    key = dg.AssetCheckKey(dg.AssetKey("firehose"), check)
    found = instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    return [it.evaluation for it in reversed(found) if it.evaluation is not None]


def test_the_plots_are_few_and_everything_is_in_sync(ticks: Callable[..., Any], database_url: str) -> None:
    _, instance = ticks(str(Reported(0, 0)))
    with connect(database_url) as connection:
        add_batch(connection, seq=71, events=3, written={"record": 1}, ops={"com.example.a": {"create": 1}})
    ticks(None)
    graph = defs.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    # Runs materialize these, and the sensors of identities, of fetching and of labels.
    others = {
        dg.AssetKey(name)
        for name in (
            *("dead_letters", "actors", "fetched_records", "repositories", "network_listing", "labels"),
            *("database", "dagster"),
        )
    }
    for key in sorted(graph.materializable_asset_keys - others):
        name = key.to_user_string()
        events = reported(instance, name)
        plotted = {label for event in events for label, value in event.items() if isinstance(value, int | float)}
        assert events and len(plotted) <= 8, name
        partition = None if name == "firehose" else key_of(datetime.now(timezone.utc).replace(minute=0))
        assert resolver.get_stale_causes(key, partition) == [], name
        assert resolver.get_status(key, partition) == StaleStatus.FRESH, name
    assert reported(instance, "firehose")[0].keys() == {
        "events_per_second", "events", "rejected", "stale", "skipped_numbers", "decode_ms_per_batch",
        "apply_ms_per_batch", "lag_seconds", "details",
    }  # fmt: skip


def test_a_relay_that_refuses_fails_a_check_in_words(
    ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    """The real consumer, and no relay at its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("APPVIEW_RELAY_URL", f"ws://127.0.0.1:{port}")
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database_url)
    monkeypatch.setattr(leased_tick, "TICK_SECONDS", 6.0)
    state = State(consumer_process())
    monkeypatch.setattr(sensor_module, "_state", state)
    try:
        result, instance = ticks(None)
        for _ in range(20):  # until it has tried: the first ticks may only see it start
            if not (last := evaluations(instance, "connected")[-1]).passed:
                break
            result, instance = ticks(None)
        remedy = f"127.0.0.1:{port} refuses the connection: check APPVIEW_RELAY_URL and that the server runs."
        assert not last.passed and last.severity == dg.AssetCheckSeverity.ERROR and last.description == remedy
        assert remedy in str(result.skip_reason)
        with Relay([], port=port):
            for _ in range(10):  # the pauses between its attempts have grown
                if not evaluations(instance, "connected")[-1].passed:
                    ticks(None)
            assert evaluations(instance, "connected")[-1].passed
    finally:
        state.process.stop(1.0)


def test_a_consumer_that_dies_again_and_again_fails_the_check(
    ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mortal = consumer_process(command=(sys.executable, "-c", "print('out of luck'); raise SystemExit(9)"))
    monkeypatch.setattr(sensor_module, "_state", State(mortal))
    result, instance = ticks(None)
    last = evaluations(instance, "connected")[-1]
    words = last.description or ""
    assert not last.passed and "the consumer crashed (exit code 9)" in words and "out of luck" in words
    assert "the consumer crashed" in str(result.skip_reason)


def test_a_cursor_that_is_no_cursor_is_a_new_start() -> None:
    assert (
        Reported.parse(None) == Reported.parse("seq 17") == Reported.parse("[1]") == Reported.parse("17") == Reported()
    )


def test_preview_and_second_tick_only_look(ticks: Callable[..., Any]) -> None:
    preview, _ = ticks("{}", tick_id="20261124_140000")
    assert preview.cursor == "{}" and sensor_module._state.process.starts == 0
    with sensor_module._state.working:
        second, _ = ticks("{}")
    assert "a tick is at work" in str(second.skip_reason) and second.cursor == "{}"
    assert sensor_module._state.process.starts == 0


def test_trouble_is_one_line_and_soon(ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leased_tick, "TICK_SECONDS", 30.0)
    consumer = consumer_process(command=(sys.executable, "-c", "print('set APPVIEW_X'); raise SystemExit(4)"))
    monkeypatch.setattr(sensor_module, "_state", State(consumer))
    started = time.monotonic()
    result, _ = ticks(None)
    assert time.monotonic() - started < 10
    assert "set APPVIEW_X" in str(result.skip_reason)


def test_no_database_is_one_line_and_no_consumer(ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leased_tick, "TICK_SECONDS", 30.0)
    nowhere = dataclasses.replace(settings.load(), database_url="postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(settings, "load", lambda: nowhere)
    database_module.reopen()
    started = time.monotonic()
    result, _ = ticks(None)
    assert time.monotonic() - started < 10
    assert "127.0.0.1" in str(result.skip_reason) and "Traceback" not in str(result.skip_reason)
    time.sleep(leased_tick.SETTLED_SECONDS)
    result, instance = ticks(None)
    last = evaluations(instance, "connected")[-1]
    assert not last.passed and last.description == result.skip_reason.skip_message
    assert sensor_module._state.process.starts == 0


def test_a_setting_that_makes_no_sense_is_one_line(ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPVIEW_BATCH_EVENTS", "many")
    result, _ = ticks(None)
    assert "APPVIEW_BATCH_EVENTS" in str(result.skip_reason)


def test_a_stopping_code_server_ends_tick_and_consumer(
    ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leased_tick, "TICK_SECONDS", 30.0)
    servicer = Servicer()
    monkeypatch.setattr(stopping, "_call_of_tick", lambda: (None, code_server(servicer)))
    threading.Timer(1.5, servicer._shutdown_once_executions_finish_event.set).start()
    started = time.monotonic()
    result, _ = ticks(None)
    assert time.monotonic() - started < 6
    assert "code server is stopping" in str(result.skip_reason)
    assert sensor_module._state.process.pid is None


class Call:
    """A gRPC call as a tick sees it."""

    def __init__(self, active: bool, remaining: float | None, peer: str = "unix:") -> None:
        self.is_active = lambda: active
        self.time_remaining = lambda: remaining
        self.peer = lambda: peer


def test_a_tick_ends_before_the_daemon_gives_up_on_it(
    ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leased_tick, "TICK_SECONDS", 30.0)

    def ExternalSensorExecution(_context: Any) -> Any:
        return ticks(None)

    started = time.monotonic()
    ExternalSensorExecution(_context=Call(True, 6.0))
    assert 4 < time.monotonic() - started < 8
    assert sensor_module._state.process.pid is not None, "it goes on"
