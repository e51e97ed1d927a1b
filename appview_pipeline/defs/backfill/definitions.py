"""Repositories: the listing of the network, the backfill, and what closes gaps."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.backfill.audit import audit_job, audit_sample, audit_schedule
from appview_pipeline.defs.backfill.cursor_range import replay_cursor_range
from appview_pipeline.defs.backfill.gaps import close_gaps, close_gaps_schedule
from appview_pipeline.defs.backfill.listing import backfill_schedule, backfill_sensor, list_network_job, network_listing
from appview_pipeline.defs.backfill.repositories import backfill, repositories
from appview_pipeline.defs.backfill.resync import resync

defs = dg.Definitions(
    assets=[network_listing, repositories],
    asset_checks=[audit_sample],
    jobs=[list_network_job, backfill, close_gaps, resync, replay_cursor_range, audit_job],
    schedules=[backfill_schedule, close_gaps_schedule, audit_schedule],
    sensors=[backfill_sensor],
)
