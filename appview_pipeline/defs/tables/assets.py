"""The assets of the table groups.

The firehose sensor reports what was applied as it happens. Materializing one of these assets by hand compares its rows
with the records of the partition's hours, repairs what differs, and measures what is there: sizes, records, and
counters against a recount.
"""

# No postponed annotations here: Dagster reads the types of its assets' parameters at definition.

from collections.abc import Iterator
from datetime import datetime, timedelta

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.in_sync import IN_SYNC
from appview_pipeline.defs.tables.columns import column_schema
from appview_pipeline.defs.tables.groups import GROUPS, IN_ORDER, TableGroup
from appview_pipeline.defs.tables.partitions import HOURS
from appview_pipeline.defs.tables.reruns import Metadata, RerunConfig, collections_of, rerun, rerun_metadata
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.verdict import what_to_do
from appview_pipeline.store import reports

RECOUNT = "equals_recount"


def _spec(group: TableGroup) -> dg.AssetSpec:
    named = ", ".join(f"`{table}`" for table in group.tables)
    collections = ", ".join(f"`{collection}`" for collection in group.collections or ())
    description = f"{group.description}\n\nTables of schema `bsky`: {named}."
    if collections:
        description += f" Records of {collections}."
    description += "\n\nPlots: `Partitions` shows hours, `Events` minutes."
    return dg.AssetSpec(
        key=group.key,
        deps=list(group.upstream),
        description=description,
        group_name=group.asset_group,
        owners=["team:appview"],
        kinds={"postgres"},
        partitions_def=HOURS,
        metadata={
            "dagster/column_schema": column_schema(group.tables),
            "dagster/table_name": f"bsky.{group.tables[0]}",
        },
    )


def _measure(index: IndexDatabase, group: TableGroup, since: datetime, until: datetime) -> Metadata:
    """What is there of the partition's hours: few numbers, since Dagster plots every one; the rest in `details`."""
    with index.open().connect("maintenance") as connection:
        sizes = reports.table_sizes(connection, group.tables)
        written = reports.written_between(connection, since, until)
        details: dict[str, int | str | None] = {
            f"estimated_rows {size.name}": size.estimated_rows for size in sizes if size.estimated_rows >= 0
        }
        rows = sum(written.get(table, 0) for table in group.tables)
        measured: Metadata = {"bytes_on_disk": sum(size.bytes for size in sizes)}
        if until - since <= timedelta(hours=1):
            measured["rows_in_hour"] = rows
        else:
            details["rows_written"] = rows
        if group.collections != ():
            records = reports.partition_records(connection, since, until, group.collections)
            details["records"] = records.records
            details["repositories"] = records.repositories
            details["newest_indexed_at"] = records.newest
    return measured | {"details": dg.MetadataValue.json(details)}


def _recount(index: IndexDatabase, group: TableGroup, since: datetime, until: datetime) -> dg.AssetCheckResult:
    assert group.check is not None
    with index.open().connect("maintenance") as connection:
        drift = reports.aggregate_drift(connection, group.check, since, until)
    examples = f" Among them {', '.join(drift.examples)}." if drift.examples else ""
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(group.key),
        check_name=RECOUNT,
        passed=drift.differing <= settings.load().drift_warning_counters,
        description=f"{drift.differing:,} of {drift.compared:,} counters differ from a recount.{examples}",
        metadata={"compared": drift.compared, "differing": drift.differing},
    )


@dg.multi_asset(
    name="tables",
    specs=[_spec(group) for group in GROUPS],
    check_specs=[
        dg.AssetCheckSpec(
            RECOUNT,
            asset=group.key,
            description=(
                "Counters touched in the partition equal a recount (a sample of 2,000). Threshold: "
                f"`APPVIEW_DRIFT_WARNING_COUNTERS`. What to do when it fails: {what_to_do(RECOUNT)}"
            ),
        )
        for group in GROUPS
        if group.check is not None
    ],
    can_subset=True,
    # One run for all hours selected: a run costs more than most hours do.
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def index_tables(
    context: dg.AssetExecutionContext, config: RerunConfig, index: IndexDatabase
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Compares the selected groups with the records of the selected hours, repairs what differs, and measures."""
    since, until = context.partition_time_window
    checked = {key.asset_key for key in context.selected_asset_check_keys}
    try:
        index.open()
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    selected = [group for group in IN_ORDER if dg.AssetKey(group.key) in context.selected_asset_keys]
    found = rerun(context, index, selected, since, until, config)
    for group in IN_ORDER:
        key = dg.AssetKey(group.key)
        if key in context.selected_asset_keys:
            measured = _measure(index, group, since, until)
            context.log.info(f"{group.key} from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}: {measured}")
            if found is not None and collections_of([group]):
                measured |= rerun_metadata(group, found)
            yield dg.MaterializeResult(asset_key=key, metadata=measured, data_version=IN_SYNC)
        if key in checked:
            yield _recount(index, group, since, until)
