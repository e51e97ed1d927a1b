"""A tick of the identity sensor: keeps the identity process on its lease, and reports what it resolved.

What all leased processes share is in `defs/leases/leased_tick.py`. The process leaves a row in
`pipeline.identity_batch` every few seconds; this module makes events of them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import dagster as dg

from appview_pipeline.defs.check_events import evaluation
from appview_pipeline.defs.database import database
from appview_pipeline.defs.identity.events import actors_event, summary
from appview_pipeline.defs.leases.leased_tick import LeasedState, LeasedTick
from appview_pipeline.defs.tables.partitions import next_hour, remember_first_hour
from appview_pipeline.identity.identity_process import identity_process
from appview_pipeline.leases.leased_process import LeasedProcess
from appview_pipeline.operations.identity_conditions import RESOLVING
from appview_pipeline.store import identity_reports, reports, upstreams
from appview_pipeline.store.identity_reports import ResolvedInHour

EVENTS_SECONDS = 55.0
"""How often the asset is materialized."""


def parse(cursor: str | None) -> int:
    """The last report that a sensor cursor says was reported; -1 for none, or for what a person set it to."""
    try:
        return int(json.loads(cursor or "{}")["report"])
    except (ValueError, TypeError, KeyError):
        return -1


@dataclass
class State(LeasedState):
    """The identity process, and how far its ticks got (a tick that Dagster gave up on has reported, but its cursor was
    not saved)."""

    process: LeasedProcess = field(default_factory=identity_process)
    report: int = -1
    events_due: float = 0.0

    def cursor(self) -> str | None:
        """The last report."""
        return json.dumps({"report": self.report}) if self.report >= 0 else None

    def progress(self) -> str:
        """The last report, for a person."""
        return f"materialized up to report {max(self.report, 0)}"


class Tick(LeasedTick[State]):
    """One working tick of the identity sensor."""

    def __init__(self, context: dg.SensorEvaluationContext, state: State) -> None:
        super().__init__(context, state)
        # Less than our own is the cursor of a tick that was not saved.
        state.report = max(state.report, parse(context.cursor))
        self.resolved: list[ResolvedInHour] = []

    def started_line(self) -> str:
        """The process's start."""
        return f"Identity process started as process {self.state.process.pid}, asking {self.settings.plc_url}"

    def report(self) -> None:
        """Materializes `actors` with what was resolved since the last time, once a minute."""
        state, instance = self.state, self.context.instance
        with database().connect("reader") as connection:
            if state.report < 0:  # reporting begins here
                state.report = identity_reports.newest_report(connection)
            if time.monotonic() < state.events_due:
                return
            remember_first_hour(self.settings, connection)
            resolved = identity_reports.reported_after(connection, state.report)
            in_hours = [reports.written_between(connection, one.hour, next_hour(one.hour)) for one in resolved]
            alone, servers = upstreams.left_alone(connection), upstreams.list_upstreams(connection)
        if not resolved:
            return
        for one, in_hour in zip(resolved, in_hours, strict=True):
            instance.report_runless_asset_event(actors_event(one, in_hour, alone, servers))
            state.report = one.last_id
        self.resolved += resolved
        self.worked = bool(self.resolved)
        state.events_due = time.monotonic() + EVENTS_SECONDS

    def health(self, trouble: str | None) -> dg.AssetCheckEvaluation:
        """The check `resolving`."""
        return evaluation(RESOLVING.of_process(trouble, "The identity process runs, and reaches the database."))

    def summary(self) -> str:
        """How many accounts were resolved, and what waits."""
        return summary(self.resolved, time.monotonic() - self.started)
