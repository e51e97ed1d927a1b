"""A range of a relay's sequence numbers once more, through the one write path and without moving a cursor.

For events that were indexed wrongly, or never: those of a gap of the stream that the relay still has, say. What was
applied before changes nothing. Gaps of the stream in the part that the relay sent without a hole are closed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.changes import Change, Gap
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.decoding import LookUp, applied_revs_in, read_changes
from appview_pipeline.ingest.pipeline import run_pipeline
from appview_pipeline.ingest.verification import verifier_for
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.network.notices import Notice
from appview_pipeline.network.subscription import Subscription, SubscriptionStatus
from appview_pipeline.protocol.peek import peek_seq
from appview_pipeline.settings import Settings
from appview_pipeline.store.batch import Report
from appview_pipeline.store.cursors import newest_cursor
from appview_pipeline.store.database import Database
from appview_pipeline.store.gaps import open_gaps_of_relay

log = logging.getLogger(__name__)

MAX_SEQ = 2**53 - 1
"""https://atproto.com/specs/event-stream"""
MAX_HOLES = 1_000
"""Holes that a summary keeps; beyond that the newest one is extended."""


@dataclass
class RangeSummary:
    """What a replay of a range did.

    `first_seq` and `last_seq`: the first and the last number of the range that the relay sent (None: none). `frames`
    received of the range, `events` among them, `rejected` dead letters, `stale` applied before. `holes`: spans that the
    relay did not send, each from the number before it to the one after it. `gaps_closed`: gaps of the stream that were
    closed. `ended`: why the replay ended, in words.
    """

    from_seq: int
    to_seq: int | None
    first_seq: int | None = None
    last_seq: int | None = None
    frames: int = 0
    events: int = 0
    rejected: int = 0
    stale: int = 0
    gaps_closed: int = 0
    seconds: float = 0.0
    ended: str = ""
    holes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def sent_part(self) -> float:
        """The share of the range's numbers that the relay sent or passed over without a hole, from 0 to 1."""
        end = self.to_seq if self.to_seq is not None else self.last_seq
        if end is None or self.last_seq is None:
            return 0.0
        wanted = end - self.from_seq + 1
        missing = sum(until - after - 1 for after, until in self.holes)
        return max(0.0, (wanted - missing - max(0, end - self.last_seq)) / wanted)

    def add(self, reports: list[Report]) -> None:
        """Adds what a batch did."""
        for report in reports:
            self.events += report.events
            self.rejected += report.rejected
            self.stale += report.stale


class SentNumbers:
    """Which numbers of a range the relay has sent, in order of arrival.

    A relay leaves single numbers out: up to `allowed` at once are no hole. After a frame that can't be read, or an
    event that is too large to be received, any number left out is one.
    """

    def __init__(self, summary: RangeSummary, allowed: int) -> None:
        self.summary = summary
        self._allowed = allowed
        self._before = summary.from_seq - 1
        self._unread = False

    def sent(self, seq: int) -> None:
        """The relay sent the event `seq`, which may lie beyond the range: then all before it is accounted for."""
        if seq <= self._before:
            return
        left_out = seq - self._before - 1
        if left_out > (0 if self._unread else self._allowed):
            self._hole(self._before, seq)
        self._before, self._unread = seq, False

    def unread(self) -> None:
        """An event was sent and could not be read or received: its number is one of those left out."""
        self._unread = True

    def _hole(self, after: int, until: int) -> None:
        holes = self.summary.holes
        end = self.summary.to_seq
        until = until if end is None else min(until, end + 1)
        if until - after <= 1:
            return
        if len(holes) >= MAX_HOLES:
            after = holes.pop()[0]
        holes.append((after, until))

    def covers(self, after: int, until: int) -> bool:
        """Whether the relay sent everything that it has between these two numbers."""
        first, last = self.summary.from_seq - 1, self._before
        return first <= after and until - 1 <= last and not any(a < until and u > after for a, u in self.summary.holes)


class _Ended(Exception):
    """The replay has come to its end, for a reason in words."""


