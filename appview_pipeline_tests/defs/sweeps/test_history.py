"""Dagster's own history is kept short."""

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
from dagster._utils.schedules import schedule_execution_time_iterator

from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.sweeps import history
from appview_pipeline_tests.support.dagster_events import reported


def postgres_storage(url: str) -> dict[str, Any]:
    return {"storage": {"postgres": {"postgres_url": url}}}


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
def test_pruning_keeps_the_newest_of_each_asset_and_partition(
    storage: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "AT_ONCE", 7)
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
        assert history.prune_events(instance, now - timedelta(hours=1)) == 0
        deleted = history.prune_events(instance, now + timedelta(hours=1))
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


def test_runs_go_but_those_that_show_the_state_of_an_asset(tmp_path: Path) -> None:
    @dg.asset
    def old_news() -> dg.MaterializeResult:  # type: ignore[type-arg]
        return dg.MaterializeResult(metadata={"n": 1})

    @dg.op
    def nothing() -> None: ...

    @dg.job
    def sweep() -> None:
        nothing()

    later = datetime.now(timezone.utc) + timedelta(hours=1)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        made = [dg.materialize([old_news], instance=instance).run_id for _ in range(3)]
        swept = [sweep.execute_in_process(instance=instance).run_id for _ in range(3)]
        assert history.prune_runs(instance, later - timedelta(hours=2)) == 0
        assert history.prune_runs(instance, later, ["sweep"]) == 3
        assert not any(instance.get_run_by_id(run) for run in swept)
        assert history.prune_runs(instance, later) == 2
        assert [run for run in made if instance.get_run_by_id(run)] == made[-1:]
        assert instance.get_latest_materialization_event(dg.AssetKey("old_news")) is not None
        assert history.prune_runs(instance, later) == 0


def test_many_runs_are_pruned_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RUNS_AT_ONCE", 2)
    monkeypatch.setattr(history, "MAX_RUNS", 20)

    @dg.asset
    def news() -> None: ...

    later = datetime.now(timezone.utc) + timedelta(hours=1)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        for _ in range(7):
            dg.materialize([news], instance=instance)
        assert history.prune_runs(instance, later) == 6


def test_nothing_of_a_run_that_is_deleted_stays_on_the_disk(tmp_path: Path) -> None:
    """Dagster itself leaves files: what the run printed, and, with SQLite, its events."""

    @dg.op
    def chatter() -> None:
        print("words")

    @dg.job
    def sweep() -> None:
        chatter()

    later = datetime.now(timezone.utc) + timedelta(hours=1)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        run = sweep.execute_in_process(instance=instance).run_id
        named = {path.name if path.suffix == ".db" else "logs" for path in tmp_path.rglob("*") if run in str(path)}
        assert named == {f"{run}.db", "logs"}
        assert history.prune_runs(instance, later) == 1
        assert [path for path in tmp_path.rglob("*") if run in str(path)] == []
        sweep.execute_in_process(instance=instance)
        assert history.prune_runs(instance, later) == 1


def test_all_jobs_that_begin_more_than_once_a_day_are_frequent() -> None:
    often = set()
    for schedule in defs.get_repository_def().schedule_defs:
        ticks = schedule_execution_time_iterator(0.0, schedule.cron_schedule, "UTC")
        if next(ticks) + timedelta(hours=23) > next(ticks):
            often.add(schedule.job_name)
    assert often == set(history.FREQUENT_JOBS)


def test_runs_that_stay_are_not_in_the_way_of_those_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "RUNS_AT_ONCE", 2)
    monkeypatch.setattr(history, "MAX_RUNS", 2)
    names = ("a", "b", "c", "d")

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition([*names]))
    def news() -> None: ...

    later = datetime.now(timezone.utc) + timedelta(hours=1)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        for name in (*names, "d", "d", "d"):
            dg.materialize([news], instance=instance, partition_key=name)
        assert history.prune_runs(instance, later) == 3
        assert history.prune_runs(instance, later) == 0


def test_the_job_runs(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        job = defs.resolve_job_def(history.JOB)
        for _ in range(2):
            assert job.execute_in_process(instance=instance).success
        assert history.prune_runs(instance, datetime.now(timezone.utc) + timedelta(hours=1), [history.JOB]) == 2
