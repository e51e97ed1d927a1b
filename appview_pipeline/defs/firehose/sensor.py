"""The firehose sensor: keeps the consumer running and reports what it applied.

A tick lasts most of a minute. It never consumes anything itself: the consumer is a child process that lives by the
lease which ticks renew (`ingest/leased_process.py`); what ends it sooner is watched in the tick and, between two
ticks, by a thread (`stopping.py`). It leaves a row in `pipeline.batch` with every micro-batch. A
tick that dies, times out or runs twice loses and doubles nothing but plots. The cursor in Dagster is how far the plots
got.

A code location with `APPVIEW_SHARD` has the sensor of that shard; it has the shard in its name, and reports its shard's
batches only.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from appview_pipeline import settings as settings_module
from appview_pipeline.defs.database import database, reopen
from appview_pipeline.defs.firehose import reports
from appview_pipeline.defs.firehose.stopping import Stopping
from appview_pipeline.defs.tables.partitions import next_hour
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.leased_process import EXIT_LOCKED, EXIT_OPERATOR_ERROR, LeasedProcess
from appview_pipeline.ingest.live.consumer_process import consumer_process
from appview_pipeline.logs import read_line
from appview_pipeline.shards import WHOLE, Shard
from appview_pipeline.store import reports as stored_reports
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.reports import Applied, StreamState

log = logging.getLogger(__name__)

# Dagster gives up on a tick after 60 s (DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS), and starts the next 5 s after the last.
# A tick takes no more than a part of the time it is given, which is less where that is set lower or it begins late.
TICK_SECONDS = 45.0
TICK_PART = 0.75
POLL_SECONDS = 0.5
RENEW_SECONDS = 1.0
REPORT_SECONDS = 12.0
FAMILIES_SECONDS = 55.0
# Ctrl-C must end everything within 10 s; Dagster itself takes about 3 of them.
STOP_PATIENCE = 3.5
LINES_IN_TICK = 300


@dataclass(frozen=True)
class Position:
    """How far reporting got: the last batch in a firehose event, the last in the families' events, the relay's seq."""

    batch: int = -1
    families_batch: int = -1
    seq: int | None = None

    @classmethod
    def parse(cls, cursor: str | None) -> Position:
        """The position in a sensor cursor; the start for none, or for one that a person set to something else."""
        try:
            values = json.loads(cursor or "{}")
            return cls(**{name.name: values[name.name] for name in fields(cls) if name.name in values})
        except (ValueError, TypeError):
            return cls()

    def __str__(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class _State:
    """What lives as long as this code server: the consumer, and how far its ticks got (a tick that Dagster gave up on
    has reported, but its cursor was not saved)."""

    consumer: LeasedProcess = field(default_factory=consumer_process)
    working: threading.Lock = field(default_factory=threading.Lock)
    watch: _WatchBetweenTicks | None = None
    position: Position = field(default_factory=Position)
    last_applied_at: datetime | None = None
    families_due: float = 0.0


class _WatchBetweenTicks:
    """Ends the consumer while no tick is at work, for the reasons that a tick ends it for.

    The lease is longer than what a busy machine pauses between two ticks, so it can't be what notices these.
    """

    def __init__(self, state: _State) -> None:
        self._state = state
        self._stopping: Stopping | None = None
        self._instance_ref: InstanceRef | None = None
        threading.Thread(target=self._run, name="consumer-watch", daemon=True).start()

    def follow(self, context: dg.SensorEvaluationContext, stopping: Stopping) -> None:
        """Goes by what the newest tick knows of Dagster's processes."""
        # The tick's own instance is closed with it.
        self._stopping = stopping
        self._instance_ref = context.instance.get_ref() if context.instance.is_persistent else None

    def _run(self) -> None:
        instance: dg.DagsterInstance | None = None
        while True:
            time.sleep(RENEW_SECONDS)
            stopping, ref = self._stopping, self._instance_ref
            if stopping is None or self._state.consumer.pid is None or self._state.working.locked():
                continue
            try:
                if instance is None and ref is not None:
                    instance = dg.DagsterInstance.from_ref(ref)
                reason = stopping.shutdown() or (stopping.switched_off(instance) if instance is not None else None)
            except Exception as error:  # Dagster's storage may be anything, and away for a while
                log.warning("Dagster's storage can't say whether the sensor is on: %s", str(error).partition("\n")[0])
                instance = None
                continue
            if reason is not None and self._state.working.acquire(blocking=False):
                try:
                    log.info("%s: the consumer ends", reason)
                    self._state.consumer.stop(STOP_PATIENCE)
                finally:
                    self._state.working.release()


