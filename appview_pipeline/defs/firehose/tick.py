"""A tick of the firehose sensor: keeps the consumer on its lease, and reports what it applied.

A tick lasts most of a minute. It consumes nothing itself: the consumer is a leased process (`leases/leased_process.py`)
that leaves a row in `pipeline.batch` with every micro-batch. What ends it is watched in the tick and, between two
ticks, by a thread (`defs/leases/`). A tick that dies, times out or runs twice loses and doubles nothing but plots.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime

import dagster as dg

from appview_pipeline import settings as settings_module
from appview_pipeline.defs.database import database, reopen
from appview_pipeline.defs.firehose import checks
from appview_pipeline.defs.firehose.events import firehose_event, summary
from appview_pipeline.defs.leases.stopping import Stopping
from appview_pipeline.defs.leases.watch import STOP_PATIENCE, WatchBetweenTicks
from appview_pipeline.defs.tables.events import group_events
from appview_pipeline.defs.tables.partitions import next_hour, remember_first_hour
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.live.consumer_process import consumer_process
from appview_pipeline.leases.leased_process import EXIT_LOCKED, EXIT_OPERATOR_ERROR, LeasedProcess
from appview_pipeline.logs import read_line
from appview_pipeline.store import reports
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.reports import Applied, StreamState

# Dagster gives up on a tick after 60 s (DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS), and starts the next 5 s after the last.
# A tick takes no more than a part of the time it is given, which is less where that is set lower or it begins late.
TICK_SECONDS = 45.0
TICK_PART = 0.75
POLL_SECONDS = 0.5
RENEW_SECONDS = 1.0
REPORT_SECONDS = 12.0
GROUPS_SECONDS = 55.0
SETTLED_SECONDS = 10.0
"""Trouble, and its absence, fail and pass the check `connected` when they have lasted so long: a relay that drops its
consumers and takes them back at once is no trouble."""
MAX_LINES = 300
"""Lines of the consumer that one tick passes on."""


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
class State:
    """What lives as long as this code server: the consumer, and how far its ticks got (a tick that Dagster gave up on
    has reported, but its cursor was not saved)."""

    consumer: LeasedProcess = field(default_factory=consumer_process)
    working: threading.Lock = field(default_factory=threading.Lock)
    watch: WatchBetweenTicks | None = None
    position: Reported = field(default_factory=Reported)
    last_applied_at: datetime | None = None
    groups_due: float = 0.0
    hour: datetime | None = None
    """The last hour in which the groups were reported."""
    database_trouble: str | None = None
    works: bool | None = None
    works_since: float = 0.0
    connected_reported: bool | None = None
    connected_due: float = 0.0

    @property
    def trouble(self) -> str | None:
        """What keeps the consumer from its work, and what to do about it."""
        return self.database_trouble or self.consumer.trouble


class Tick:
    """One working tick; its maker holds `State.working`."""

    def __init__(self, context: dg.SensorEvaluationContext, state: State) -> None:
        self.context = context
        self.state = state
        self.settings = settings_module.load()
        self.relay = self.settings.relay_url
        self.shard = str(self.settings.shard)
        self.stopping = Stopping(context)
        if state.watch is None:
            state.watch = WatchBetweenTicks(state.consumer, state.working)
        state.watch.follow(context, self.stopping)
        self.started = time.monotonic()
        self.seconds = min(TICK_SECONDS, TICK_PART * self.stopping.seconds_left())
        self.report_due = self.started + REPORT_SECONDS / 2
        self.applied: list[Applied] = []
        self.lines = 0
        self.last_line = ""
        self.warnings = 0
        self.last_warning = ""
        saved = Reported.parse(context.cursor)
        # A cursor beyond our own is another code server's; one behind is that of a tick whose cursor was not saved.
        if saved.batch > state.position.batch:
            state.position = saved

    def run(self) -> str:
        """Works until the tick is over; returns its summary line."""
        consumer = self.state.consumer
        renew_due = 0.0
        while True:
            reason = self.stopping.shutdown() or self.stopping.tick_abandoned()
            now = time.monotonic()
            if reason is None and now >= renew_due:
                renew_due = now + RENEW_SECONDS
                reason = self.stopping.switched_off(self.context.instance)
            if reason is not None:
                consumer.stop(STOP_PATIENCE)
                self._pass_lines_on()
                return f"{reason}: the consumer has ended; {self._summary()}"
            self._keep_consumer()
            self._pass_lines_on()
            if now >= self.report_due:
                self.report_due = now + REPORT_SECONDS
                self._guarded_report()
            self._report_connected()
            over = now - self.started >= self.seconds
            if over or (self.state.trouble is not None and consumer.pid is None and self._nothing_to_wait_for()):
                # Once more as the last thing: the next tick is more than 5 s away.
                if consumer.pid is not None:
                    consumer.keep()
                return self._summary()
            time.sleep(POLL_SECONDS)

    def _keep_consumer(self) -> None:
        """Renews the lease; starts the consumer when there is none, which needs the database to be there."""
        consumer = self.state.consumer
        if consumer.pid is not None:
            consumer.keep()
            return
        try:
            # A slow start of the embedded database goes on between ticks; each says so in time.
            database(patience=max(1.0, self.seconds - (time.monotonic() - self.started)))
        except OperatorError as error:
            self.state.database_trouble = str(error)
            return
        self.state.database_trouble = None
        starts = consumer.starts
        if consumer.keep() and consumer.starts > starts:
            self.context.log.info(
                f"Consumer of shard {self.shard} started as process {consumer.pid}, indexing {self.relay}"
            )

    def _nothing_to_wait_for(self) -> bool:
        """Whether a person should read the trouble now rather than at the end of the tick."""
        ended = self.state.consumer.ended
        return (
            self.state.database_trouble is not None
            or ended is None
            or ended.code in (EXIT_LOCKED, EXIT_OPERATOR_ERROR)
            or self.state.consumer.pause_left > REPORT_SECONDS
        )

    def _pass_lines_on(self) -> None:
        for line in self.state.consumer.lines():
            level, text = read_line(line)
            self.last_line = text
            self.lines += 1
            if level >= logging.WARNING:
                self.warnings += 1
                self.last_warning = text[:500]
            if self.lines <= MAX_LINES:
                self.context.log.log(level, text)
            elif self.lines == MAX_LINES + 1:
                self.context.log.info("(more lines of the consumer left out of this tick)")

    def _guarded_report(self) -> None:
        try:
            self._report()
        except OperatorError as error:
            self._lost_database(str(error))
        except DatabaseError as error:
            self._lost_database(f"can't read the batches: {error}")
        else:
            self.state.database_trouble = None

    def _lost_database(self, words: str) -> None:
        if self.state.database_trouble != words:
            self.context.log.warning(f"{words} (the next report tries again)")
        self.state.database_trouble = words
        reopen()

    def _report(self) -> None:
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
            shards: list[StreamState] = []
            groups_to = state.position.groups_batch
            groups_due = not begins and time.monotonic() >= state.groups_due
            if groups_due:
                remember_first_hour(self.settings, connection)
                shards = reports.stream_state(connection, self.relay)
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
        if groups_due:
            for one, in_hour in for_groups:
                for event in group_events(one, in_hour, all_groups=one.hour != state.hour):
                    instance.report_runless_asset_event(event)
                state.hour = one.hour
            self._report_stream(shards, [one for one, _ in for_groups])
            state.position = Reported(state.position.batch, groups_to, state.position.seq)
            state.groups_due = time.monotonic() + GROUPS_SECONDS

    def _report_stream(self, shards: list[StreamState], applied: list[Applied]) -> None:
        """Evaluates the checks on the stream, also when nothing was applied: the lag check is there to notice that."""
        events, rejected = sum(one.events for one in applied), sum(one.rejected for one in applied)
        for result in (checks.stream_result(shards), checks.rejected_result(events, rejected)):
            self.context.instance.report_runless_asset_event(checks.evaluation(result))

    def _report_connected(self) -> None:
        """Evaluates the check `connected`, which needs no database: when something has changed, and once a minute."""
        state, now = self.state, time.monotonic()
        trouble = state.trouble
        works = trouble is None
        if works != state.works:
            state.works, state.works_since = works, now
        if now - state.works_since < SETTLED_SECONDS:
            return
        if works != state.connected_reported or now >= state.connected_due:
            state.connected_reported, state.connected_due = works, now + GROUPS_SECONDS
            result = checks.connected_result(trouble, self.relay)
            self.context.instance.report_runless_asset_event(checks.evaluation(result))

    def _summary(self) -> str:
        line = summary(self.applied, time.monotonic() - self.started, self.relay)
        trouble = self.state.trouble
        if trouble is not None:
            return trouble if not self.applied else f"{line}; {trouble}"
        if self.warnings:
            return f"{line}; {self.warnings} warnings of the consumer, the last: {self.last_warning}"
        if not self.applied and self.last_line:
            return f"{line}; the consumer says: {self.last_line}"
        return line
