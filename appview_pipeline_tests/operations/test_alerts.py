"""Alerts: what people and the webhook get, over a real connection, and what happens where nobody takes them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from appview_pipeline import backoff
from appview_pipeline.operations.alerts import MAX_WORDS, Alert, deliver, message, run_alert, short
from appview_pipeline.settings import Settings, load
from appview_pipeline_tests.support.http_server import HttpServer, Request, ok, status
from appview_pipeline_tests.support.ports import free_port

DISK = Alert(
    kind="check",
    name="disk_lasts",
    asset="database",
    state="failed",
    severity="error",
    words="It is full.",
    what_to_do="docs/operations.md#disk_lasts",
)


def no_pause(seconds: float) -> None:
    assert 0 < seconds <= 4


def test_the_webhook_gets_text_for_chats_and_fields_for_programs() -> None:
    with HttpServer(lambda request: ok()) as server:
        settings = Settings(alert_webhook=f"{server.url}/hooks/T0/secret?x=1", alert_webhook_token="token-1")
        assert deliver(settings, [DISK, replace(DISK, state="passed", seconds=7_200.0)]) is None
        (request,) = server.requests
    assert request.path == "/hooks/T0/secret?x=1"
    assert request.headers["Authorization"] == "Bearer token-1"
    assert request.headers["Content-Type"] == "application/json; charset=utf-8"
    found = json.loads(request.body)
    assert found["text"].splitlines() == [
        "ERROR: check disk_lasts (database) failed. It is full. What to do: docs/operations.md#disk_lasts",
        "OK: check disk_lasts (database) passes again after 2.0 h. It is full.",
    ]
    assert found["source"] == "appview-pipeline" and found["host"] and found["version"]
    assert found["alerts"][0] == DISK.as_json() and Alert.parse(found["alerts"][0]) == DISK


def test_without_a_webhook_or_an_alert_nothing_is_sent() -> None:
    assert deliver(Settings(), [DISK]) is None
    with HttpServer(lambda request: ok()) as server:
        assert deliver(Settings(alert_webhook=server.url), []) is None
        assert server.connections == 0


def test_a_webhook_that_fails_for_a_moment_gets_it_after_all() -> None:
    answers = iter([status("500 Oops"), status("503 Busy"), ok()])
    with HttpServer(lambda request: next(answers)) as server:
        assert deliver(Settings(alert_webhook=server.url), [DISK], sleep=no_pause) is None
        assert len(server.requests) == backoff.ALERT_TRIES == 3


def test_a_dead_webhook_is_said_without_its_secret() -> None:
    port = free_port()
    began = time.monotonic()
    trouble = deliver(Settings(alert_webhook=f"http://127.0.0.1:{port}/T0/secret"), [DISK], sleep=no_pause)
    assert trouble == f"The webhook did not take 1 alerts: 127.0.0.1:{port} refuses the connection."
    assert time.monotonic() - began < backoff.ALERT_SECONDS


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda request: status("404 Not Found"), "answered HTTP 404"),
        (lambda request: status("302 Found", "Location: https://hooks.example/T0/secret\r\n"), "redirects; APPVIEW_"),
        (lambda request: None, "closed the connection"),
    ],
    ids=["refused", "redirected", "closed"],
)
def test_what_a_webhook_says_is_in_the_sentence(answer: Callable[[Request], bytes | None], words: str) -> None:
    with HttpServer(answer) as server:
        trouble = deliver(Settings(alert_webhook=f"{server.url}/T0/secret"), [DISK], sleep=no_pause)
    assert trouble is not None and words in trouble and "secret" not in trouble


def test_a_webhook_that_hangs_does_not_hold_a_tick_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "ALERT_SECONDS", 1.0)

    def hang(request: Request) -> None:
        request.connection.recv(1)  # until the client gives up

    with HttpServer(hang) as server:
        began = time.monotonic()
        trouble = deliver(Settings(alert_webhook=server.url), [DISK])
        assert trouble is not None and "did not take 1 alerts" in trouble
        assert time.monotonic() - began < 5.0


def test_settings_of_alerts_show_nothing() -> None:
    found = load({"APPVIEW_ALERT_WEBHOOK": "https://hooks.example/T0/s3cr3t", "APPVIEW_ALERT_WEBHOOK_TOKEN": "t0k3n"})
    assert found.alert_webhook == "https://hooks.example/T0/s3cr3t" and found.alert_webhook_token == "t0k3n"
    assert "s3cr3t" not in repr(found) and "t0k3n" not in repr(found)


def test_long_words_are_cut_and_runs_are_named() -> None:
    alert = run_alert("backfill", "run-1", "17", "x" * 5_000)
    assert len(alert.words) == MAX_WORDS and alert.words.endswith("…") and short("x") == "x"
    assert alert.sentence.startswith("ERROR: run backfill (17) failed. xxx") and "#runs_succeed" in alert.sentence
    assert message([alert])["alerts"][0]["run"] == "run-1"
    still = replace(DISK, state="still failed", seconds=90_000.0, severity="warn")
    assert still.sentence.startswith("WARN: check disk_lasts (database) still failed for 25.0 h. It is full.")
