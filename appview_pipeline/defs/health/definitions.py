"""Health: the checks, who evaluates them and who says what fails, and the assets `database` and `dagster`."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.health.alerts import check_alerts, run_alerts
from appview_pipeline.defs.health.assets import dagster_asset, database_asset, measure, measure_schedule
from appview_pipeline.defs.health.checks import health_checks
from appview_pipeline.defs.health.sensor import health_sensor

defs = dg.Definitions(
    assets=[database_asset, dagster_asset],
    asset_checks=[health_checks],
    jobs=[measure],
    schedules=[measure_schedule],
    sensors=[health_sensor, check_alerts, run_alerts],
)
