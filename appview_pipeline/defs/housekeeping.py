"""Housekeeping of histories: Dagster's asset events, which it keeps for ever, and our rows of micro-batches."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

from datetime import datetime, timedelta, timezone

import dagster as dg
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from pydantic import Field
from sqlalchemy import Connection, and_, delete, func, select

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.dead_letters import sweep_dead_letters, sweep_gaps
from appview_pipeline.store import backfill_reports, reports
from appview_pipeline.store.fetch_reports import sweep_fetch_reports
from appview_pipeline.store.identity_reports import sweep_reports
from appview_pipeline.store.label_sweep import sweep_label_events
from appview_pipeline.store.pending import sweep_pending

JOB = "housekeeping"
FREQUENT_JOBS = ("close_gaps",)
"""Jobs that run every few minutes, all day: their runs are kept as long as the sensors' reports."""
# Deleted in one transaction: SQLite has one writer at a time, and the sensor must get its turn.
AT_ONCE = 2_000
RUNS_AT_ONCE = 1_000
"""Runs of a job that are deleted at once: a job that runs each minute has 360 in the six hours between."""


def _delete_old_events(connection: Connection, before: datetime) -> int:
    """Deletes at most `AT_ONCE` runless events older than `before` (naive UTC, as Dagster stores it)."""
    events = SqlEventLogStorageTable.c
    # The newest of each kind, asset and partition is what the UI shows as the state of the asset or partition.
    newest = (
        select(func.max(events.id))
        .where(events.run_id == RUNLESS_RUN_ID)
        .group_by(events.dagster_event_type, events.asset_key, events.partition)
    )
    chosen = (
        select(events.id)
        .where(and_(events.run_id == RUNLESS_RUN_ID, events.timestamp < before, events.id.not_in(newest)))
        .order_by(events.id)
        .limit(AT_ONCE)
    )
    ids = [row[0] for row in connection.execute(chosen)]
    if ids:
        connection.execute(delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(ids)))
        connection.execute(delete(SqlEventLogStorageTable).where(events.id.in_(ids)))
    return len(ids)


def _delete_old_evaluations(connection: Connection, before: datetime) -> int:
    """Deletes at most `AT_ONCE` check evaluations older than `before`, but never a check's newest."""
    checks = AssetCheckExecutionsTable.c
    newest = select(func.max(checks.id)).group_by(checks.asset_key, checks.check_name, checks.partition)
    chosen = (
        select(checks.id)
        .where(and_(checks.run_id == RUNLESS_RUN_ID, checks.create_timestamp < before, checks.id.not_in(newest)))
        .order_by(checks.id)
        .limit(AT_ONCE)
    )
    ids = [row[0] for row in connection.execute(chosen)]
    if ids:
        connection.execute(delete(AssetCheckExecutionsTable).where(checks.id.in_(ids)))
    return len(ids)


def prune_events(instance: dg.DagsterInstance, before: datetime) -> int:
    """Deletes asset events without a run, and check evaluations, from before that time. Returns how many.

    Dagster has no retention for these and no call to delete them, so its own tables are used, through its own
    connections: SQLite's two files (the index and the shard of runless events) and PostgreSQL alike.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise dg.Failure(f"don't know how to prune {type(storage).__name__}: only Dagster's SQL storages are known")
    moment = before.astimezone(timezone.utc).replace(tzinfo=None)
    deleted = 0
    while True:
        with storage.index_connection() as connection:
            some = _delete_old_events(connection, moment) + _delete_old_evaluations(connection, moment)
        if isinstance(storage, SqliteEventLogStorage):
            with storage.run_connection(RUNLESS_RUN_ID) as connection:
                mirrored = _delete_old_events(connection, moment)
        else:
            mirrored = 0
        deleted += some
        if some == mirrored == 0:
            return deleted


def prune_runs(instance: dg.DagsterInstance, before: datetime, job: str = JOB) -> int:
    """Deletes finished runs of a job from before that time, at most `RUNS_AT_ONCE`. Returns how many."""
    old = instance.get_run_records(
        dg.RunsFilter(
            job_name=job,
            statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED],
            created_before=before,
        ),
        limit=RUNS_AT_ONCE,
    )
    for record in old:
        instance.delete_run(record.dagster_run.run_id)
    return len(old)


class HistoryRetention(dg.Config):
    """How long to keep Dagster's history."""

    event_days: float = Field(
        3.0, gt=0, description="Days of asset events without a run (the sensors' reports), and of runs of close_gaps."
    )
    run_days: float = Field(14.0, gt=0, description="Days of finished housekeeping runs.")


