"""The assets `database` and `dagster`: how large the database is, how long its disk lasts, what failed in Dagster.

A job measures them every hour; the checks on both are evaluated by the health sensor.
"""

# No postponed annotations here: Dagster reads the types of its assets' parameters at definition.

from datetime import timedelta

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.health import dagster_state
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.health_report import read_health
from appview_pipeline.store.table_sizes import MeasuredTable, measure_tables

SHOWN_TABLES = 20


@dg.asset(
    key="database",
    group_name="operations",
    owners=["team:appview"],
    kinds={"postgres"},
    description=(
        "PostgreSQL: how large it is, how it grows, and how long its disk lasts. Measured every hour "
        "(`pipeline.table_size`); its checks say whether it is well."
    ),
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=4), warn_window=timedelta(minutes=130)),
    op_tags={"dagster/max_runtime": "600"},
)
def database_asset(context: dg.AssetExecutionContext, index: IndexDatabase) -> dg.MaterializeResult[None]:
    """Measures the tables, and says how long the disk lasts."""
    chosen = settings.load()
    try:
        with index.open().connect("maintenance") as connection:
            measured = measure_tables(connection)
        with index.open().connect("health") as connection:
            report = read_health(connection, chosen)
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    disk, server = report.disk, report.server
    metadata: dict[str, int | float | dg.MetadataValue] = {
        "database_bytes": disk.bytes,
        "connections": server.connections,
        "transaction_id_age": server.transaction_id_age,
    }
    if disk.free_bytes is not None:
        metadata["free_bytes"] = disk.free_bytes
    if disk.growth is not None:
        metadata["growth_bytes_a_day"] = round(disk.growth)
    if disk.days_left is not None:
        metadata["days_left"] = round(disk.days_left, 1)
    metadata["largest_tables"] = _table(measured[:SHOWN_TABLES])
    metadata["details"] = dg.MetadataValue.json({"tables": len(measured), "server_version": server.version})
    context.log.info(f"{len(measured):,} tables measured")
    return dg.MaterializeResult(metadata=metadata)


def _table(measured: list[MeasuredTable]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord({"table": it.name, "bytes": it.bytes, "rows (estimate)": it.rows}) for it in measured],
        dg.TableSchema(
            [
                dg.TableColumn("table", "string"),
                dg.TableColumn("bytes", "int"),
                dg.TableColumn("rows (estimate)", "int"),
            ]
        ),
    )


@dg.asset(
    key="dagster",
    group_name="operations",
    owners=["team:appview"],
    kinds={"dagster"},
    description=(
        "Dagster itself: ticks and runs that failed, as its storage has them. Its checks say whether something failed "
        "that nothing has made good since."
    ),
    op_tags={"dagster/max_runtime": "600"},
)
def dagster_asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """Counts what failed."""
    failures = dagster_state.read_failures(context.instance)
    return dg.MaterializeResult(
        metadata={
            "failed_ticks_of_last_hour": sum(failures.ticks.values()),
            "failed_runs_of_last_day": sum(failures.runs.values()),
            "details": dg.MetadataValue.json(
                {"ticks": dict(failures.ticks), "errors": dict(failures.tick_errors), "runs": dict(failures.runs)}
            ),
        }
    )


measure = dg.define_asset_job(
    "measure",
    selection=dg.AssetSelection.assets(database_asset, dagster_asset).without_checks(),
    description="Measures how large tables are and how they grow, and counts ticks and runs that failed.",
    tags={"dagster/max_runtime": "600"},
)

measure_schedule = dg.ScheduleDefinition(
    name="measure_schedule",
    job=measure,
    cron_schedule="7 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
