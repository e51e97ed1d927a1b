"""The firehose: its asset and the sensor that indexes it."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.firehose.asset import firehose
from appview_pipeline.defs.firehose.sensor import firehose_sensor

sensor_alone = dg.Definitions(sensors=[firehose_sensor])
"""What the code location of another shard than 0 has."""

defs = dg.Definitions(assets=[firehose], sensors=[firehose_sensor])
