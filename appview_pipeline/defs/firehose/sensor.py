"""The firehose sensor: its ticks (`tick.py`) keep the consumer running and report what it applied.

The sensor's cursor in Dagster is how far the plots got; the truth is `pipeline.cursor`. A code location with
`APPVIEW_SHARD` has the sensor of that shard; it has the shard in its name, and reports its shard's batches only.
"""

from __future__ import annotations

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.firehose.events import FIREHOSE
from appview_pipeline.defs.firehose.tick import State, Tick
from appview_pipeline.defs.leases.leased_tick import evaluate
from appview_pipeline.defs.tables.groups import FIREHOSE_SENSOR, GROUPS
from appview_pipeline.errors import OperatorError
from appview_pipeline.shards import WHOLE, Shard

_state = State()


def shard_of_location() -> Shard:
    """The shard of this code location. The ticks report a setting that can't be read."""
    try:
        return settings.load().shard
    except OperatorError:
        return WHOLE


def sensor_name(shard: Shard) -> str:
    """`firehose_sensor`; with the shard where there are several, so that each has a switch and a history of its own."""
    return FIREHOSE_SENSOR if shard == WHOLE else f"{FIREHOSE_SENSOR}_{shard.index}_of_{shard.count}"


@dg.sensor(
    name=sensor_name(shard_of_location()),
    # The assets that it reports, for their pages; it requests no runs of them. Other shards' locations have no assets.
    target=dg.AssetSelection.assets(FIREHOSE, *(group.key for group in GROUPS if group.sensor == FIREHOSE_SENSOR))
    if shard_of_location().is_first
    else None,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=5,
    description=(
        "Indexes the relay's firehose: keeps the consumer process running and reports what it applied. A tick lasts "
        "most of a minute, requests no runs, and has its summary as its skip reason. Switching the sensor off ends the "
        "consumer within seconds; nothing is lost, and it goes on where it stopped."
    ),
)
def firehose_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One tick. A second one at the same time (preview, time-out, reload) only says what the first is doing."""
    return evaluate(context, _state, Tick)