_state = _State()


class _Tick:
    """One working tick; the holder of `_State.working`."""

    def __init__(self, context: dg.SensorEvaluationContext, state: _State) -> None:
        self.context = context
        self.state = state
        self.settings = settings_module.load()
        self.relay = self.settings.relay_url
        self.shard = str(self.settings.shard)
        self.stopping = Stopping(context)
        if state.watch is None:
            state.watch = _WatchBetweenTicks(state)
        state.watch.follow(context, self.stopping)
        self.started = time.monotonic()
        self.seconds = min(TICK_SECONDS, TICK_PART * self.stopping.seconds_left())
        self.report_due = self.started + REPORT_SECONDS / 2
        self.applied: list[Applied] = []
        self.lines = 0
        self.last_line = ""
        self.warnings = 0
        self.last_warning = ""
        self.trouble: str | None = None
        saved = Position.parse(context.cursor)
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
            over = now - self.started >= self.seconds
            if over or (self.trouble is not None and consumer.pid is None and self._nothing_to_wait_for()):
                # Once more as the last thing: the next tick is more than 5 s away.
                if consumer.pid is not None:
                    consumer.keep()
                return self._summary()
            time.sleep(POLL_SECONDS)

    def _keep_consumer(self) -> None:
        """Renews the lease; starts the consumer when there is none, which needs the database to be there."""
        consumer = self.state.consumer
        if consumer.pid is None:
            try:
                # A slow start of the embedded database goes on between ticks; each says so in time.
                database(patience=max(1.0, self.seconds - (time.monotonic() - self.started)))
            except OperatorError as error:
                self.trouble = str(error)
                return
            starts = consumer.starts
            if consumer.keep():
                self.trouble = None
                if consumer.starts > starts:
                    self.context.log.info(
                        f"Consumer of shard {self.shard} started as process {consumer.pid}, indexing {self.relay}"
                    )
            elif consumer.ended is not None:
                self.trouble = consumer.ended.sentence
        else:
            consumer.keep()

    def _nothing_to_wait_for(self) -> bool:
        """Whether a person should read the trouble now rather than at the end of the tick."""
        ended = self.state.consumer.ended
        return (
            self.state.consumer.pause_left > REPORT_SECONDS
            or ended is None
            or ended.code in (EXIT_LOCKED, EXIT_OPERATOR_ERROR)
            or self.trouble != ended.sentence
        )

    def _pass_lines_on(self) -> None:
        for line in self.state.consumer.lines():
            level, text = read_line(line)
            self.last_line = text
            self.lines += 1
            if level >= logging.WARNING:
                self.warnings += 1
                self.last_warning = text[:500]
            if self.lines <= LINES_IN_TICK:
                self.context.log.log(level, text)
            elif self.lines == LINES_IN_TICK + 1:
                self.context.log.info("(more lines of the consumer left out of this tick)")

    def _guarded_report(self) -> None:
        try:
            self._report()
        except OperatorError as error:
            self._lost_database(str(error))
        except DatabaseError as error:
            self._lost_database(f"can't read the batches: {error}")

    def _lost_database(self, words: str) -> None:
        if self.trouble != words:
            self.context.log.warning(f"{words} (the next report tries again)")
        self.trouble = words
        reopen()

    def _report(self) -> None:
        state, instance = self.state, self.context.instance
        with database().connect("reader") as connection:
            # Reporting begins here: there is nothing yet, and what comes must not wait until the families' next turn.
            begins = state.position.batch < 0
            if begins:
                newest = stored_reports.newest_batch(connection)
                state.position = Position(newest, newest)
            applied = stored_reports.applied_after(connection, state.position.batch, self.relay, shard=self.shard)
            for_families: list[tuple[Applied, dict[str, int]]] = []
            shards: list[StreamState] = []
            families_to = state.position.families_batch
            families_due = not begins and time.monotonic() >= state.families_due
            if families_due:
                shards = stored_reports.stream_state(connection, self.relay)
                for one in stored_reports.applied_after(connection, families_to, self.relay, shard=self.shard):
                    in_hour = stored_reports.written_between(connection, one.hour, next_hour(one.hour))
                    for_families.append((one, in_hour))
                    families_to = max(families_to, one.last_id)
        for one in applied:
            since = state.last_applied_at
            seconds = (one.last_applied_at - since).total_seconds() if since else time.monotonic() - self.started
            event = reports.firehose_event(one, seconds, self.shard)
            instance.report_runless_asset_event(event)
            state.position = Position(one.last_id, state.position.families_batch, one.last_seq or state.position.seq)
            state.last_applied_at = one.last_applied_at
            self.context.log.info(reports.summary([one], seconds, self.relay))
        self.applied += applied
        if families_due:
            for one, in_hour in for_families:
                for family_event in reports.family_events(one, in_hour):
                    instance.report_runless_asset_event(family_event)
            self._report_checks(shards, [one for one, _ in for_families])
            state.position = Position(state.position.batch, families_to, state.position.seq)
            state.families_due = time.monotonic() + FAMILIES_SECONDS
        self.trouble = None if self.state.consumer.pid is not None else self.trouble

    def _report_checks(self, shards: list[StreamState], applied: list[Applied]) -> None:
        """Also when nothing was applied: that is what the lag check is there to notice."""
        events, rejected = sum(one.events for one in applied), sum(one.rejected for one in applied)
        for result in (reports.stream_result(shards), reports.rejected_result(events, rejected)):
            self.context.instance.report_runless_asset_event(reports.evaluation(result))

    def _summary(self) -> str:
        line = reports.summary(self.applied, time.monotonic() - self.started, self.relay)
        if self.trouble is not None:
            return self.trouble if not self.applied else f"{line}; {self.trouble}"
        if self.warnings:
            return f"{line}; {self.warnings} warnings of the consumer, the last: {self.last_warning}"
        if not self.applied and self.last_line:
            return f"{line}; the consumer says: {self.last_line}"
        return line


