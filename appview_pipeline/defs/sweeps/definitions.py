"""What is deleted by age: our own rows, Dagster's history, and old records where a retention is set."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.sweeps.history import prune_history, prune_history_schedule
from appview_pipeline.defs.sweeps.retention import retention, retention_schedule
from appview_pipeline.defs.sweeps.sweep import sweep, sweep_schedule

defs = dg.Definitions(
    jobs=[sweep, prune_history, retention], schedules=[sweep_schedule, prune_history_schedule, retention_schedule]
)
