"""Labels: the asset and the sensor of the label process."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.labels.asset import labels
from appview_pipeline.defs.labels.sensor import label_sensor

defs = dg.Definitions(assets=[labels], sensors=[label_sensor])
