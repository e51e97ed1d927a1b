"""The consumer: the relay's stream into the database, until its lease ends.

A process of its own, without Dagster: `python -m appview_pipeline.ingest.consumer`. The sensor starts it and keeps its
lease (`consumer_process.py` tells how, and what the exit codes mean).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from appview_pipeline import logs
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.changes import Change, DeadLetter, Gap
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators, record_validators
from appview_pipeline.ingest.consumer_process import EXIT_ENDED, EXIT_LOCKED, EXIT_OPERATOR_ERROR
from appview_pipeline.ingest.decoding import mostly_applied, read_changes
from appview_pipeline.ingest.interpreter import favour_throughput
from appview_pipeline.ingest.lifetime import Lifetime
from appview_pipeline.ingest.writer import Position, Stopped, Writer
from appview_pipeline.network.firehose import Notice, Subscription
from appview_pipeline.settings import Settings, load
from appview_pipeline.store.applied import AppliedRevs, applied_revs
from appview_pipeline.store.apply import CursorMoved, Report
from appview_pipeline.store.cursors import cursor_of
from appview_pipeline.store.database import Database, open_database
from appview_pipeline.store.lease import LockTaken, StreamLock, stream_lock

log = logging.getLogger("appview_pipeline.consumer")

SUMMARY_SECONDS = 15.0
SHARD = "0/1"


@dataclass
class _Interval:
    """What happened since the last summary line."""

    began: float = field(default_factory=time.monotonic)
    events: int = 0
    rejected: int = 0
    stale: int = 0
    newest: str | None = None

    @property
    def lag(self) -> float | None:
        """Seconds since the newest event applied; None without one."""
        if self.newest is None:
            return None
        newest = datetime.fromisoformat(self.newest.replace("Z", "+00:00"))
        return round(time.time() - newest.timestamp(), 1)

    def add(self, reports: list[Report]) -> None:
        for report in reports:
            self.events += report.events
            self.rejected += report.rejected
            self.stale += report.stale
            self.newest = report.relay_time or self.newest


def consume(settings: Settings, stopped: Callable[[], bool]) -> None:
    """Consumes the stream of the settings' relay until `stopped`.

    Starts after the stream's cursor; where there is none, after `APPVIEW_START_CURSOR` or at the newest event. Raises
    `OperatorError` (bad setting, no database), `LockTaken` and `CursorMoved` (another consumer).
    """
    validators = record_validators(settings.lexicon_dir)
    database = open_database(settings)
    try:
        with stream_lock(database, settings.relay_url, SHARD, stopped) as lock:
            with database.connect("reader") as connection:
                seq = cursor_of(connection, settings.relay_url, SHARD)
            position = Position(settings.relay_url, SHARD, seq)
            start = settings.start_cursor if seq is None else seq
            log.info("Subscribing to %s after %s", settings.relay_url, "the newest event" if start is None else start)
            writer = Writer(database, settings, settings.relay_url, position, stopped)
            with Subscription(settings.relay_url, start, settings.buffer_bytes) as subscription:
                _consume(settings, database, subscription, writer, lock, validators, stopped)
    finally:
        database.close()


def _consume(
    settings: Settings,
    database: Database,
    subscription: Subscription,
    writer: Writer,
    lock: StreamLock,
    validators: Validators,
    stopped: Callable[[], bool],
) -> None:
    def look_up(dids: set[str]) -> dict[str, AppliedRevs]:
        with database.connect("reader") as connection:
            return applied_revs(connection, dids)

    def settle() -> list[Report]:
        """Waits for the batch that PostgreSQL is at work on."""
        reports = applying.result() if applying is not None else []
        interval.add(reports)
        return reports

    collections = IndexedCollections(settings.extra_collections)
    interval = _Interval()
    applying: Future[list[Report]] | None = None
    look_first = False
    # While PostgreSQL applies one batch the next one is received and decoded; there are never more than these two.
    with ThreadPoolExecutor(1, "apply") as pool:
        while not stopped():
            frames = subscription.take(settings.batch_events, settings.batch_seconds)
            received_at = time.time()
            changes = _noticed(subscription.notices(), settings.relay_url)
            changes += read_changes(frames, validators, collections, look_up if look_first else None)
            if changes:
                folded = writer.fold(changes)
                decode_ms = (time.time() - received_at) * 1000
                reports = settle()
                look_first = mostly_applied(reports)
                lock.ensure()
                applying = pool.submit(writer.write, changes, received_at, decode_ms, folded)
            if time.monotonic() - interval.began >= SUMMARY_SECONDS:
                _summarize(interval, subscription, writer)
                interval = _Interval()
        settle()


def _noticed(notices: list[Notice], relay: str) -> list[Change]:
    """What the stream says about itself, as changes: gaps and dead letters are written down with the next batch."""
    changes = []
    for notice in notices:
        log.log(logging.INFO if notice.kind == "info" else logging.WARNING, "%s", notice.message)
        change = Change(len(notice.frame))
        if notice.kind in ("gap", "went_back"):
            kind = "outdated_cursor" if notice.name == "OutdatedCursor" else "sequence"
            change.gaps.append(Gap(kind, relay, str(notice.cursor), str(notice.first_seq)))
            change.restarts_at = notice.first_seq if notice.kind == "went_back" else None
        elif notice.kind == "oversized":
            change.dead_letters.append(DeadLetter("frame-size", notice.message, None, None, None, notice.frame))
        else:
            continue
        changes.append(change)
    return changes


def _summarize(interval: _Interval, subscription: Subscription, writer: Writer) -> None:
    status = subscription.status
    seconds = time.monotonic() - interval.began
    log.info(
        "%.0f events/s",
        interval.events / seconds,
        extra={
            "events": interval.events,
            "lag_seconds": interval.lag,
            "rejected": interval.rejected,
            "stale": interval.stale,
            "reconnects": status.reconnects,
            "retries": writer.retries,
            "buffered_frames": status.buffered_frames,
            "seq": writer.position.seq if writer.position else None,
        },
    )


def main() -> int:
    """Runs the consumer as a process; the exit code says how it ended."""
    lifetime = Lifetime()
    try:
        settings = load()
        logs.configure(settings, "consumer", sys.stdout)
        logs.log_start(settings, "consumer")
        favour_throughput()
        consume(settings, lifetime.stopped)
    except OperatorError as error:
        print(error, flush=True)
        return EXIT_OPERATOR_ERROR
    except (LockTaken, CursorMoved) as error:
        log.warning("%s", error)
        return EXIT_ENDED if lifetime.stopped() else EXIT_LOCKED
    except Stopped:
        log.info("Ended before the batch in hand was written; it is read again at the next start")
    finally:
        lifetime.finish()
    log.info("Ended: %s", lifetime.reason or "told to")
    return EXIT_ENDED


if __name__ == "__main__":
    sys.exit(main())
