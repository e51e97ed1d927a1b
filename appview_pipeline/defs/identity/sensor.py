"""The identity sensor: its ticks (`tick.py`) keep the identity process running and report what it resolved.

There is one for each database, so of several code locations with `APPVIEW_SHARD` only shard 0's has it. The sensor's
cursor in Dagster is how far the plots got; the truth is in `pipeline.identity`.
"""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.identity.tick import State, Tick
from appview_pipeline.defs.leases.leased_tick import evaluate
from appview_pipeline.defs.tables.groups import ACTORS, IDENTITY_SENSOR

_state = State()


@dg.sensor(
    name=IDENTITY_SENSOR,
    # The asset that it reports, for its page; it requests no runs of it.
    target=dg.AssetSelection.assets(ACTORS.key),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=5,
    description=(
        "Resolves accounts: keeps the identity process running, which looks up DID documents and handles of new "
        "accounts and after events, and reports what it found. A tick lasts most of a minute, requests no runs, and "
        "has its summary as its skip reason. Switching the sensor off ends the process within seconds; what waits is "
        "kept, and it goes on where it stopped."
    ),
)
def identity_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One tick. A second one at the same time (preview, time-out, reload) only says what the first is doing."""
    return evaluate(context, _state, Tick)
