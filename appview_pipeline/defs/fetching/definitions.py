"""Records fetched on demand: the asset and the sensor of the fetch process."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.fetching.asset import fetched_records
from appview_pipeline.defs.fetching.sensor import fetch_sensor

defs = dg.Definitions(assets=[fetched_records], sensors=[fetch_sensor])
