"""The sensor of a leased process: its ticks keep the process on its lease, pass its log lines on, and report.

A tick lasts most of a minute. It does none of the work itself: the work is the leased process's
(`leases/leased_process.py`), which leaves rows in the database that the tick reads. What ends the process is watched in
the tick and, between two ticks, by a thread (`watch.py`). A tick that dies, times out or runs twice loses and doubles
nothing but plots.

A sensor is a subclass of `LeasedTick` (what to report, and in which words) and one of `LeasedState` (what lives between
its ticks), and calls `evaluate`.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import dagster as dg

from appview_pipeline import settings as settings_module
from appview_pipeline.defs.database import database, reopen
from appview_pipeline.defs.leases.stopping import Stopping
from appview_pipeline.defs.leases.watch import STOP_PATIENCE, WatchBetweenTicks
from appview_pipeline.errors import OperatorError
from appview_pipeline.leases.leased_process import EXIT_LOCKED, EXIT_OPERATOR_ERROR, LeasedProcess
from appview_pipeline.logs import read_line
from appview_pipeline.store.errors import DatabaseError

# Dagster gives up on a tick after 60 s (DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS), and starts the next 5 s after the last.
# A tick takes no more than a part of the time it is given, which is less where that is set lower or it begins late.
TICK_SECONDS = 45.0
TICK_PART = 0.75
POLL_SECONDS = 0.5
RENEW_SECONDS = 1.0
REPORT_SECONDS = 12.0
HEALTH_SECONDS = 55.0
"""How often the check on the process is evaluated while nothing changes."""
SETTLED_SECONDS = 10.0
"""Trouble, and its absence, fail and pass that check when they have lasted so long: a relay that drops its consumers
and takes them back at once is no trouble."""
MAX_LINES = 300
"""Lines of the process that one tick passes on."""


@dataclass
class LeasedState(ABC):
    """What lives as long as this code server: the process, and what its ticks know of it."""

    process: LeasedProcess
    working: threading.Lock = field(default_factory=threading.Lock)
    watch: WatchBetweenTicks | None = None
    database_trouble: str | None = None
    works: bool | None = None
    works_since: float = 0.0
    health_reported: bool | None = None
    health_due: float = 0.0

    @property
    def trouble(self) -> str | None:
        """What keeps the process from its work, and what to do about it."""
        return self.database_trouble or self.process.trouble

    @abstractmethod
    def cursor(self) -> str | None:
        """How far reporting got, as the sensor's cursor in Dagster; None: nowhere yet."""

    @abstractmethod
    def progress(self) -> str:
        """How far reporting got, for a person: "reported up to batch 17"."""


S = TypeVar("S", bound=LeasedState)


