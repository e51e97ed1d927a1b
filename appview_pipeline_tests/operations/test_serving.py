"""Metrics and health over real HTTP: what is told of a fresh index, of an ill one, and while the database is away."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from appview_pipeline import backoff
from appview_pipeline.operations.reading import Index, Reading
from appview_pipeline.settings import Settings
from appview_pipeline.store import migrate
from appview_pipeline.store.database import Database
from appview_pipeline.store.stream_lock import stream_lock
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import connect, memory_folder, run
from appview_pipeline_tests.support.metrics_service import MetricsService, metrics_service
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.restarted_server import restartable
from appview_pipeline_tests.support.tables import rows
from appview_pipeline_tests.support.waiting import wait_for

RELAY = "wss://relay.example"
STREAM = (RELAY, "0/1")
FRESH = f"""
INSERT INTO pipeline.cursor (relay, shard, seq) VALUES ('{RELAY}', '0/1', 20);
INSERT INTO pipeline.batch (source, shard, frames, events, ops, relay_time, decode_ms, apply_ms)
VALUES ('{RELAY}', '0/1', 20, 20, '{{"a.b.c": {{"create": 3}}}}', now() - interval '2 s', 4, 30)"""
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(autouse=True)
def always_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are about now."""
    monkeypatch.setattr(backoff, "METRICS_FRESH_SECONDS", 0.0)


def settings_of(url: str) -> Settings:
    return Settings(database_url=url, relay_url=RELAY, lag_warning_seconds=1_800.0, silence_warning_seconds=7_200.0)


@pytest.fixture
def service(database: Database) -> Iterator[MetricsService]:
    """A service of a database with a fresh stream, and a consumer's lock on it."""
    run(database.url, FRESH)
    with stream_lock(database, RELAY, "0/1"), metrics_service(settings_of(database.url)) as found:
        yield found


def test_a_fresh_index_is_ready(service: MetricsService) -> None:
    assert service.get("/livez").json == {"is_healthy": True, "sentence": "This process answers."}
    ready = service.get("/readyz")
    assert (ready.status, ready.sentence) == (200, "Ready: database, schema, consumer, stream.")
    assert set(ready.json["parts"]) == {"database", "schema", "consumer", "stream"}
    assert service.get("/readyz/stream").sentence == "Ready: stream."
    assert service.get("/readyz?exclude=stream&exclude=consumer").sentence == "Ready: database, schema."
    assert service.get("/readyz/consumers").status == 404
    assert service.get("/readyz?exclude=x").status == 400
    assert b"/metrics" in service.get("/").body
    assert service.get("/else").status == 404


