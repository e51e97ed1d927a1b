"""The consumer: the relay's stream, or one shard of it, into the database, until its lease ends.

A process of its own, without Dagster: `python -m appview_pipeline.ingest.live.consumer`. The sensor starts it and keeps
its lease (`consumer_process.py` says how, and what the exit codes mean).

A consumer of a shard receives the whole stream and drops the frames of other shards before they are decoded. What
belongs to no repository (damaged frames, frames too large to receive) is shard 0's; gaps are noted by whoever has them.
"""

from __future__ import annotations

import logging
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from operator import lt

from appview_pipeline import logs
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.changes import Change, DeadLetter, position
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators, record_validators
from appview_pipeline.ingest.consumer_process import EXIT_ENDED, EXIT_LOCK_LOST, EXIT_LOCKED, EXIT_OPERATOR_ERROR
from appview_pipeline.ingest.decoding import mostly_applied, read_changes
from appview_pipeline.ingest.interpreter import favour_throughput
from appview_pipeline.ingest.lifetime import Lifetime
from appview_pipeline.ingest.live.sequence_numbers import Numbers, Seen
from appview_pipeline.ingest.watchdog import Watchdog
from appview_pipeline.ingest.writer import Position, Stopped, Writer
from appview_pipeline.network.notices import Notice
from appview_pipeline.network.subscription import Subscription
from appview_pipeline.protocol.peek import peek_did, peek_seq
from appview_pipeline.settings import Settings, load
from appview_pipeline.shards import Shard
from appview_pipeline.store.applied import AppliedRevs, applied_revs
from appview_pipeline.store.batch import CursorMoved, Report
from appview_pipeline.store.cursors import open_cursor
from appview_pipeline.store.database import Database, open_database
from appview_pipeline.store.gaps import open_stream_gaps
from appview_pipeline.store.stream_lock import LockLost, LockTaken, StreamLock, stream_lock

log = logging.getLogger("appview_pipeline.consumer")

SUMMARY_SECONDS = 15.0
POSITION_SECONDS = 2.0
"""How long frames of other shards alone don't move the cursor."""


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
    `OperatorError` (bad setting, no database), `LockTaken` and `CursorMoved` (another consumer), `LockLost`.
    """
    validators = record_validators(settings.lexicon_dir)
    relay, shard = settings.relay_url, settings.shard
    database = open_database(settings)
    try:
        with stream_lock(database, relay, str(shard), stopped) as lock:
            lock.keep_to_layout(relay, shard, stopped)
            with database.connect("writer") as connection:
                opened = open_cursor(connection, relay, shard, settings.start_cursor)
            if opened.taken_from:
                log.info("Shard %s takes over from %s", shard, ", ".join(opened.taken_from))
            if opened.closed:
                log.info("All shards of this layout have started: cursors %s are deleted", ", ".join(opened.closed))
            start = settings.start_cursor if opened.seq is None else opened.seq
            log.info(
                "Subscribing to %s%s after %s",
                relay,
                f", shard {shard}," if shard.count > 1 else "",
                "the newest event" if start is None else start,
            )
            writer = Writer(database, settings, relay, Position(relay, str(shard), opened.seq), stopped)
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
                _consume(settings, database, subscription, writer, lock, validators, stopped, start)
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
    start: int | None,
) -> None:
    applying: Future[list[Report]] | None = None

    def look_up(dids: set[str]) -> dict[str, AppliedRevs]:
        with database.connect("reader") as connection:
            return applied_revs(connection, dids)

    def settle() -> list[Report]:
        """Waits for the batch that PostgreSQL is at work on; raises what it failed with."""
        nonlocal applying
        reports = applying.result() if applying is not None else []
        applying = None
        interval.add(reports)
        return reports

    def act_on_failure(batch: Future[list[Report]]) -> None:
        # The stream may be quiet, and `take` waits for as long as a batch may take to fill.
        if batch.exception() is not None:
            subscription.wake()

    collections = IndexedCollections(settings.extra_collections)
    shard = settings.shard
    interval = _Interval()
    look_first = False
    others: Change | None = None  # how far the frames of other shards reach that came since the last batch
    others_due = 0.0
    with database.connect("reader") as connection:
        noted = open_stream_gaps(connection, settings.relay_url, str(shard))
    numbers = Numbers(settings.relay_url, str(shard), start, settings.sequence_gap, noted)
    # While PostgreSQL applies one batch the next one is received and decoded; there are never more than these two.
    with ThreadPoolExecutor(1, "apply") as pool:
        while not stopped():
            frames = subscription.take(settings.batch_events * shard.count, settings.batch_seconds)
            received_at = time.time()
            if applying is not None and applying.done():
                look_first = mostly_applied(settle())
            notices = subscription.notices()
            changes = _noticed(notices, settings.relay_url, shard, numbers)
            own = own_frames(frames, shard)
            decoded = read_changes(own, validators, collections, look_up if look_first else None)
            seen = numbers.see(_numbers_of(frames, decoded, shard), time.monotonic())
            changes += numbers.changes_of(seen)
            changes += _judged(frames, decoded, shard, seen)
            if len(own) < len(frames):
                others = _position(frames, numbers.reached, seen) or others
            if others is not None and (changes or others.restarts_at or time.monotonic() >= others_due):
                changes.append(others)
                others = None
            if changes:
                folded = writer.fold(changes)
                decode_ms = (time.time() - received_at) * 1000
                if applying is not None:
                    look_first = mostly_applied(settle())
                lock.ensure()
                others_due = time.monotonic() + POSITION_SECONDS
                applying = pool.submit(writer.write, changes, received_at, decode_ms, folded)
                applying.add_done_callback(act_on_failure)
            if time.monotonic() - interval.began >= SUMMARY_SECONDS:
                _summarize(interval, subscription, writer)
                interval = _Interval()
        settle()


def own_frames(frames: list[bytes], shard: Shard) -> list[bytes]:
    """Those of `frames` that are the shard's, in their order."""
    return frames if shard.count == 1 else [frame for frame in frames if shard.takes(peek_did(frame))]


