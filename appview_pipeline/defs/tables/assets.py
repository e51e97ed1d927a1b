"""The assets: the firehose and the families of tables, with the lineage between them.

The firehose sensor reports what was applied as it happens. Materializing one of these assets by hand compares what is
derived with the records of the partition's hours and repairs what differs, and measures what is there: sizes, records,
and counters against a recount.
"""

# No postponed annotations here: Dagster reads the types of its assets' parameters at definition.

from collections.abc import Iterator
from datetime import datetime, timedelta

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.firehose import reports
from appview_pipeline.defs.tables.groups import FAMILIES, IN_ORDER, Family
from appview_pipeline.defs.tables.partitions import HOURS
from appview_pipeline.defs.tables.reruns import Metadata, RerunConfig, collections_of, rerun, rerun_metadata
from appview_pipeline.errors import OperatorError
from appview_pipeline.store import reports as stored_reports
from appview_pipeline.store.columns import tables

OWNERS = ("team:appview",)
RECOUNT = "equals_recount"


def _column_schema(family: Family) -> dg.TableSchema:
    """Columns of the family's main table by name, those of its other tables by `table.column`."""
    declared = tables()
    columns: list[dg.TableColumn] = []
    for table in family.tables:
        prefix = "" if table == family.tables[0] else f"{table}."
        columns += [
            dg.TableColumn(
                name=f"{prefix}{column.name}",
                type=column.type,
                description="Not in the reference's schema." if column.ours else None,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in declared[f"bsky.{table}"]
        ]
    return dg.TableSchema(columns=columns)


def _spec(family: Family) -> dg.AssetSpec:
    named = ", ".join(f"`{table}`" for table in family.tables)
    collections = ", ".join(f"`{collection}`" for collection in family.collections or ())
    description = f"{family.description}\n\nTables of schema `bsky`: {named}."
    if collections:
        description += f" Records of {collections}."
    return dg.AssetSpec(
        key=family.key,
        deps=list(family.upstream),
        description=description,
        group_name=family.group,
        owners=list(OWNERS),
        kinds={"postgres"},
        partitions_def=HOURS,
        metadata={
            "dagster/column_schema": _column_schema(family),
            "dagster/table_name": f"bsky.{family.tables[0]}",
        },
    )


@dg.asset(
    key=reports.FIREHOSE,
    group_name="network",
    owners=list(OWNERS),
    kinds={"websocket", "atproto"},
    description=(
        "Events of the relay (`com.atproto.sync.subscribeRepos`), applied in micro-batches: rows, counters, "
        "notifications and the stream's cursor commit together, so a crash repeats work and never skips or doubles it. "
        "What can't be indexed is in `pipeline.dead_letter`.\n\nMaterialized by the firehose sensor every few seconds; "
        "materialized by hand it says where the stream stands."
    ),
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(minutes=15), warn_window=timedelta(minutes=3)
    ),
    op_tags={"dagster/max_runtime": "600"},
)
def firehose(index: IndexDatabase) -> dg.MaterializeResult[None]:
    """Where the stream stands: cursor, lag, and the batches of the last hour, summed over its shards."""
    relay = settings.load().relay_url
    with index.open().connect("reader") as connection:
        shards = stored_reports.stream_state(connection, relay)
    metadata: dict[str, int | float | str] = {"relay": relay}
    if shards:
        metadata["last_seq"] = max(shard.seq for shard in shards)
        metadata["seconds_since_last_event"] = min(shard.idle_seconds for shard in shards)
        metadata["batches_of_last_hour"] = sum(shard.batches for shard in shards)
        metadata["events_of_last_hour"] = sum(shard.events for shard in shards)
        metadata["rejected_of_last_hour"] = sum(shard.rejected for shard in shards)
        lags = [shard.lag_seconds for shard in shards if shard.lag_seconds is not None]
        if lags:
            metadata["lag_seconds"] = max(lags)
        if len(shards) > 1:
            metadata |= {f"lag_seconds {it.shard}": it.lag_seconds for it in shards if it.lag_seconds is not None}
    return dg.MaterializeResult(metadata=metadata)


