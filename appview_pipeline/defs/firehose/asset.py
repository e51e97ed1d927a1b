"""The asset `firehose`: the relay's event stream."""

# No postponed annotations here: Dagster reads the types of its assets' parameters at definition.

from datetime import timedelta

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.firehose.events import FIREHOSE
from appview_pipeline.defs.in_sync import IN_SYNC
from appview_pipeline.store import reports


@dg.asset(
    key=FIREHOSE,
    group_name="network",
    owners=["team:appview"],
    kinds={"websocket", "atproto"},
    description=(
        "Events of the relay (`com.atproto.sync.subscribeRepos`), applied in micro-batches: rows, counters, "
        "notifications and the stream's cursor commit together, so a crash repeats work and never skips or doubles it. "
        "What can't be indexed is in `pipeline.dead_letter`.\n\nThe firehose sensor materializes it every few seconds. "
        "Materialized by hand it says where the stream stands."
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
        shards = reports.stream_state(connection, relay)
    details: dict[str, int | float | str] = {"relay": relay}
    metadata: dict[str, float | dg.MetadataValue] = {}
    if shards:
        details["last_seq"] = max(shard.seq for shard in shards)
        details["seconds_since_last_event"] = min(shard.idle_seconds for shard in shards)
        details["batches_of_last_hour"] = sum(shard.batches for shard in shards)
        details["events_of_last_hour"] = sum(shard.events for shard in shards)
        details["rejected_of_last_hour"] = sum(shard.rejected for shard in shards)
        lags = [shard.lag_seconds for shard in shards if shard.lag_seconds is not None]
        if lags:
            metadata["lag_seconds"] = max(lags)
        if len(shards) > 1:
            metadata |= {f"lag_seconds {it.shard}": it.lag_seconds for it in shards if it.lag_seconds is not None}
    metadata["details"] = dg.MetadataValue.json(details)
    return dg.MaterializeResult(metadata=metadata, data_version=IN_SYNC)