def _is_preview(context: dg.SensorEvaluationContext) -> bool:
    """Whether there is no tick behind this evaluation: the UI's "Preview tick result" has no tick id in its log key."""
    return not context.log_key or not context.log_key[-1].isdigit()


def _observe(state: _State) -> str:
    at_work = "a tick is at work" if state.working.locked() else "no tick is at work at this moment"
    pid = state.consumer.pid
    consumer = f"the consumer runs as process {pid}" if pid is not None else "no consumer runs"
    return f"{at_work}, {consumer}; reported up to batch {max(state.position.batch, 0)}, seq {state.position.seq}"


def shard_of_location() -> Shard:
    """The shard of this code location. A setting that can't be read is the ticks' to complain about."""
    try:
        return settings_module.load().shard
    except OperatorError:
        return WHOLE


def sensor_name(shard: Shard) -> str:
    """`firehose_sensor`; with the shard where there are several, so that each has a switch and a history of its own."""
    return "firehose_sensor" if shard == WHOLE else f"firehose_sensor_{shard.index}_of_{shard.count}"


@dg.sensor(
    name=sensor_name(shard_of_location()),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=5,
    description=(
        "Indexes the relay's firehose: keeps the consumer process running and reports what it applied. A tick lasts "
        "most of a minute; its skip reason is its summary. Switching the sensor off ends the consumer within seconds; "
        "nothing is lost, it goes on where it stopped."
    ),
)
def firehose_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One tick. A second one at the same time (preview, time-out, reload) only says what the first is doing."""
    if _is_preview(context) or not _state.working.acquire(blocking=False):
        return dg.SensorResult(skip_reason=_observe(_state), cursor=context.cursor)
    try:
        try:
            line = _Tick(context, _state).run()
        except OperatorError as error:
            line = str(error)
        context.log.info(line)
        cursor = str(_state.position) if _state.position.batch >= 0 else context.cursor
        return dg.SensorResult(skip_reason=line, cursor=cursor)
    finally:
        _state.working.release()
