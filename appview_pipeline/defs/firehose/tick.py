"""A tick of the firehose sensor: keeps the consumer on its lease, and reports what it applied.

What all leased processes share is in `defs/leases/leased_tick.py`. The consumer leaves a row in `pipeline.batch` with
every micro-batch; this module makes events of them.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime

import dagster as dg

from appview_pipeline.defs.check_events import evaluation
from appview_pipeline.defs.database import database
from appview_pipeline.defs.firehose.events import firehose_event, summary
from appview_pipeline.defs.leases.leased_tick import LeasedState, LeasedTick
from appview_pipeline.defs.tables.events import group_events
from appview_pipeline.defs.tables.partitions import next_hour, remember_first_hour
from appview_pipeline.ingest.live.consumer_process import consumer_process
from appview_pipeline.leases.leased_process import LeasedProcess
from appview_pipeline.operations.stream_conditions import CONNECTED
from appview_pipeline.store import reports
from appview_pipeline.store.reports import Applied

GROUPS_SECONDS = 55.0


@dataclass(frozen=True)
class Reported:
    """How far reporting got: the last batch in a firehose event, the last in the groups' events, the relay's seq."""

    batch: int = -1
    groups_batch: int = -1
    seq: int | None = None

    @classmethod
    def parse(cls, cursor: str | None) -> Reported:
        """What a sensor cursor says; the start for none, or for one that a person set to something else."""
        try:
            values = json.loads(cursor or "{}")
            return cls(**{name.name: values[name.name] for name in fields(cls) if name.name in values})
        except (ValueError, TypeError):
            return cls()

    def __str__(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class State(LeasedState):
    """The consumer, and how far its ticks got (a tick that Dagster gave up on has reported, but its cursor was not
    saved)."""

    process: LeasedProcess = field(default_factory=consumer_process)
    position: Reported = field(default_factory=Reported)
    last_applied_at: datetime | None = None
    groups_due: float = 0.0
    hour: datetime | None = None
    """The last hour in which the groups were reported."""

    def cursor(self) -> str | None:
        """The position."""
        return str(self.position) if self.position.batch >= 0 else None

    def progress(self) -> str:
        """The position, for a person."""
        return f"reported up to batch {max(self.position.batch, 0)}, seq {self.position.seq}"


class Tick(LeasedTick[State]):
    """One working tick of the firehose sensor."""

    def __init__(self, context: dg.SensorEvaluationContext, state: State) -> None:
        super().__init__(context, state)
        self.relay = self.settings.relay_url
        self.shard = str(self.settings.shard)
        self.applied: list[Applied] = []
        saved = Reported.parse(context.cursor)
        # A cursor beyond our own is another code server's; one behind is that of a tick whose cursor was not saved.
        if saved.batch > state.position.batch:
            state.position = saved

    def started_line(self) -> str:
        """The consumer's start."""
        pid = self.state.process.pid
        return f"Consumer of shard {self.shard} started as process {pid}, indexing {self.relay}"

    def report(self) -> None:
        """Reports the batches applied since the last report, and once a minute what they did to the table groups."""
        state, instance = self.state, self.context.instance
        with database().connect("reader") as connection:
            # Reporting begins here: there is nothing yet, and what comes must not wait until the groups' next turn.
            begins = state.position.batch < 0
            if begins:
                newest = reports.newest_batch(connection)
                state.position = Reported(newest, newest)
            applied = reports.applied_after(connection, state.position.batch, self.relay, shard=self.shard)
            for_groups: list[tuple[Applied, dict[str, int]]] = []
            groups_to = state.position.groups_batch
            groups_due = not begins and time.monotonic() >= state.groups_due
            if groups_due:
                remember_first_hour(self.settings, connection)
                for one in reports.applied_after(connection, groups_to, self.relay, shard=self.shard):
                    in_hour = reports.written_between(connection, one.hour, next_hour(one.hour))
                    for_groups.append((one, in_hour))
                    groups_to = max(groups_to, one.last_id)
        for one in applied:
            since = state.last_applied_at
            seconds = (one.last_applied_at - since).total_seconds() if since else time.monotonic() - self.started
            instance.report_runless_asset_event(firehose_event(one, seconds, self.shard))
            state.position = Reported(one.last_id, state.position.groups_batch, one.last_seq or state.position.seq)
            state.last_applied_at = one.last_applied_at
        self.applied += applied
        self.worked = bool(self.applied)
        if groups_due:
            for one, in_hour in for_groups:
                for event in group_events(one, in_hour, all_groups=one.hour != state.hour):
                    instance.report_runless_asset_event(event)
                state.hour = one.hour
            state.position = Reported(state.position.batch, groups_to, state.position.seq)
            state.groups_due = time.monotonic() + GROUPS_SECONDS

    def health(self, trouble: str | None) -> dg.AssetCheckEvaluation:
        """The check `connected`."""
        well = f"The consumer is connected to {self.relay} and to the database."
        return evaluation(CONNECTED.of_process(trouble, well))

    def summary(self) -> str:
        """Events a second, and the lag."""
        return summary(self.applied, time.monotonic() - self.started, self.relay)