def test_metrics_in_both_formats(service: MetricsService) -> None:
    found = service.samples()
    assert found["appview_up"] == {(): 1}
    assert found["appview_stream_consumer_running"] == {STREAM: 1}
    assert 1.9 < found["appview_stream_lag_seconds"][STREAM] < 3
    assert abs(time.time() - found["appview_stream_last_batch_timestamp_seconds"][STREAM]) < 30
    assert found["appview_stream_events_total"] == {STREAM: 20}
    below = {edge: value for (edge, *_), value in found["appview_stream_apply_seconds_bucket"].items()}
    assert below["0.025"] == 0
    assert below["0.05"] == 1
    assert below["+Inf"] == 1
    assert found["appview_stream_apply_seconds_sum"] == {STREAM: 0.03}
    assert found["appview_operations_total"] == {("create", "a.b.c", "stream"): 3}
    assert found["process_open_fds"][()] > 3

    plain = service.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    modern = service.get("/metrics", Accept=OPENMETRICS)
    assert modern.headers["Content-Type"].startswith(OPENMETRICS)
    names = {it.name for it in openmetrics(modern.body.decode())}  # type: ignore[no-untyped-call]
    assert names > {"appview_stream_events", "appview_up"}
    packed = service.get("/metrics", **{"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip" and len(packed.body) < len(plain.body) / 3


def test_what_is_wrong_is_said(service: MetricsService, database: Database) -> None:
    def says(part: str) -> str:
        answer, alone = service.get("/readyz"), service.get(f"/readyz/{part}")
        assert (answer.status, alone.status) == (503, 503)
        assert [name for name, it in answer.json["parts"].items() if not it["is_healthy"]] == [part]
        assert all(it.sentence.startswith(f"Not ready: {part}. ") for it in (answer, alone))
        return alone.json["parts"][part]["sentence"]

    run(database.url, "UPDATE pipeline.cursor SET updated_at = now() - interval '1 hour'")
    assert re.match("The newest event applied is .* behind", says("stream"))
    run(database.url, "UPDATE pipeline.cursor SET updated_at = now()")
    run(database.url, "UPDATE pipeline.batch SET relay_time = applied_at - interval '1 hour'")
    assert re.match("The newest event applied is .* behind", says("stream"))
    run(database.url, "UPDATE pipeline.batch SET relay_time = applied_at")
    assert service.get("/readyz").status == 200
    holders = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = "
    rows(database.url, f"{holders} (SELECT oid FROM pg_database WHERE datname = current_database())")
    wait_for(lambda: service.get("/readyz").status == 503)
    assert says("consumer").startswith(f"No consumer is at work on {RELAY}")
    assert service.samples()["appview_stream_consumer_running"] == {STREAM: 0}


def test_an_index_that_has_not_begun(database: Database) -> None:
    with metrics_service(settings_of(database.url)) as service:
        sentence = service.get("/readyz").sentence
        assert sentence.startswith(f"Not ready: consumer, stream. Nothing was applied from {RELAY} ever")
        assert service.samples()["appview_up"] == {(): 1}


def test_a_schema_of_another_version(database: Database) -> None:
    run(database.url, FRESH)
    with metrics_service(settings_of(database.url)) as service:
        for version, remedy in (("9999", "upgrade appview-pipeline"), ("0001", "run `appview-pipeline migrate`")):
            run(database.url, f"UPDATE pipeline.schema_version SET version_num = '{version}'")
            answer = service.get("/readyz")
            assert answer.status == 503 and remedy in answer.sentence
            assert answer.json["parts"]["database"]["is_healthy"]
            assert not answer.json["parts"]["schema"]["is_healthy"]
            assert service.samples()["appview_up"] == {(): 0}
        run(database.url, f"UPDATE pipeline.schema_version SET version_num = '{migrate.head()}'")
        assert service.get("/readyz/schema").status == 200
        run(database.url, "ALTER TABLE pipeline.schema_version RENAME TO gone")
        assert "has no tables of appview-pipeline yet" in service.get("/readyz").sentence


def test_a_database_that_goes_away_and_comes_back() -> None:
    with restartable(memory_folder()) as server:
        migrate.upgrade(server.url)
        run(server.url, FRESH)
        with metrics_service(settings_of(server.url)) as service:
            assert service.samples()["appview_stream_events_total"] == {STREAM: 20}
            server.crash()
            assert service.get("/livez").status == 200
            began = time.monotonic()
            away = service.samples()
            assert time.monotonic() - began < backoff.METRICS_WAIT_SECONDS
            assert away["appview_up"] == {(): 0}
            assert away["process_open_fds"][()] > 3
            assert "appview_stream_events_total" not in away, "a counter that is not known is not 0"
            answer = service.get("/readyz")
            assert answer.status == 503
            assert not any(part["is_healthy"] for part in answer.json["parts"].values())
            assert "can't be reached" in answer.sentence
            server.start()
            wait_for(lambda: service.samples()["appview_up"] == {(): 1})
            assert service.samples()["appview_stream_events_total"] == {STREAM: 20}
            assert service.get("/readyz/database").status == 200
            assert service.samples()["appview_read_failures_total"][()] >= 2


def test_it_starts_before_the_database() -> None:
    address = f"postgresql://nobody@127.0.0.1:{free_port()}/index"
    with metrics_service(settings_of(address)) as service:
        assert service.get("/livez").status == 200
        assert service.samples()["appview_up"] == {(): 0}
        assert "can't be reached" in service.get("/readyz").sentence


def test_many_who_ask_cost_one_reading(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "METRICS_FRESH_SECONDS", 60.0)
    run(database.url, FRESH)
    with metrics_service(settings_of(database.url)) as service:
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda _: service.samples()["appview_up"], range(40)))
        assert answers == [{(): 1}] * 40
        assert service.samples()["appview_reads_total"] == {(): 1}


def test_a_slow_database_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "METRICS_WAIT_SECONDS", 0.2)
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def read() -> Reading:
        begun.release()
        go_on.wait(60)
        return Reading(0.0)

    with metrics_service(Settings(), read) as service:
        with ThreadPoolExecutor(2) as threads:
            slow = list(threads.map(lambda _: service.samples()["appview_up"], range(4)))
        assert slow == [{(): 0}] * 4
        assert service.get("/readyz").sentence == (
            "Not ready: database, schema, consumer, stream. The database has not answered for 0.2 s."
        )
        assert service.get("/livez").status == 200
        assert begun.acquire() and not begun.acquire(blocking=False), "one reading is under way, not one for each"
        go_on.set()
        wait_for(lambda: service.samples()["appview_up"] == {(): 1})
        go_on.clear()
        assert service.samples()["appview_up"] == {(): 0}
        began = time.monotonic()
    assert time.monotonic() - began < 10, "the end does not wait for a reading"
    go_on.set()


