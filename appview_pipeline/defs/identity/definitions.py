"""Resolution: the sensor that reports the asset `actors`, and the job `refresh_dids`."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.identity.refresh import refresh_dids, refresh_dids_schedule
from appview_pipeline.defs.identity.sensor import identity_sensor

defs = dg.Definitions(
    jobs=[refresh_dids],
    schedules=[refresh_dids_schedule],
    sensors=[identity_sensor],
)
