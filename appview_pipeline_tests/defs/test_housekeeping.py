"""Histories are kept bounded."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

from appview_pipeline.defs import housekeeping
from appview_pipeline.defs.definitions import defs
from appview_pipeline.store import reports
from appview_pipeline.store.identity_reports import reported_after
from appview_pipeline_tests.support.dagster_events import add_batch, execute, reported
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.tables import rows


def postgres_storage(url: str) -> dict[str, Any]:
    return {"storage": {"postgres": {"postgres_url": url}}}


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
def test_pruning_keeps_the_newest_of_each_asset_and_partition(
    storage: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "AT_ONCE", 7)
    overrides = postgres_storage(database_url) if storage == "postgres" else {}
    with dg.instance_for_test(overrides=overrides, temp_dir=str(tmp_path)) as instance:
        for number in range(20):
            for partition in ("2026-11-24-00:00", "2026-11-24-01:00"):
                instance.report_runless_asset_event(
                    dg.AssetMaterialization("likes", partition=partition, metadata={"n": number}, tags={"a": "b"})
                )
            instance.report_runless_asset_event(dg.AssetMaterialization("firehose", metadata={"n": number}))
            instance.report_runless_asset_event(dg.AssetCheckEvaluation(dg.AssetKey("firehose"), "keeps_up", True))
        event_log = instance.event_log_storage
        assert isinstance(event_log, SqlEventLogStorage)
        now = datetime.now(timezone.utc)
        assert housekeeping.prune_events(instance, now - timedelta(hours=1)) == 0
        deleted = housekeeping.prune_events(instance, now + timedelta(hours=1))
        assert deleted >= 3 * 19
        assert [r["n"] for r in reported(instance, "firehose")] == [19]
        assert [r["n"] for r in reported(instance, "likes")] == [19, 19]
        assert instance.get_materialized_partitions(dg.AssetKey("likes")) == {"2026-11-24-00:00", "2026-11-24-01:00"}
        latest = instance.get_latest_materialization_event(dg.AssetKey("firehose"))
        assert latest is not None
        check = dg.AssetCheckKey(dg.AssetKey("firehose"), "keeps_up")
        assert len(event_log.get_asset_check_execution_history(check, limit=100)) == 1
        for connection in (event_log.index_connection(), event_log.run_connection(RUNLESS_RUN_ID)):
            with connection as one:
                count = sqlalchemy.select(sqlalchemy.func.count()).select_from(SqlEventLogStorageTable)
                assert one.execute(count).scalar() == 4
        # What is left is still a working history.
        instance.report_runless_asset_event(dg.AssetMaterialization("firehose", metadata={"n": 20}))
        assert [r["n"] for r in reported(instance, "firehose")] == [19, 20]


def test_the_housekeeping_job_runs(index: None, database_url: str, tmp_path: Path) -> None:
    with connect(database_url) as connection:
        for days in (31, 30, 29):
            add_batch(connection, at=datetime.now(timezone.utc) - timedelta(days=days))
        old = "INSERT INTO pipeline.identity_batch (seconds, finished_at) VALUES (5, now() - interval '{} days')"
        execute(connection, old.format(8), old.format(6))
        said = (
            "INSERT INTO pipeline.label_event (src, uri, val, cts, cts_at, received_at) "
            "SELECT 'did:plc:a', 'did:plc:x', 'spam', '', at, at FROM (VALUES (now() - interval '{} days')) a (at)"
        )
        execute(connection, said.format(92), said.format(91), said.format(89), said.format(1))
        with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
            job = defs.resolve_job_def(housekeeping.JOB)
            for _ in range(2):
                assert job.execute_in_process(instance=instance).success
            assert housekeeping.prune_runs(instance, datetime.now(timezone.utc) + timedelta(hours=1)) == 2
        assert reported_after(connection, 0)[0].last_id == 2 and len(reported_after(connection, 0)) == 1
        assert reports.newest_batch(connection) == 3, "the newest of a stream stays: it says since when nothing came"
    assert rows(database_url, "SELECT id FROM pipeline.label_event ORDER BY id") == [(3,), (4,)]
    assert rows(database_url, "SELECT id FROM pipeline.batch ORDER BY id") == [(1,), (3,)], "partitions begin with 1"
