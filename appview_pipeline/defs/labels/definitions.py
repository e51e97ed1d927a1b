"""Labels: the asset, its checks, and the sensor of the label process."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.labels.asset import labels
from appview_pipeline.defs.labels.checks import labelers_keep_up, reading_labels
from appview_pipeline.defs.labels.sensor import label_sensor

defs = dg.Definitions(assets=[labels], asset_checks=[reading_labels, labelers_keep_up], sensors=[label_sensor])
