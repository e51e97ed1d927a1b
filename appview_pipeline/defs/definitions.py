"""Everything that Dagster loads: the definitions of every topic, merged once."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs import counters, database, dead_letters, privacy, removal
from appview_pipeline.defs.backfill import definitions as backfill
from appview_pipeline.defs.fetching import definitions as fetching
from appview_pipeline.defs.firehose import definitions as firehose
from appview_pipeline.defs.firehose.sensor import shard_of_location
from appview_pipeline.defs.health import definitions as health
from appview_pipeline.defs.identity import definitions as identity
from appview_pipeline.defs.labels import definitions as labels
from appview_pipeline.defs.sweeps import definitions as sweeps
from appview_pipeline.defs.tables import definitions as tables

# Assets, jobs and schedules are those of shard 0's code location: Dagster wants every asset and schedule once.
defs = (
    dg.Definitions.merge(
        database.defs,
        firehose.defs,
        tables.defs,
        identity.defs,
        backfill.defs,
        fetching.defs,
        labels.defs,
        health.defs,
        counters.defs,
        dead_letters.defs,
        privacy.defs,
        removal.defs,
        sweeps.defs,
        # A process per step would cost more than our steps do.
        dg.Definitions(executor=dg.in_process_executor),
    )
    if shard_of_location().is_first
    else firehose.sensor_alone
)
