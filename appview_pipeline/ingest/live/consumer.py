"""The consumer: the relay's stream, or one shard of it, into the database, until its lease ends.

A process of its own, without Dagster: `python -m appview_pipeline.ingest.live.consumer`. The sensor starts it and keeps
its lease (`leases/leased_process.py` says how, and what the exit codes mean).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from appview_pipeline import backoff
from appview_pipeline.indexing.changes import Gap
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.decoding import applied_revs_in
from appview_pipeline.ingest.interpreter import favour_throughput
from appview_pipeline.ingest.live.sequence_numbers import SequenceNumbers
from appview_pipeline.ingest.live.stream_decoder import StreamDecoder
from appview_pipeline.ingest.pipeline import run_pipeline
from appview_pipeline.ingest.verification import verifier_for
from appview_pipeline.ingest.watchdog import Watchdog
from appview_pipeline.ingest.writer import Position, Writer
from appview_pipeline.leases.lease import report_trouble, run_leased
from appview_pipeline.network.subscription import Subscription
from appview_pipeline.settings import Settings
from appview_pipeline.store.batch import Report
from appview_pipeline.store.cursors import open_cursor
from appview_pipeline.store.database import Database, open_database
from appview_pipeline.store.gaps import open_stream_gaps, was_streamed
from appview_pipeline.store.stream_lock import stream_lock

log = logging.getLogger("appview_pipeline.consumer")


def consume(settings: Settings, stopped: Callable[[], bool]) -> None:
    """Consumes the stream of the settings' relay until `stopped`.

    Starts after the stream's cursor; where there is none, after `APPVIEW_START_CURSOR` or at the newest event. Raises
    `OperatorError` (bad setting, no database), `LockTaken` and `CursorMoved` (another consumer), `LockLost`.
    """
    validators, collections = record_validators(settings.lexicon_dir), IndexedCollections(settings.extra_collections)
    relay, shard = settings.relay_url, settings.shard
    database = open_database(settings)
    try:
        with stream_lock(database, relay, str(shard), stopped=stopped) as lock:
            lock.keep_to_layout(relay, shard, stopped=stopped)
            seq = _take_over_cursor(database, settings)
            start = settings.start_cursor if seq is None else seq
            where = relay if shard.count == 1 else f"{relay}, shard {shard},"
            log.info("Subscribing to %s after %s", where, "the newest event" if start is None else start)
            with database.connect("reader") as connection:
                noted = open_stream_gaps(connection, relay, str(shard))
                # What came between another relay's stream, or an earlier one of this relay, and this one.
                is_late = seq is None and was_streamed(connection, relay, str(shard))
            numbers = SequenceNumbers(relay, str(shard), start, allowed=settings.sequence_gap, open_gaps=noted)
            writer = Writer(database, settings, relay, Position(relay, str(shard), seq), stopped=stopped)
            with (
                Watchdog(database, writer, settings.slow_batch_seconds),
                Subscription(
                    relay,
                    start,
                    settings.buffer_bytes,
                    credentials=settings.relay_credentials,
                    sequence_gap=settings.sequence_gap,
                ) as subscription,
            ):
                decoder = StreamDecoder(
                    shard=shard,
                    numbers=numbers,
                    notices=subscription.notices,
                    validators=validators,
                    collections=collections,
                    verifier=verifier_for(settings, database),
                    gap=Gap("sequence", relay=relay, shard=str(shard)) if is_late else None,
                )
                summary = _Summary(subscription, writer)
                run_pipeline(
                    _batches(settings, subscription, summary, stopped),
                    decoder.changes,
                    writer,
                    look_up=applied_revs_in(database),
                    before_apply=lock.ensure,
                    on_applied=summary.add,
                    on_failure=subscription.wake,  # the stream may be quiet, and a batch takes its time to fill
                )
    finally:
        database.close()


def _take_over_cursor(database: Database, settings: Settings) -> int | None:
    """Takes the stream's cursor over from the layouts of shards before ours; None where the stream has not begun."""
    with database.connect("writer") as connection:
        opened = open_cursor(connection, settings.relay_url, settings.shard, settings.start_cursor)
    if opened.taken_from:
        log.info("Shard %s takes over from %s", settings.shard, ", ".join(opened.taken_from))
    if opened.closed:
        log.info("All shards of this layout have started: cursors %s are deleted", ", ".join(opened.closed))
    return opened.seq


def _batches(
    settings: Settings, subscription: Subscription, summary: _Summary, stopped: Callable[[], bool]
) -> Iterator[list[bytes]]:
    """Frames in the order in which they came, until `stopped`; none where the stream is quiet."""
    health = _Health(subscription)
    while not stopped():
        yield subscription.take(settings.batch_events * settings.shard.count, settings.batch_seconds)
        health.report()
        summary.log_if_due()


@dataclass
class _Health:
    """Says to the parent what keeps us from the relay, whenever that changes."""

    subscription: Subscription
    said: str | None = "nothing yet"

    def report(self) -> None:
        """Says it where it has changed; while a connection is being made, what was said stands."""
        status = self.subscription.status
        if not status.connected and status.state not in ("waiting", "future_cursor"):
            return
        trouble = None if status.connected else status.last_error
        if trouble != self.said:
            self.said = trouble
            report_trouble(trouble)


@dataclass
class _Summary:
    """A line in the log every `backoff.SUMMARY_SECONDS`: what was applied since the last one."""

    subscription: Subscription
    writer: Writer
    began: float = field(default_factory=time.monotonic)
    events: int = 0
    rejected: int = 0
    stale: int = 0
    newest: str | None = None

    def add(self, reports: list[Report]) -> None:
        """Adds what a batch did."""
        for report in reports:
            self.events += report.events
            self.rejected += report.rejected
            self.stale += report.stale
            self.newest = report.relay_time or self.newest

    def log_if_due(self) -> None:
        """Logs the line when its time has come, and begins the next one."""
        seconds = time.monotonic() - self.began
        if seconds < backoff.SUMMARY_SECONDS:
            return
        status, position = self.subscription.status, self.writer.position
        # The sensor says the same once a minute, from `pipeline.batch`.
        log.debug(
            "%.0f events/s",
            self.events / seconds,
            extra={
                "events": self.events,
                "lag_seconds": _seconds_since(self.newest),
                "rejected": self.rejected,
                "stale": self.stale,
                "reconnects": status.reconnects,
                "retries": self.writer.retries,
                "buffered_frames": status.buffered_frames,
                "seq": position.seq if position else None,
            },
        )
        self.began, self.events, self.rejected, self.stale, self.newest = time.monotonic(), 0, 0, 0, None


def _seconds_since(moment: str | None) -> float | None:
    """Seconds since an event's time; None without one."""
    if moment is None:
        return None
    return round(time.time() - datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp(), 1)


def main() -> int:
    """Runs the consumer as a leased process; the exit code says how it ended."""
    return run_leased("consumer", _work)


def _work(settings: Settings, stopped: Callable[[], bool]) -> None:
    favour_throughput()
    consume(settings, stopped)


if __name__ == "__main__":
    sys.exit(main())
