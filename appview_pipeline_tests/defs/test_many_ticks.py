"""However many ticks a code server evaluates, it takes no more file descriptors, threads and connections than after
ten, and neither does the process that the ticks keep on its lease."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.impl import get_external_sensor_execution

from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.leases import leased_tick
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import run_sql
from appview_pipeline_tests.support.process_use import taken
from appview_pipeline_tests.support.tables import one
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")

SENSORS = sorted(sensor.name for sensor in defs.get_repository_def().sensor_defs)
LEASED = {
    "firehose_sensor": "appview_pipeline.defs.firehose.sensor",
    "identity_sensor": "appview_pipeline.defs.identity.sensor",
    "fetch_sensor": "appview_pipeline.defs.fetching.sensor",
    "label_sensor": "appview_pipeline.defs.labels.sensor",
}
FIRST = 10
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname IN (%s, %s)"
STEADY_SECONDS = 1.5
SLACK = 3
"""Pools open connections as they are needed, and the first garbage may still wait to be collected."""


@pytest.fixture(scope="module")
def dagster_url(server: EmbeddedPostgres) -> Iterator[str]:
    run_sql(server, 'CREATE DATABASE "many_ticks"')
    yield server.url("many_ticks")
    run_sql(server, 'DROP DATABASE "many_ticks" WITH (FORCE)')


@pytest.fixture
def instance(
    dagster_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance as in production, an index behind the settings, and ticks that last a moment."""
    (tmp_path / "dagster.yaml").write_text((CHECKOUT / "docker" / "dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_PG_URL", dagster_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    for name in ("TICK_SECONDS", "REPORT_SECONDS", "HEALTH_SECONDS", "SETTLED_SECONDS"):
        monkeypatch.setattr(leased_tick, name, 0.0)
    with SimulatedNetwork(accounts=20, rate=50.0, labelers=1, label_rate=2.0) as network:
        for variable, value in network.environment().items():
            monkeypatch.setenv(variable, value)
        database_module.reopen()
        with dg.DagsterInstance.from_config(str(tmp_path)) as made:
            yield made
        database_module.reopen()


class Use:
    """What the process that evaluates ticks takes, and the process on its lease."""

    def __init__(self, sensor: str, databases: tuple[str, str]) -> None:
        self._state: Any = None
        self._databases = databases
        self._seen: tuple[int, int, int] | None = None
        self._seen_since = 0.0
        if sensor in LEASED:
            self._state = importlib.import_module(LEASED[sensor])._state

    def now(self) -> dict[str, int]:
        ours = taken(os.getpid())
        assert ours is not None
        found = {"files": ours.files, "threads": ours.threads}
        found["connections"] = one(self._databases[0], CONNECTIONS, *self._names())
        if self._state is not None:
            pid = self._state.process.pid
            assert pid is not None, self._state.trouble
            theirs = taken(pid)
            assert theirs is not None
            found |= {"process": pid, "its files": theirs.files, "its threads": theirs.threads}
        return found

    def _names(self) -> tuple[str, str]:
        first, second = (url.rpartition("/")[2].partition("?")[0] for url in self._databases)
        return first, second

    def is_at_work(self) -> bool:
        return self._state is None or self._state.process.pid is not None

    def is_steady(self) -> bool:
        """Whether the process on the lease has opened what it needs: connections, and nothing more for a while."""
        if self._state is None:
            return True
        pid = self._state.process.pid
        theirs = taken(pid) if pid is not None else None
        now = None if theirs is None else (theirs.pid, theirs.files, theirs.threads)
        if now != self._seen:
            self._seen, self._seen_since = now, time.monotonic()
        # What is still importing has none but its standard streams.
        return theirs is not None and theirs.files > 3 and time.monotonic() - self._seen_since > STEADY_SECONDS

    def seen(self) -> str:
        """The process on the lease, its files and threads."""
        return str(self._seen)

    def stop(self) -> None:
        if self._state is not None:
            self._state.process.stop(5.0)


def many_ticks(sensor: str, count: int, instance: dg.DagsterInstance, databases: tuple[str, str]) -> None:
    repository = defs.get_repository_def()
    origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="appview_pipeline.defs.definitions"))
    use, cursor = Use(sensor, databases), None

    def tick(number: int) -> None:
        nonlocal cursor
        result = get_external_sensor_execution(
            repository, origin, instance.get_ref(), sensor, time.time(), None, cursor, [sensor, str(number)], None
        )
        assert not hasattr(result, "error"), result
        cursor = result.cursor

    def steady_while_kept() -> bool:
        tick(FIRST)  # keeps it on its lease
        return use.is_steady()

    try:
        tick(0)
        wait_for(use.is_at_work)
        for number in range(FIRST):
            tick(number)
        wait_for(steady_while_kept, seconds=60.0, explain=use.seen)
        before = use.now()
        for number in range(FIRST, count):
            tick(number)
        after = use.now()
        assert before.pop("process", 0) == after.pop("process", 0), "the same process all the time"
        assert all(after[what] <= before[what] + SLACK for what in before), (before, after)
    finally:
        use.stop()


@pytest.mark.slow
@pytest.mark.parametrize("sensor", SENSORS)
def test_after_40_ticks_as_after_10(
    sensor: str, instance: dg.DagsterInstance, database_url: str, dagster_url: str
) -> None:
    many_ticks(sensor, 40, instance, (database_url, dagster_url))


@pytest.mark.thorough
@pytest.mark.parametrize("sensor", SENSORS)
def test_after_1000_ticks_as_after_10(
    sensor: str, instance: dg.DagsterInstance, database_url: str, dagster_url: str
) -> None:
    many_ticks(sensor, 1_000, instance, (database_url, dagster_url))
