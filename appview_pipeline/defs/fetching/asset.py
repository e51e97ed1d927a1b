"""The asset `fetched_records`: records that others depend on, fetched one by one."""

# No postponed annotations here: Dagster reads the types of its assets' parameters at definition.

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.backfill.words import count_table
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.in_sync import IN_SYNC
from appview_pipeline.store.pending import pending_state

FETCHED_RECORDS = dg.AssetKey("fetched_records")


@dg.asset(
    key=FETCHED_RECORDS,
    deps=["firehose"],
    group_name="network",
    owners=["team:appview"],
    kinds={"atproto"},
    description=(
        "Records that records of the stream depend on and that the index does not have (parents and roots of replies, "
        "quoted posts, gates, lists, profiles of new accounts), each fetched from its PDS "
        "(`com.atproto.sync.getRecord`) and proved. They go through the one write path, and what waited for them is "
        "evaluated. Three attempts within 24 hours.\n\nThe fetch sensor materializes it while there is something to "
        "report. Materialized by hand it says what is missing. docs/on-demand.md"
    ),
    op_tags={"dagster/max_runtime": "600"},
)
def fetched_records(index: IndexDatabase) -> dg.MaterializeResult[None]:
    """What is missing now."""
    with index.open().connect("reader") as connection:
        state = pending_state(connection)
    metadata: dict[str, int | float | dg.MetadataValue] = {
        "queue_length": state.open,
        "queue_age_seconds": round(state.oldest_seconds or 0.0, 1),
        "given_up": state.given_up,
    }
    if state.by_kind:
        metadata["missing"] = count_table("what waits", "missing records", state.by_kind)
    if settings.load().skip_pds_fetching:
        metadata["switched_off"] = dg.MetadataValue.text("APPVIEW_SKIP_PDS_FETCHING is on: nothing is fetched.")
    return dg.MaterializeResult(metadata=metadata, data_version=IN_SYNC)
