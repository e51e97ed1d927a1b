"""A tick of the fetch sensor: keeps the fetch process on its lease, and reports what it did and how complete the index
is.

What all leased processes share is in `defs/leases/leased_tick.py`. The process leaves a row in `pipeline.fetch_batch`
every few seconds; this module makes events of them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import dagster as dg

from appview_pipeline.backfill.fetch_process import fetch_process
from appview_pipeline.defs.backfill.pool import know_pool
from appview_pipeline.defs.check_events import evaluation
from appview_pipeline.defs.database import database
from appview_pipeline.defs.fetching.events import completeness_event, fetched_event, summary
from appview_pipeline.defs.leases.leased_tick import LeasedState, LeasedTick
from appview_pipeline.leases.leased_process import LeasedProcess
from appview_pipeline.operations.completeness_conditions import FETCHING
from appview_pipeline.store import fetch_reports, sync_reports
from appview_pipeline.store.backfill_queue import queue_state
from appview_pipeline.store.backfill_reports import reports_since
from appview_pipeline.store.fetch_reports import FetchReport

EVENTS_SECONDS = 55.0
"""How often the assets are reported."""


def parse(cursor: str | None) -> int:
    """The last report that a sensor cursor says was reported; -1 for none, or for what a person set it to."""
    try:
        return int(json.loads(cursor or "{}")["report"])
    except (ValueError, TypeError, KeyError):
        return -1


@dataclass
class State(LeasedState):
    """The fetch process, and how far its ticks got (a tick that Dagster gave up on has reported, but its cursor was not
    saved). `work`: the last row of `pipeline.backfill_batch` that was reported."""

    process: LeasedProcess = field(default_factory=fetch_process)
    report: int = -1
    work: int = -1
    reported_at: float = 0.0
    events_due: float = 0.0

    def cursor(self) -> str | None:
        """The last report."""
        return json.dumps({"report": self.report}) if self.report >= 0 else None

    def progress(self) -> str:
        """The last report, for a person."""
        return f"materialized up to report {max(self.report, 0)}"


class Tick(LeasedTick[State]):
    """One working tick of the fetch sensor."""

    def __init__(self, context: dg.SensorEvaluationContext, state: State) -> None:
        super().__init__(context, state)
        # Less than our own is the cursor of a tick that was not saved.
        state.report = max(state.report, parse(context.cursor))
        self.reported: FetchReport | None = None
        know_pool(context.instance)

    def started_line(self) -> str:
        """The process's start."""
        return f"Fetch process started as process {self.state.process.pid}"

    def report(self) -> None:
        """Reports what was fetched since the last time and how complete the index is, once a minute."""
        state, instance = self.state, self.context.instance
        with database().connect("reader") as connection:
            if state.report < 0:  # reporting begins here
                state.report = fetch_reports.newest_fetch_report(connection)
            if state.work < 0:
                state.work, state.reported_at = sync_reports.newest_work(connection), time.monotonic()
            if time.monotonic() < state.events_due:
                return
            found = fetch_reports.fetched_after(connection, state.report)
            repositories = sync_reports.repository_states(connection)
            queue = queue_state(connection)
            gaps = sync_reports.open_gaps(connection)
            work = reports_since(connection, state.work)
        if found is not None:
            last, report = found
            instance.report_runless_asset_event(fetched_event(report))
            state.report, self.reported, self.worked = last, report, True
        now = time.monotonic()
        seconds = max(now - state.reported_at, 1.0)
        instance.report_runless_asset_event(completeness_event(repositories, queue, gaps, work, seconds))
        state.work, state.reported_at = work.last_id or state.work, now
        state.events_due = now + EVENTS_SECONDS

    def health(self, trouble: str | None) -> dg.AssetCheckEvaluation:
        """The check `fetching`."""
        return evaluation(FETCHING.of_process(trouble, "The fetch process runs, and reaches the database."))

    def summary(self) -> str:
        """How many records were fetched, and what is missing."""
        return summary(self.reported, time.monotonic() - self.started, self.settings.skip_pds_fetching)