def test_a_lock_of_others_is_an_answer(service: MetricsService, database: Database) -> None:
    with connect(database.url) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE pipeline.gap")
        answer = service.get("/readyz")
        assert answer.status == 503 and "lock timeout" in answer.sentence
        assert service.samples()["appview_up"] == {(): 0}
    wait_for(lambda: service.get("/readyz").status == 200)


def test_reports_that_nobody_counted_are_counted(database: Database) -> None:
    """After an update, say, or while the sweeps are switched off."""
    run(database.url, FRESH)
    run(database.url, "UPDATE pipeline.batch SET applied_at = now() - interval '2 days'")
    counted = "SELECT counted_to > now() - interval '1 hour' FROM pipeline.total_counted WHERE report = 'batch'"
    with metrics_service(settings_of(database.url)) as service:
        assert "appview_stream_events_total" not in service.samples()
        wait_for(lambda: rows(database.url, counted) == [(True,)])
        wait_for(lambda: service.samples().get("appview_stream_events_total") == {STREAM: 20})


def test_a_role_that_may_only_read_is_enough(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """It counts nothing, and says so once."""
    run(database.url, FRESH)
    run(database.url, "UPDATE pipeline.batch SET applied_at = now() - interval '30 minutes'")
    run(database.url, "CREATE ROLE only_reading LOGIN")
    index = Index(settings_of(database.url.replace("postgres@", "only_reading@")))
    try:
        for schema in ("bsky", "pipeline"):
            run(database.url, f"GRANT USAGE ON SCHEMA {schema} TO only_reading")
            run(database.url, f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO only_reading")
        for _ in range(2):
            reading = index.read()
            assert reading.obstacle is None and reading.report is not None
            assert (reading.totals or {})["stream_events"] == {STREAM: 20}
            wait_for(lambda: not any(thread.name == "count" for thread in threading.enumerate()))
        assert caplog.text.count("Reports of processes can't be counted here") == 1
    finally:
        index.close()
        run(database.url, "DROP OWNED BY only_reading")
        run(database.url, "DROP ROLE only_reading")


def test_a_defect_is_an_error_of_the_server() -> None:
    def read() -> Reading:
        raise ZeroDivisionError

    with metrics_service(Settings(), read) as service:
        assert service.get("/metrics").status == 500
        assert service.get("/readyz").sentence == "Internal server error: the log has more."
        assert service.get("/livez").status == 200


def test_the_process_ends_at_sigterm(database: Database, tmp_path: Path) -> None:
    """With a client that stays connected, and a reading under way of a database that does not answer."""
    port = free_port()
    inherited = {key: text for key, text in os.environ.items() if not key.startswith("APPVIEW_")}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "appview_pipeline.cli", "serve"],
            cwd=CHECKOUT,
            env={
                **inherited,
                "APPVIEW_DATABASE_URL": database.url,
                "APPVIEW_METRICS_ADDRESS": f"127.0.0.1:{port}",
            },
            stderr=log,
        )
    try:
        service = MetricsService(port)
        wait_for(lambda: "Serves metrics and health at" in (tmp_path / "log").read_text())
        assert service.get("/readyz/database").status == 200
        asked = subprocess.run(
            [sys.executable, "-m", "appview_pipeline.cli", "healthy", "--url", f"{service.url}/readyz/schema"],
            cwd=CHECKOUT,
            env=inherited,
            capture_output=True,
            text=True,
        )
        assert (asked.returncode, asked.stdout) == (0, "Ready: schema.\n")
        with connect(database.url) as other, other.cursor() as cursor:
            cursor.execute("LOCK TABLE pipeline.schema_version")
            held = http.client.HTTPConnection("127.0.0.1", port)
            held.request("GET", "/livez")
            held.getresponse().read()
            waiting = http.client.HTTPConnection("127.0.0.1", port)
            waiting.request("GET", "/metrics")
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert time.monotonic() - began < 10
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_two_processes_count_the_same(service: MetricsService, database: Database) -> None:
    with metrics_service(replace(settings_of(database.url), db_pool_size=1)) as other:
        names = [name for name in service.samples() if name.startswith("appview_") and name.endswith("_total")]
        mine, theirs = service.samples(), other.samples()
        assert len(names) > 10
        ours = [name for name in names if not name.startswith("appview_read")]
        assert [mine[name] for name in ours] == [theirs[name] for name in ours]
