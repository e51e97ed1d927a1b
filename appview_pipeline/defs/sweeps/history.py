"""Dagster's own history, which it keeps for ever: asset events, check results and runs. (Ticks: dagster.yaml.)"""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy import Connection, and_, delete, func, select

from appview_pipeline import settings
from appview_pipeline.defs.schedules import known_settings, usable_cron
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings

JOB = "prune_history"
VARIABLE = "APPVIEW_PRUNE_CRON"
FREQUENT_JOBS = (
    *("sweep", "close_gaps", "remove_accounts", "refresh_dids", "check_counters", "measure", "list_network"),
    JOB,
)
"""Jobs that run every few minutes or hours, all day: their runs are kept as long as the sensors' reports."""
# Deleted in one transaction: SQLite has one writer at a time, and the sensor must get its turn.
AT_ONCE = 2_000
RUNS_AT_ONCE = 500
"""Runs that are read at once."""
MAX_RUNS = 5_000
"""Runs of a job that one run of `prune_history` deletes, about; the next one goes on."""


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


def _shown_runs(instance: dg.DagsterInstance) -> set[str]:
    """The runs that made the newest event of a kind, asset and partition: with them the state of the asset would go."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    events = SqlEventLogStorageTable.c
    newest = (
        select(func.max(events.id))
        .where(events.asset_key.is_not(None))
        .group_by(events.dagster_event_type, events.asset_key, events.partition)
    )
    checks = AssetCheckExecutionsTable.c
    newest_check = select(func.max(checks.id)).group_by(checks.asset_key, checks.check_name, checks.partition)
    with storage.index_connection() as connection:
        runs = {row[0] for row in connection.execute(select(events.run_id).where(events.id.in_(newest)))}
        runs |= {row[0] for row in connection.execute(select(checks.run_id).where(checks.id.in_(newest_check)))}
    return runs - {RUNLESS_RUN_ID}


def _delete_run(instance: dg.DagsterInstance, run: str) -> None:
    """Deletes a run, and the files that Dagster leaves of it: what it printed, and, with SQLite, its events."""
    instance.delete_run(run)
    instance.compute_log_manager.delete_logs(prefix=[run])
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(storage.path_for_shard(run) + suffix).unlink(missing_ok=True)


def prune_runs(instance: dg.DagsterInstance, before: datetime, jobs: Collection[str] | None = None) -> int:
    """Deletes finished runs from before that time, of `jobs` (None: of all). Returns how many.

    Runs that made the newest event of an asset or partition stay. Deletes about `MAX_RUNS` of each job at most.
    """
    statuses = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    shown = _shown_runs(instance)
    deleted = 0
    for job in [None] if jobs is None else jobs:
        kept: str | None = None  # the last of those that stay: Dagster can't go on after a run that is gone
        most = deleted + MAX_RUNS
        while deleted < most:
            old = instance.get_run_records(
                dg.RunsFilter(job_name=job, statuses=statuses, created_before=before),
                limit=RUNS_AT_ONCE,
                ascending=True,
                cursor=kept,
            )
            for record in old:
                run = record.dagster_run.run_id
                if run in shown:
                    kept = run
                else:
                    _delete_run(instance, run)
                    deleted += 1
            if len(old) < RUNS_AT_ONCE:
                break
    return deleted


def _days_ago(days: float) -> datetime:
    return datetime.now(timezone.utc) - timedelta(days=days)


@dg.op(
    description="Deletes old asset events, check results and runs; what shows the state of an asset or partition stays."
)
def prune(context: dg.OpExecutionContext) -> None:
    """Prunes."""
    try:
        chosen = settings.load()
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    events = prune_events(context.instance, _days_ago(chosen.event_days))
    runs = prune_runs(context.instance, _days_ago(chosen.event_days), FREQUENT_JOBS)
    runs += prune_runs(context.instance, _days_ago(chosen.run_days))
    context.log.info(f"Deleted {events:,} asset events and check results, and {runs:,} runs")
    context.add_output_metadata({"events": events, "runs": runs})


@dg.job(
    name=JOB,
    description=(
        "Keeps Dagster's own history short: the sensors' asset events and check results, and finished runs. The newest "
        "of each asset and partition stays. docs/sweeps.md"
    ),
    tags={"dagster/max_runtime": "1800"},
)
def prune_history() -> None:
    """Prunes."""
    prune()


prune_history_schedule = dg.ScheduleDefinition(
    name="prune_history_schedule",
    job=prune_history,
    cron_schedule=usable_cron(VARIABLE, known_settings().prune_cron, Settings.prune_cron),
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
