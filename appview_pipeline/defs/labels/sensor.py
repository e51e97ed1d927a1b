"""The label sensor: its ticks (`tick.py`) keep the label process running, and report.

There is one for each database, so of several code locations with `APPVIEW_SHARD` only shard 0's has it. The sensor's
cursor in Dagster is when it last reported; the truth is in `pipeline.labeler`.
"""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.labels.asset import LABELS
from appview_pipeline.defs.labels.tick import State, Tick
from appview_pipeline.defs.leases.leased_tick import evaluate

LABEL_SENSOR = "label_sensor"

_state = State()


@dg.sensor(
    name=LABEL_SENSOR,
    # The asset that it reports, for its page; it requests no runs of it.
    target=dg.AssetSelection.assets(LABELS),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=5,
    description=(
        "Reads the streams of the labelers that APPVIEW_LABELERS names: keeps the label process running, and reports "
        "what came of each labeler. A tick lasts most of a minute, requests no runs, and has its summary as its skip "
        "reason. Switching the sensor off ends the process within seconds; each labeler's cursor stays where it is. "
        "With APPVIEW_LABELERS=none there is no process."
    ),
)
def label_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One tick. A second one at the same time (preview, time-out, reload) only says what the first is doing."""
    return evaluate(context, _state, Tick)