@dg.asset_check(
    asset=firehose,
    name="keeps_up",
    description=f"The newest event applied is less than {reports.LAG_WARNING_SECONDS:.0f} s old.",
)
def keeps_up(index: IndexDatabase) -> dg.AssetCheckResult:
    """The lag of the shard that is furthest behind."""
    with index.open().connect("reader") as connection:
        shards = stored_reports.stream_state(connection, settings.load().relay_url)
    return reports.stream_result(shards)


@dg.asset_check(
    asset=firehose,
    name="few_dead_letters",
    description=f"At most {reports.REJECTED_WARNING_RATIO:.1%} of the last hour's events have a dead letter.",
)
def few_dead_letters(index: IndexDatabase) -> dg.AssetCheckResult:
    """Dead letters against events of the last hour."""
    with index.open().connect("reader") as connection:
        shards = stored_reports.stream_state(connection, settings.load().relay_url)
    return reports.rejected_result(sum(shard.events for shard in shards), sum(shard.rejected for shard in shards))


def _measure(index: IndexDatabase, family: Family, since: datetime, until: datetime) -> Metadata:
    database = index.open()
    with database.connect("maintenance") as connection:
        sizes = stored_reports.table_sizes(connection, family.tables)
        written = stored_reports.written_between(connection, since, until)
        measured: Metadata = {
            "rows_written": sum(written.get(table, 0) for table in family.tables),
            "bytes_on_disk": sum(size.bytes for size in sizes),
        }
        for size in sizes:
            if size.estimated_rows >= 0:
                measured[f"estimated_rows {size.name}"] = size.estimated_rows
        if family.collections != ():
            records = stored_reports.partition_records(connection, since, until, family.collections)
            measured["records"] = records.records
            measured["repositories"] = records.repositories
            if records.newest is not None:
                measured["newest_indexed_at"] = records.newest
    return measured


def _recount(index: IndexDatabase, family: Family, since: datetime, until: datetime) -> dg.AssetCheckResult:
    assert family.check is not None
    with index.open().connect("maintenance") as connection:
        drift = stored_reports.aggregate_drift(connection, family.check, since, until)
    examples = f" Among them {', '.join(drift.examples)}." if drift.examples else ""
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(family.key),
        check_name=RECOUNT,
        passed=drift.differing == 0,
        description=f"{drift.differing:,} of {drift.compared:,} counters differ from a recount.{examples}",
        metadata={"compared": drift.compared, "differing": drift.differing},
    )


@dg.multi_asset(
    name="tables",
    specs=[_spec(family) for family in FAMILIES],
    check_specs=[
        dg.AssetCheckSpec(
            RECOUNT,
            asset=family.key,
            description="Counters touched in the partition equal a recount (a sample of 2,000).",
        )
        for family in FAMILIES
        if family.check is not None
    ],
    can_subset=True,
    # One run for all hours selected: a run costs more than most hours do.
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def index_tables(
    context: dg.AssetExecutionContext, config: RerunConfig, index: IndexDatabase
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Compares the selected families with the records of the selected hours, repairs what differs, and measures."""
    since, until = context.partition_time_window
    checked = {key.asset_key for key in context.selected_asset_check_keys}
    try:
        index.open()
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    selected = [family for family in IN_ORDER if dg.AssetKey(family.key) in context.selected_asset_keys]
    found = rerun(context, index, selected, since, until, config)
    for family in IN_ORDER:
        key = dg.AssetKey(family.key)
        if key in context.selected_asset_keys:
            measured = _measure(index, family, since, until)
            context.log.info(f"{family.key} from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}: {measured}")
            if found is not None and collections_of([family]):
                measured |= rerun_metadata(family, found)
            yield dg.MaterializeResult(asset_key=key, metadata=measured)
        if key in checked:
            yield _recount(index, family, since, until)