def _numbers_of(frames: list[bytes], decoded: list[Change], shard: Shard) -> Sequence[int | None]:
    """The sequence numbers of all frames, of whatever shard; None for one that can't be read, and may stand for any."""
    own = [None if change.dead_letters and change.dead_letters[0].did is None else change.seq for change in decoded]
    if shard.count == 1 or not frames:
        return own
    # Other shards' frames are not decoded: nearly always both ends tell that nothing lies in between but them.
    first, last = peek_seq(frames[0]), peek_seq(frames[-1])
    known = [number for number in own if number is not None]
    if first is not None and last is not None and last - first == len(frames) - 1 and len(known) == len(own):
        rising = all(map(lt, [first - 1, *known], [*known, last + 1]))
        if rising:
            return range(first, last + 1)
    return [peek_seq(frame) for frame in frames]


def _judged(frames: list[bytes], decoded: list[Change], shard: Shard, seen: Seen) -> list[Change]:
    """The changes of the shard's own frames, with what their numbers say for the cursor."""
    if not seen.doubtful and seen.restart is None:
        return decoded
    own = [index for index, frame in enumerate(frames) if shard.count == 1 or shard.takes(peek_did(frame))]
    for change, index in zip(decoded, own, strict=True):
        change.is_doubtful = index in seen.doubtful
    if seen.restart is None:
        return decoded
    at = bisect_left(own, seen.restart)
    first = next((change.seq for change in decoded[at:] if change.seq is not None), None)
    return [*decoded[:at], Change(0, restarts_at=first, is_position=True), *decoded[at:]]


def _position(frames: list[bytes], reached: int | None, seen: Seen) -> Change | None:
    """How far the stream has got after `frames`: the time of the last that has one, and the number that counts."""
    change = next((change for change in map(position, reversed(frames)) if change is not None), None)
    if change is not None:
        change.seq = reached
        change.restarts_at = None if seen.restart is None else reached
    return change


def _noticed(notices: list[Notice], relay: str, shard: Shard, numbers: Numbers) -> list[Change]:
    """What the stream says about itself, as changes: gaps and dead letters are written down with the next batch.

    Whether a connection that does not go on where it should leaves a gap, its numbers tell.
    """
    changes = []
    for notice in notices:
        log.log(logging.INFO if notice.kind == "info" else logging.WARNING, "%s", notice.message)
        change = Change(len(notice.frame))
        if notice.kind in ("gap", "went_back") and notice.first_seq is not None:
            numbers.connected(notice.first_seq, "outdated_cursor" if notice.name == "OutdatedCursor" else "sequence")
            continue
        if notice.kind == "oversized" and notice.cursor is not None:
            numbers.passed_over(notice.cursor)
        if notice.kind == "oversized" and shard.is_first:
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
        lifetime.set_lease(settings.lease_seconds)
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
    except LockLost as error:
        log.warning("%s", error)
        return EXIT_ENDED if lifetime.stopped() else EXIT_LOCK_LOST
    except Stopped:
        log.info("Ended before the batch in hand was written; it is read again at the next start")
    finally:
        lifetime.finish()
    log.info("Ended: %s", lifetime.reason or "told to")
    return EXIT_ENDED


if __name__ == "__main__":
    sys.exit(main())
