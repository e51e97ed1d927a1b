"""The sensors that say what fails: once for each change, to the log and the webhook, and again what nobody took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from appview_pipeline import backoff
from appview_pipeline.defs.check_events import evaluation
from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.health import alerts as alerts_module
from appview_pipeline.defs.health.alerts import MAX_WAITING, Said, check_alerts, run_alerts
from appview_pipeline.operations.database_conditions import DISK_LASTS
from appview_pipeline.operations.stream_conditions import KEEPS_UP
from appview_pipeline.operations.verdict import Verdict
from appview_pipeline.settings import load
from appview_pipeline_tests.support.http_server import HttpServer, ok
from appview_pipeline_tests.support.ports import free_port

Tick = Callable[[str | None], dg.SensorResult]


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setattr(backoff, "ALERT_TRIES", 1)
    monkeypatch.setenv("APPVIEW_ALERT_AFTER_SECONDS", "0")
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    with HttpServer(lambda request: ok()) as server:
        monkeypatch.setenv("APPVIEW_ALERT_WEBHOOK", server.url)
        yield server


@pytest.fixture
def tick(instance: dg.DagsterInstance) -> Tick:
    repository = defs.get_repository_def()

    def run(cursor: str | None) -> dg.SensorResult:
        context = dg.build_sensor_context(instance, cursor, repository_def=repository, sensor_name="check_alerts")
        result = check_alerts(context)
        assert isinstance(result, dg.SensorResult)
        return result

    return run


def report(instance: dg.DagsterInstance, *verdicts: Verdict) -> None:
    for verdict in verdicts:
        instance.report_runless_asset_event(evaluation(verdict))


def sent(server: HttpServer) -> list[tuple[str, str, str]]:
    """Name, state and severity of all alerts that came, in order."""
    bodies = [json.loads(request.body) for request in server.requests]
    return [(it["name"], it["state"], it["severity"]) for body in bodies for it in body["alerts"]]


def test_each_change_is_said_once(instance: dg.DagsterInstance, tick: Tick, webhook: HttpServer) -> None:
    report(instance, KEEPS_UP.verdict(True, "fine"))
    first = tick(None)
    assert sent(webhook) == [] and "Nothing has changed. Checks that fail: 0" in str(first.skip_reason)
    report(instance, KEEPS_UP.verdict(False, "61 s behind"), DISK_LASTS.verdict(False, "little room"))
    second = tick(first.cursor)
    assert sent(webhook) == [("disk_lasts", "failed", "warn"), ("keeps_up", "failed", "warn")]
    assert len(webhook.requests) == 1, "one message for both"
    assert "WARN: check keeps_up (firehose) failed. 61 s behind" in str(second.skip_reason)
    report(instance, KEEPS_UP.verdict(False, "90 s behind"))
    third = tick(second.cursor)
    assert len(webhook.requests) == 1 and "Checks that fail: 2" in str(third.skip_reason)
    report(instance, DISK_LASTS.verdict(False, "none", severity="error"), KEEPS_UP.verdict(True, "fine"))
    fourth = tick(third.cursor)
    assert sent(webhook)[2:] == [("disk_lasts", "failed", "error"), ("keeps_up", "passed", "warn")]
    report(instance, DISK_LASTS.verdict(True, "room"))
    assert Said.parse(tick(fourth.cursor).cursor) == Said()
    assert sent(webhook)[4:] == [("disk_lasts", "passed", "warn")]


def test_a_check_that_an_update_took_away_fails_no_more(instance: dg.DagsterInstance, tick: Tick) -> None:
    report(instance, KEEPS_UP.verdict(False, "61 s behind"))
    said = Said.parse(tick(None).cursor)
    said.checks["firehose gone"] = said.checks["firehose keeps_up"]
    assert list(Said.parse(tick(str(said)).cursor).checks) == ["firehose keeps_up"]


def test_what_still_fails_is_said_again_after_a_while(
    instance: dg.DagsterInstance, tick: Tick, webhook: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(instance, KEEPS_UP.verdict(False, "61 s behind"))
    cursor = tick(None).cursor
    said = Said.parse(cursor)
    (failing,) = said.checks.values()
    assert failing.said is not None
    failing.said -= 23 * 3_600.0
    failing.since -= 23 * 3_600.0
    tick(str(said))
    assert len(webhook.requests) == 1
    failing.said -= 3_601.0
    monkeypatch.setenv("APPVIEW_ALERT_REPEAT_HOURS", "0")
    tick(str(said))
    assert len(webhook.requests) == 1, "switched off"
    monkeypatch.delenv("APPVIEW_ALERT_REPEAT_HOURS")
    again = tick(str(said))
    assert sent(webhook)[1:] == [("keeps_up", "still failed", "warn")]
    assert "still failed for 23.0 h" in str(again.skip_reason)
    tick(again.cursor)
    assert len(webhook.requests) == 2


def test_what_fails_for_a_moment_is_not_said(
    instance: dg.DagsterInstance, tick: Tick, webhook: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPVIEW_ALERT_AFTER_SECONDS", "60")
    report(instance, KEEPS_UP.verdict(False, "61 s behind"))
    cursor = tick(None).cursor
    said = Said.parse(cursor)
    (failing,) = said.checks.values()
    assert failing.said is None and sent(webhook) == []
    failing.since -= 60.0
    report(instance, KEEPS_UP.verdict(True, "fine"))
    assert Said.parse(tick(cursor).cursor) == Said() and sent(webhook) == []
    report(instance, KEEPS_UP.verdict(False, "99 s behind"))
    tick(str(said))
    assert sent(webhook) == [("keeps_up", "failed", "warn")]


def test_what_nobody_took_is_sent_with_the_next_tick(
    instance: dg.DagsterInstance, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPVIEW_ALERT_WEBHOOK", f"http://127.0.0.1:{free_port()}/secret")
    report(instance, KEEPS_UP.verdict(False, "61 s behind"))
    dead = tick(None)
    assert "The webhook did not take 1 alerts: 127.0.0.1:" in str(dead.skip_reason)
    assert "secret" not in str(dead.skip_reason) and len(Said.parse(dead.cursor).waiting) == 1
    report(instance, KEEPS_UP.verdict(True, "fine"))
    dead = tick(dead.cursor)
    with HttpServer(lambda request: ok()) as server:
        monkeypatch.setenv("APPVIEW_ALERT_WEBHOOK", server.url)
        alive = tick(dead.cursor)
        assert sent(server) == [("keeps_up", "failed", "warn"), ("keeps_up", "passed", "warn")]
        tick(alive.cursor)
        assert len(server.requests) == 1
    said = Said.parse(dead.cursor)
    many = [replace(said.waiting[0], name=f"check {n}") for n in range(MAX_WAITING + 5)]
    assert alerts_module.say(said, many, load()) is not None
    assert [it.name for it in said.waiting] == [f"check {n}" for n in range(5, MAX_WAITING + 5)]


def test_without_a_webhook_it_is_logged(instance: dg.DagsterInstance, tick: Tick) -> None:
    lines: list[tuple[int, str]] = []
    log: Any = type("Log", (), {"log": lambda self, level, text: lines.append((level, text))})()
    report(instance, KEEPS_UP.verdict(False, "61 s behind"))
    result = tick(None)
    assert Said.parse(result.cursor).waiting == []
    said = Said()
    key = dg.AssetCheckKey(dg.AssetKey("firehose"), "keeps_up")
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])
    alerts_module.log_alerts(log, alerts_module.new_alerts(said, records, time.time(), load()))
    ((level, text),) = lines
    assert level == 30 and text.startswith("ALERT {") and json.loads(text[6:])["name"] == "keeps_up"


def test_a_cursor_that_is_no_cursor_is_a_new_start() -> None:
    for text in (None, "", "x", "[]", "17", '{"checks": 1}', '{"waiting": [{"x": 1}]}', '{"checks": {"a": {"b": 1}}}'):
        assert Said.parse(text) == Said()


@dg.op
def breaks() -> None:
    raise RuntimeError("the disk is on fire")


@dg.job(executor_def=dg.in_process_executor)
def broken() -> None:
    breaks()


def test_a_run_that_fails_is_said_with_its_reason(instance: dg.DagsterInstance, webhook: HttpServer) -> None:
    done = broken.execute_in_process(instance=instance, raise_on_error=False)
    (event,) = [it for it in done.all_events if it.event_type == dg.DagsterEventType.PIPELINE_FAILURE]
    context = dg.build_run_status_sensor_context("run_alerts", event, instance, done.dagster_run).for_run_failure()
    assert run_alerts(context) is None
    (request,) = webhook.requests
    (alert,) = json.loads(request.body)["alerts"]
    assert (alert["kind"], alert["name"], alert["run"]) == ("run", "broken", done.run_id)
    assert "the disk is on fire" in alert["words"] and alert["what_to_do"] == "docs/operations.md#runs_succeed"
