"""Everything that Dagster loads, composed in one place."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.dead_letters import dead_letters, retry_dead_letters
from appview_pipeline.defs.firehose.sensor import firehose_sensor, shard_of_location
from appview_pipeline.defs.housekeeping import housekeeping, housekeeping_schedule
from appview_pipeline.defs.tables.assets import few_dead_letters, firehose, index_tables, keeps_up
from appview_pipeline.defs.tables.reruns import (
    check_counters,
    check_counters_schedule,
    post_counters,
    profile_counters,
    repair_counters,
)

# Assets, jobs and schedules are those of shard 0's code location: Dagster wants every asset and schedule once.
defs = (
    dg.Definitions(
        assets=[firehose, index_tables, dead_letters],
        asset_checks=[keeps_up, few_dead_letters, post_counters, profile_counters],
        jobs=[housekeeping, check_counters, repair_counters, retry_dead_letters],
        schedules=[housekeeping_schedule, check_counters_schedule],
        sensors=[firehose_sensor],
        resources={"index": IndexDatabase()},
        # A process per step would cost more than our steps do.
        executor=dg.in_process_executor,
    )
    if shard_of_location().is_first
    else dg.Definitions(sensors=[firehose_sensor])
)
