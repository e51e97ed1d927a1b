"""A tick of the label sensor: keeps the label process on its lease, and reports what came of the labelers' streams.

What all leased processes share is in `defs/leases/leased_tick.py`. The process and everything else that applies labels
add to the totals of `pipeline.labeler`; this module makes events of what was added.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone

import dagster as dg

from appview_pipeline.defs.backfill.words import listed
from appview_pipeline.defs.check_events import evaluation
from appview_pipeline.defs.database import database
from appview_pipeline.defs.labels.events import all_event, labeler_event, summary
from appview_pipeline.defs.labels.news import Reported, Window
from appview_pipeline.defs.labels.partitions import keep_partitions
from appview_pipeline.defs.leases.leased_tick import LeasedState, LeasedTick
from appview_pipeline.labels.label_process import label_process
from appview_pipeline.leases.leased_process import LeasedProcess
from appview_pipeline.operations.label_conditions import (
    NONE_READ,
    keeps_up_verdict,
    needs_process,
    reading_verdict,
)
from appview_pipeline.operations.labeler_news import LabelerNews
from appview_pipeline.store.label_reports import LabelerReport, labeler_reports

EVENTS_SECONDS = 55.0
"""How often the asset is reported."""


def parse(cursor: str | None) -> str | None:
    """When a sensor cursor says that the last report was; None for none, or for what a person set it to."""
    try:
        return str(json.loads(cursor or "{}")["reported_at"])
    except (ValueError, TypeError, KeyError):
        return None


@dataclass
class State(LeasedState):
    """The label process, and what its ticks have reported. `reported_at`: the time of the last report, in ISO 8601;
    `labelers`: as they were then."""

    process: LeasedProcess = field(default_factory=label_process)
    reported_at: str | None = None
    single: Reported | None = None
    together: Reported | None = None
    window: Window = field(default_factory=Window)
    labelers: list[LabelerReport] = field(default_factory=list)
    events_due: float = 0.0

    def cursor(self) -> str | None:
        """When the last report was."""
        return json.dumps({"reported_at": self.reported_at}) if self.reported_at else None

    def progress(self) -> str:
        """The last report, for a person."""
        return f"last reported at {self.reported_at}" if self.reported_at else "nothing was reported yet"


class Tick(LeasedTick[State]):
    """One working tick of the label sensor."""

    def __init__(self, context: dg.SensorEvaluationContext, state: State) -> None:
        super().__init__(context, state)
        state.reported_at = state.reported_at or parse(context.cursor)
        self.news: list[LabelerNews] = []

    def idle(self) -> bool:
        """With APPVIEW_LABELERS=none there is nothing to read, and where no labels are made here nothing else to do."""
        return not needs_process(self.settings)

    def started_line(self) -> str:
        """The process's start."""
        wanted = self.settings.labelers
        named = "all labelers that the index has seen" if wanted == ("all",) else listed(wanted)
        return f"Label process started as process {self.state.process.pid}, reading {named}"

    def report(self) -> None:
        """Reports what came of the labelers' streams since the last time, once a minute."""
        state, instance, now = self.state, self.context.instance, time.monotonic()
        if self.idle():
            self._say_that_none_is_read()
            return
        if state.single is not None and now < state.events_due:
            return
        with database().connect("reader") as connection:
            found = labeler_reports(connection)
        single, together = self._begin(found, now)
        local = [self.settings.labeler_did] if self.settings.labeler_did else []
        keep_partitions(instance, [*(it.did for it in found), *local])
        if not found:
            return  # the label process has not chosen yet
        for news in single.due(found, now):
            instance.report_runless_asset_event(labeler_event(news))
            single.note(news, now)
        seconds = now - together.reported_at
        of_all = together.all_since(found, now)
        # Of a single labeler the plots are lines; events of another kind between its own would break them.
        if sum(it.is_wanted for it in found) > 1:
            instance.report_runless_asset_event(all_event(of_all, seconds))
        verdict = keeps_up_verdict(state.window.since(found, now), state.trouble, self.settings)
        instance.report_runless_asset_event(evaluation(verdict))
        state.labelers = found
        self.news += of_all
        self.worked = any(it.received for it in self.news)
        state.reported_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        state.events_due = now + EVENTS_SECONDS

    def _say_that_none_is_read(self) -> None:
        """Once for each code server: what the checks said while labelers were read would stand."""
        if self.state.events_due == 0.0:
            self.context.instance.report_runless_asset_event(evaluation(keeps_up_verdict([], None, self.settings)))
            self.state.events_due = math.inf

    def _begin(self, found: list[LabelerReport], now: float) -> tuple[Reported, Reported]:
        """What was reported: all that is there at the first report of a code server, nothing at the first one ever."""
        state = self.state
        if state.single is None or state.together is None:
            state.single, state.together = Reported(now), Reported(now)
            if state.reported_at is not None:
                state.single.begin(found)
                state.together.begin(found)
        return state.single, state.together

    def health(self, trouble: str | None) -> dg.AssetCheckEvaluation:
        """The check `reading_labels`. Trouble fails the other one as well, also while there are no reports."""
        if trouble is not None and time.monotonic() >= self.state.events_due:
            down = keeps_up_verdict(self.state.window.last, trouble, self.settings)
            self.context.instance.report_runless_asset_event(evaluation(down))
        return evaluation(reading_verdict(trouble, self.settings))

    def summary(self) -> str:
        """How many labels came, and how the labelers are."""
        if self.idle():
            return NONE_READ
        return summary(self.news, self.state.labelers, time.monotonic() - self.started)