def replay_range(
    settings: Settings,
    database: Database,
    from_seq: int,
    to_seq: int | None = None,
    *,
    max_seconds: float | None = None,
    progress: Callable[[RangeSummary], object] = lambda so_far: None,
    stopped: Callable[[], bool] = lambda: False,
) -> RangeSummary:
    """Applies the events of the settings' relay from the number `from_seq` to `to_seq`, both included, of all shards.

    `to_seq` None: to where the consumers are now; where there is none, until the relay sends nothing more. Ends early
    after `max_seconds`, and when `stopped` says so. Raises `OperatorError` for a range that is none, where the relay
    says that it lies in its future, and where the relay or the database can't be reached.
    """
    if not 1 <= from_seq <= MAX_SEQ or (to_seq is not None and not from_seq <= to_seq <= MAX_SEQ):
        raise OperatorError(f"The range {from_seq} to {to_seq} is none: it begins at 1 or later and ends no earlier.")
    if to_seq is None:
        with database.connect("reader") as connection:
            reached = newest_cursor(connection, settings.relay_url)
        if reached is not None and reached < from_seq:
            raise OperatorError(f"{from_seq} lies beyond {reached}, where the consumer is: choose an earlier number.")
        to_seq = reached
    summary = RangeSummary(from_seq, to_seq)
    began = time.monotonic()
    deadline = None if max_seconds is None else began + max_seconds
    validators, collections = record_validators(settings.lexicon_dir), IndexedCollections(settings.extra_collections)
    writer = Writer(database, settings, f"range:{settings.relay_url}", stopped=stopped)
    numbers = SentNumbers(summary, settings.sequence_gap)
    verifier = verifier_for(settings, database)

    def decode(frames: list[bytes], look_up: LookUp | None) -> Sequence[Change]:
        return read_changes(frames, validators, collections, look_up, verifier)

    def applied(reports: list[Report]) -> None:
        summary.add(reports)
        summary.seconds = time.monotonic() - began
        progress(summary)

    with Subscription(
        settings.relay_url,
        from_seq - 1,
        settings.buffer_bytes,
        credentials=settings.relay_credentials,
        sequence_gap=settings.sequence_gap,
    ) as subscription:
        source = _Source(settings, subscription, numbers, deadline, stopped)
        run_pipeline(
            source.batches(),
            decode,
            writer,
            look_up=applied_revs_in(database),
            on_applied=applied,
            on_failure=subscription.wake,
        )
    summary.ended = source.ended
    if summary.last_seq is not None:
        summary.gaps_closed = _close_gaps(settings, database, writer, numbers)
    summary.seconds = time.monotonic() - began
    return summary


@dataclass
class _Source:
    """The range's frames in batches, until its end. `ended`: why they ended."""

    settings: Settings
    subscription: Subscription
    numbers: SentNumbers
    deadline: float | None
    stopped: Callable[[], bool]
    ended: str = ""

    def batches(self) -> Iterator[list[bytes]]:
        settings, relay = self.settings, self.settings.relay_url
        heard = time.monotonic()
        try:
            while True:
                frames = self.subscription.take(settings.batch_events, settings.batch_seconds)
                for notice in self.subscription.notices():
                    self._notice(notice)
                now = time.monotonic()
                if frames:
                    heard = now
                    batch, is_last = self._of_range(frames)
                    if batch:
                        yield batch
                    if is_last:
                        raise _Ended("the range has been sent")
                else:
                    yield []
                if self.stopped():
                    raise _Ended("it was stopped")
                if self.deadline is not None and now >= self.deadline:
                    raise _Ended("its time is over")
                self._look(self.subscription.status, relay, now - heard)
        except _Ended as end:
            self.ended = str(end)

    def _of_range(self, frames: list[bytes]) -> tuple[list[bytes], bool]:
        """The frames that are the range's, and whether the range is over."""
        summary, batch = self.numbers.summary, []
        for frame in frames:
            seq = peek_seq(frame)
            if seq is None:
                self.numbers.unread()
                batch.append(frame)
                continue
            if seq < summary.from_seq:
                if seq < summary.from_seq - 1 and summary.last_seq is None:
                    raise OperatorError(
                        f"{self.settings.relay_url} is at {seq}: {summary.from_seq} lies in its future, or it numbers "
                        "its events anew."
                    )
                continue
            self.numbers.sent(seq)
            if summary.to_seq is not None and seq > summary.to_seq:
                return batch, True
            if summary.first_seq is None:
                summary.first_seq = seq
            summary.last_seq = max(seq, summary.last_seq or 0)
            summary.frames += 1
            batch.append(frame)
            if seq == summary.to_seq:
                return batch, True
        return batch, False

    def _notice(self, notice: Notice) -> None:
        log.info("%s", notice.message)
        if notice.kind == "oversized":
            self.numbers.unread()

    def _look(self, status: SubscriptionStatus, relay: str, quiet: float) -> None:
        """Ends the replay where nothing more is to be expected."""
        if status.state == "future_cursor":
            raise OperatorError(f"{status.last_error}")
        if status.connected:
            if quiet >= backoff.RANGE_QUIET_SECONDS:
                raise _Ended(f"{relay} sends nothing more")
        elif status.last_error is not None and quiet >= backoff.RANGE_CONNECT_SECONDS:
            raise OperatorError(f"{status.last_error} Nothing more was received: start the replay again later.")


def _close_gaps(settings: Settings, database: Database, writer: Writer, numbers: SentNumbers) -> int:
    """Closes the open gaps of the stream whose events were all sent. Returns how many."""
    with database.connect("reader") as connection:
        found = open_gaps_of_relay(connection, settings.relay_url)
    gaps = [
        Gap(
            kind=gap.kind,
            relay=settings.relay_url,
            shard=shard,
            after=str(gap.after),
            until=str(gap.until),
            resolved=True,
        )
        for shard, gap in found
        if numbers.covers(gap.after, gap.until)
    ]
    if gaps:
        writer.write([Change(size=0, is_position=True, gaps=gaps)], time.time())
    return len(gaps)
