"""Everything that Dagster loads, composed in one place."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.firehose_sensor import firehose_sensor
from appview_pipeline.defs.history import housekeeping, housekeeping_schedule
from appview_pipeline.defs.index import few_dead_letters, firehose, index_tables, keeps_up

defs = dg.Definitions(
    assets=[firehose, index_tables],
    asset_checks=[keeps_up, few_dead_letters],
    jobs=[housekeeping],
    schedules=[housekeeping_schedule],
    sensors=[firehose_sensor],
    resources={"index": IndexDatabase()},
    # A process per step would cost more than our steps do.
    executor=dg.in_process_executor,
)