class LeasedTick(ABC, Generic[S]):
    """One working tick; its maker holds `LeasedState.working`."""

    def __init__(self, context: dg.SensorEvaluationContext, state: S) -> None:
        self.context = context
        self.state = state
        self.settings = settings_module.load()
        self.stopping = Stopping(context)
        if state.watch is None:
            state.watch = WatchBetweenTicks(state.process, state.working)
        state.watch.follow(context, self.stopping)
        self.started = time.monotonic()
        self.seconds = min(TICK_SECONDS, TICK_PART * self.stopping.seconds_left())
        self._report_due = self.started + REPORT_SECONDS / 2
        self._lines = 0
        self._last_line = ""
        self._warnings = 0
        self._last_warning = ""
        self.worked = False
        """Whether the process did anything that was reported in this tick."""

    @abstractmethod
    def report(self) -> None:
        """Reports what the process did since the last report, and notes it in `worked`.

        Raises `OperatorError` and `DatabaseError` where the database is away.
        """

    @abstractmethod
    def health(self, trouble: str | None) -> dg.AssetCheckEvaluation:
        """The evaluation of the check on the process, which needs no database. `trouble`: what keeps it from work."""

    @abstractmethod
    def summary(self) -> str:
        """What was done in this tick, in a line."""

    @abstractmethod
    def started_line(self) -> str:
        """What the process that was just started does, for the log: "Consumer of ... started as process 17, ..."."""

    def idle(self) -> bool:
        """Whether there is nothing for the process to do, so that none is to run."""
        return False

    def run(self) -> str:
        """Works until the tick is over; returns its summary line."""
        process = self.state.process
        renew_due = 0.0
        while True:
            reason = self.stopping.shutdown() or self.stopping.tick_abandoned()
            now = time.monotonic()
            if reason is None and now >= renew_due:
                renew_due = now + RENEW_SECONDS
                reason = self.stopping.switched_off(self.context.instance)
            if reason is not None:
                process.stop(STOP_PATIENCE)
                self._pass_lines_on()
                return f"{reason}: the {process.name} has ended; {self._line()}"
            self._keep_process()
            self._pass_lines_on()
            if now >= self._report_due:
                self._report_due = now + REPORT_SECONDS
                self._guarded_report()
            self._report_health()
            over = now - self.started >= self.seconds
            if over or (self.state.trouble is not None and process.pid is None and self._nothing_to_wait_for()):
                # Once more as the last thing: the next tick is more than 5 s away.
                if process.pid is not None:
                    process.keep()
                return self._line()
            time.sleep(POLL_SECONDS)

    def _keep_process(self) -> None:
        """Renews the lease; starts the process when there is none, which needs the database to be there."""
        process = self.state.process
        if self.idle():
            process.stop(STOP_PATIENCE)
            process.trouble = self.state.database_trouble = None
            return
        if process.pid is not None:
            process.keep()
            return
        try:
            # A slow start of the embedded database goes on between ticks; each says so in time.
            database(patience=max(1.0, self.seconds - (time.monotonic() - self.started)))
        except OperatorError as error:
            self.state.database_trouble = str(error)
            return
        self.state.database_trouble = None
        starts = process.starts
        if process.keep() and process.starts > starts:
            self.context.log.info(self.started_line())

    def _nothing_to_wait_for(self) -> bool:
        """Whether a person should read the trouble now rather than at the end of the tick."""
        ended = self.state.process.ended
        return (
            self.state.database_trouble is not None
            or ended is None
            or ended.code in (EXIT_LOCKED, EXIT_OPERATOR_ERROR)
            or self.state.process.pause_left > REPORT_SECONDS
        )

    def _pass_lines_on(self) -> None:
        for line in self.state.process.lines():
            level, text = read_line(line)
            self._last_line = text
            self._lines += 1
            if level >= logging.WARNING:
                self._warnings += 1
                self._last_warning = text[:500]
            if self._lines <= MAX_LINES:
                self.context.log.log(level, text)
            elif self._lines == MAX_LINES + 1:
                self.context.log.info(f"(more lines of the {self.state.process.name} left out of this tick)")

    def _guarded_report(self) -> None:
        try:
            self.report()
        except OperatorError as error:
            self._lost_database(str(error))
        except DatabaseError as error:
            self._lost_database(f"can't read the {self.state.process.name}'s reports: {error}")
        else:
            self.state.database_trouble = None

    def _lost_database(self, words: str) -> None:
        if self.state.database_trouble != words:
            self.context.log.warning(f"{words} (the next report tries again)")
        self.state.database_trouble = words
        reopen()

    def _report_health(self) -> None:
        """Evaluates the check on the process: when something has changed, and once a minute."""
        state, now = self.state, time.monotonic()
        trouble = state.trouble
        works = trouble is None
        if works != state.works:
            state.works, state.works_since = works, now
        if now - state.works_since < SETTLED_SECONDS:
            return
        if works != state.health_reported or now >= state.health_due:
            state.health_reported, state.health_due = works, now + HEALTH_SECONDS
            self.context.instance.report_runless_asset_event(self.health(trouble))

    def _line(self) -> str:
        line, name = self.summary(), self.state.process.name
        trouble = self.state.trouble
        if trouble is not None:
            return f"{line}; {trouble}" if self.worked else trouble
        if self._warnings:
            return f"{line}; {self._warnings} warnings of the {name}, the last: {self._last_warning}"
        if not self.worked and self._last_line:
            return f"{line}; the {name} says: {self._last_line}"
        return line


def evaluate(
    context: dg.SensorEvaluationContext, state: S, tick: Callable[[dg.SensorEvaluationContext, S], LeasedTick[S]]
) -> dg.SensorResult:
    """One evaluation of the sensor: a tick made by `tick`, whose line is the skip reason.

    A second one at the same time (preview, time-out, reload) only says what the first is doing.
    """
    if _is_preview(context) or not state.working.acquire(blocking=False):
        return dg.SensorResult(skip_reason=_observe(state), cursor=context.cursor)
    try:
        try:
            # Its line is logged by the daemon, once a tick: it is the skip reason.
            line = tick(context, state).run()
        except OperatorError as error:
            line = str(error)
        return dg.SensorResult(skip_reason=line, cursor=state.cursor() or context.cursor)
    finally:
        state.working.release()


def _is_preview(context: dg.SensorEvaluationContext) -> bool:
    """Whether there is no tick behind this evaluation: the UI's "Preview tick result" has no tick id in its log key."""
    return not context.log_key or not context.log_key[-1].isdigit()


def _observe(state: LeasedState) -> str:
    at_work = "a tick is at work" if state.working.locked() else "no tick is at work at this moment"
    name, pid = state.process.name, state.process.pid
    process = f"the {name} runs as process {pid}" if pid is not None else f"no {name} runs"
    return f"{at_work}, {process}; {state.progress()}"
