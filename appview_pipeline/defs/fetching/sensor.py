"""The fetch sensor: its ticks (`tick.py`) keep the fetch process running, and report.

There is one for each database, so of several code locations with `APPVIEW_SHARD` only shard 0's has it. The sensor's
cursor in Dagster is how far the plots got; the truth is in `pipeline.pending`.
"""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.fetching.asset import FETCHED_RECORDS
from appview_pipeline.defs.fetching.tick import State, Tick
from appview_pipeline.defs.leases.leased_tick import evaluate

FETCH_SENSOR = "fetch_sensor"

_state = State()


@dg.sensor(
    name=FETCH_SENSOR,
    # The asset that it reports, for its page; it requests no runs of it.
    target=dg.AssetSelection.assets(FETCHED_RECORDS),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=5,
    description=(
        "Fetches what records of the stream depend on and the index lacks, and checks signatures that could not be "
        "checked when their commits came: keeps the fetch process running, and reports what it did and how complete "
        "the index is. A tick lasts most of a minute, requests no runs, and has its summary as its skip reason. "
        "Switching the sensor off ends the process within seconds; what is missing stays listed, and it goes on where "
        "it stopped."
    ),
)
def fetch_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One tick. A second one at the same time (preview, time-out, reload) only says what the first is doing."""
    return evaluate(context, _state, Tick)
