"""Records fetched on demand: the asset, its checks, and the sensor of the fetch process."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.fetching.asset import fetched_records
from appview_pipeline.defs.fetching.checks import fetches_succeed, fetching
from appview_pipeline.defs.fetching.sensor import fetch_sensor

defs = dg.Definitions(assets=[fetched_records], asset_checks=[fetching, fetches_succeed], sensors=[fetch_sensor])