class BatchRetention(dg.Config):
    """How long to keep the rows of micro-batches."""

    days: float = Field(
        7.0, gt=0, description="Days of rows in pipeline.batch, identity_batch, fetch_batch and backfill_batch."
    )


class MissingRetention(dg.Config):
    """How long to keep rows of missing records that are not fetched any more."""

    days: float = Field(3.0, ge=0, description="Days after the day in which they are fetched.")


def _days_ago(days: float) -> datetime:
    return datetime.now(timezone.utc) - timedelta(days=days)


@dg.op(
    description="Deletes old asset events and housekeeping runs; the newest event of each asset and partition stays."
)
def prune_history(context: dg.OpExecutionContext, config: HistoryRetention) -> None:
    """Prunes Dagster's event log."""
    events = prune_events(context.instance, _days_ago(config.event_days))
    runs = prune_runs(context.instance, _days_ago(config.run_days))
    runs += sum(prune_runs(context.instance, _days_ago(config.event_days), job) for job in FREQUENT_JOBS)
    context.log.info(f"Deleted {events:,} asset events and {runs:,} runs")
    context.add_output_metadata({"events": events, "runs": runs})


@dg.op(description="Deletes old rows of what the leased processes and the backfill report.")
def sweep_batches(context: dg.OpExecutionContext, config: BatchRetention, index: IndexDatabase) -> None:
    """Sweeps what the leased processes and the backfill report."""
    before = _days_ago(config.days)
    with index.open().connect("maintenance") as connection:
        swept = {
            "rows": reports.sweep_batches(connection, before),
            "rows of resolution": sweep_reports(connection, before),
            "rows of fetching": sweep_fetch_reports(connection, before),
            "rows of backfills": backfill_reports.sweep_reports(connection, before),
        }
    context.log.info("Deleted: " + ", ".join(f"{name} {count:,}" for name, count in swept.items()))
    context.add_output_metadata(swept)


@dg.op(
    description="Deletes rows of pipeline.pending that are not fetched any more; those of replies wait for the parent."
)
def sweep_missing(context: dg.OpExecutionContext, config: MissingRetention, index: IndexDatabase) -> None:
    """Sweeps what was missing and is not fetched any more."""
    with index.open().connect("maintenance") as connection:
        swept = sweep_pending(connection, _days_ago(config.days))
    context.log.info(f"Deleted {swept:,} rows of pipeline.pending")
    context.add_output_metadata({"rows": swept})


@dg.op(description="Deletes label events older than APPVIEW_LABEL_EVENT_DAYS that decide nothing any more.")
def sweep_labels(context: dg.OpExecutionContext, index: IndexDatabase) -> None:
    """Sweeps `pipeline.label_event`."""
    before = _days_ago(settings.load().label_event_days)
    with index.open().connect("maintenance") as connection:
        swept = sweep_label_events(connection, before)
    context.log.info(f"Deleted {swept:,} label events")
    context.add_output_metadata({"rows": swept})


@dg.job(
    name=JOB,
    description="Keeps histories bounded: Dagster's asset events, our rows of micro-batches, dead letters, gaps, "
    "missing records, label events.",
    tags={"dagster/max_runtime": "1800"},
)
def housekeeping() -> None:
    """Prunes and sweeps."""
    prune_history()
    sweep_batches()
    sweep_dead_letters()
    sweep_gaps()
    sweep_labels()
    sweep_missing()


housekeeping_schedule = dg.ScheduleDefinition(
    name="housekeeping_schedule",
    job=housekeeping,
    cron_schedule="17 */6 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

defs = dg.Definitions(jobs=[housekeeping], schedules=[housekeeping_schedule])
