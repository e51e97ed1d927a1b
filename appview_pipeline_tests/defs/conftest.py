"""What the tests of Dagster's part share: a database behind the settings, and ticks with a consumer of their own."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from appview_pipeline import settings
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.firehose import sensor as sensor_module
from appview_pipeline.defs.firehose import tick as tick_module
from appview_pipeline.defs.firehose.sensor import firehose_sensor
from appview_pipeline.defs.firehose.tick import State
from appview_pipeline.defs.leases import leased_tick
from appview_pipeline.ingest.live.consumer_process import consumer_process
from appview_pipeline_tests.support.dagster_events import RELAY


@pytest.fixture
def index(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    load = settings.load
    monkeypatch.setattr(settings, "load", lambda: dataclasses.replace(load(), database_url=database_url))
    monkeypatch.setenv("APPVIEW_RELAY_URL", RELAY)
    database_module.reopen()
    yield
    database_module.reopen()


# Writes 10 batches of 7 events at once, then waits for its lease to be closed.
CONSUMER = """
import os, sys, psycopg2
connection = psycopg2.connect(sys.argv[1])
with connection.cursor() as cursor:
    for n in range(10):
        cursor.execute(
            "INSERT INTO pipeline.batch (source, first_seq, last_seq, events, ops, written, relay_time) "
            "VALUES ('ws://relay.invalid', %s, %s, 7, '{\\"app.bsky.feed.like\\": {\\"create\\": 7}}', "
            "'{\\"like\\": 7, \\"record\\": 7}', now())",
            (n * 7 + 1, n * 7 + 7),
        )
connection.commit()
print("consuming", flush=True)
while os.read(0, 100): pass
"""


@pytest.fixture
def ticks(
    index: None, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Runs one tick of 2 s after the other, each with the cursor that the one before left."""
    libpq = re.sub(r"^postgresql\+psycopg2", "postgresql", database_url)
    state = State(consumer_process(command=(sys.executable, "-c", CONSUMER, libpq)))
    monkeypatch.setattr(sensor_module, "_state", state)
    monkeypatch.setattr(leased_tick, "TICK_SECONDS", 2.0)
    monkeypatch.setattr(leased_tick, "REPORT_SECONDS", 1.0)
    monkeypatch.setattr(leased_tick, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(leased_tick, "HEALTH_SECONDS", 0.0)
    monkeypatch.setattr(leased_tick, "SETTLED_SECONDS", 0.5)
    monkeypatch.setattr(tick_module, "GROUPS_SECONDS", 0.0)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:

        def tick(cursor: str | None = None, tick_id: str = "1") -> Any:
            context = dg.build_sensor_context(instance, cursor, sensor_name="firehose_sensor")
            context._log_key = ["__repository__", "firehose_sensor", tick_id]
            result = firehose_sensor(context)
            assert isinstance(result, dg.SensorResult)
            return result, instance

        yield tick
    state.process.stop(1.0)
