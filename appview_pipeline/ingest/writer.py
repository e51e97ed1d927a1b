"""Changes into the database, whatever happens: retried when PostgreSQL asks for it (`transactions.py`), split when it
refuses a row or when a batch takes too long (`offenders.py`).

Nothing that one account sends may stop the stream, and nothing that somebody does to the database may turn good data
into dead letters. So a cancelled batch is handled by its cause:

- It waited for a lock (`LockWait`). Another session holds the lock, which says nothing about the data. The batch is
  tried again, as a whole, for as long as that takes; `watchdog.py` names the holder. Lock waits end before the time of
  the statement is over, so that the two are not confused.
- It was at work until its time was over (`Cancelled`, `APPVIEW_STATEMENT_TIMEOUT`). After two of these it is halved;
  each part gets half of the time, at least a tenth, and one try. This usually helps: the cost of what makes a batch
  slow grows faster than its size. A part of an export is halved as well, down to single records, for it may have
  thousands; its end stays the last.
- A single change gets all of the time. When that is not enough either, and PostgreSQL answers quickly otherwise
  (`Trial.answers_quickly`), the records in it that take too long become dead letters of kind `time-out`, which can be
  retried, and the stream goes on. While PostgreSQL is slow at everything nothing is given up.

Records that are too old to be indexed are left out (`old_records.py`), where a retention is set.

Content of accounts that are excluded is taken out of the changes (`indexing/exclusion.py`). The transaction itself
finds out who is excluded; where the batch was built with another idea of that, it is built again (`ExclusionChanged`).

Giving up a change takes at least `APPVIEW_STATEMENT_TIMEOUT`. So no more than 30 changes an hour can be given up, by
default.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appview_pipeline import backoff
from appview_pipeline.indexing.batch import Batch, build
from appview_pipeline.indexing.changes import Change
from appview_pipeline.indexing.exclusion import withhold
from appview_pipeline.ingest.offenders import SMALLEST_SHARE, Objection, Trial, given_up, halves, named
from appview_pipeline.ingest.old_records import KnownOldRecords
from appview_pipeline.ingest.restore import MISSING_BLOCK, restore
from appview_pipeline.ingest.transactions import AtWork, TookTooLong, Transactions, reason_of
from appview_pipeline.settings import Settings
from appview_pipeline.store.batch import CursorMove, DeadLetterLimits, ExclusionChanged, Report
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import RefusedData

log = logging.getLogger(__name__)

MAX_EXCLUDED = 100_000
"""Excluded accounts that a writer remembers. Where there are more it forgets them all, and learns them again."""


@dataclass
class Position:
    """Where a stream stands: the sequence number that all batches so far reach; None before the first."""

    relay: str
    shard: str
    seq: int | None


@dataclass(frozen=True)
class _Timing:
    """When a batch was received (UNIX time), and how long it took to decode it."""

    received_at: float
    decode_ms: float

    def of_part(self, part: Sequence[Change], changes: Sequence[Change]) -> _Timing:
        return _Timing(self.received_at, self.decode_ms * min(1.0, len(part) / len(changes)))


class Writer:
    """Writes changes of one source, in order, and moves its cursor with them (`position` None: there is no cursor).

    Not for use by two threads at once.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        source: str,
        position: Position | None = None,
        *,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._source = source
        self._limits = DeadLetterLimits(settings.dead_letters_per_minute, settings.dead_letter_day_bytes)
        self._dead_letter_bytes = settings.dead_letter_bytes
        self._transactions = Transactions(database, stopped)
        self._excluded: frozenset[str] = frozenset()
        self._old = KnownOldRecords(settings, database)
        self._trial = Trial(self._transactions, source, settings.dead_letter_bytes)
        self.position = position

    @property
    def retries(self) -> int:
        """How many failures were tried again."""
        return self._transactions.retries

    @property
    def at_work(self) -> AtWork | None:
        """The write under way; may be read by any thread."""
        return self._transactions.at_work

    def build(self, changes: Sequence[Change]) -> Batch:
        """The batch of `changes`, encoded for `write`; may be called while another thread writes."""
        batch = self._batch_of(changes)
        batch.encode()
        return batch

    def write(
        self, changes: Sequence[Change], received_at: float, decode_ms: float = 0.0, built: Batch | None = None
    ) -> list[Report]:
        """Writes `changes` and commits them, in one transaction where PostgreSQL takes them all.

        `received_at`: UNIX time. `built`: what `build` made of them. Commits and exports of the same repository are
        written one after the other.

        Waits and tries again as long as the database is away or busy, until asked to stop (`Stopped`). A change that
        PostgreSQL refuses, or that takes longer than it may, is found by halving and becomes a dead letter. Raises
        `CursorMoved` when another consumer moved the cursor.
        """
        if built is None or MISSING_BLOCK in built.report.rejected_by_kind:
            # Not before now: the batch before this one, which may bring the record, is written.
            known = restore(self._database, changes)
            changes, built = known, built if known is changes else None
        timing = _Timing(received_at, decode_ms)
        try:
            if len(parts := _without_both(changes)) == 1:
                return self._write(changes, timing, built)
            return [report for part in parts for report in self._write(part, timing.of_part(part, changes))]
        finally:
            self._transactions.at_work = None

    def _write(
        self,
        changes: Sequence[Change],
        timing: _Timing,
        built: Batch | None = None,
        *,
        share: float = 1.0,
        max_cancelled: int = backoff.BATCH_CANCELLATIONS,
    ) -> list[Report]:
        """`share`: how much of `APPVIEW_STATEMENT_TIMEOUT` a statement may take; `max_cancelled`: how often it may take
        longer before the batch is halved."""
        self._transactions.at_work = AtWork(time.monotonic(), len(changes), None)
        try:
            return [self._write_once(changes, timing, built, share=share, max_cancelled=max_cancelled)]
        except RefusedData as refusal:
            if (parts := halves(changes)) is None:
                return [self._write_without_refused(changes[0], refusal, timing)]
            log.warning("PostgreSQL refuses a row among %s; looking for it", _counted(changes))
        except TookTooLong as error:
            if (parts := halves(changes)) is None:
                return [self._write_without_slow(changes[0], error, timing)]
            log.warning("%s take too long together (%s); halving them", _counted(changes), error)
            share, max_cancelled = max(share / 2, SMALLEST_SHARE), 1
        reports = []
        for part in parts:
            own_share = 1.0 if halves(part) is None else share
            reports += self._write(part, timing.of_part(part, changes), share=own_share, max_cancelled=max_cancelled)
        return reports

    def _write_once(
        self,
        changes: Sequence[Change],
        timing: _Timing,
        built: Batch | None = None,
        *,
        share: float = 1.0,
        max_cancelled: int | None = None,
    ) -> Report:
        """One transaction, tried again while the error is a passing one.

        Raises `RefusedData`, and `TookTooLong` when cancelled `max_cancelled` times (None: never).
        """

        def attempt(share: float) -> Report:
            nonlocal built
            while True:
                left_out = self._excluded if built is None else frozenset[str]()
                batch, built = built or self._batch_of(changes), None  # a try changes its report: each needs its own
                try:
                    return self._apply(changes, batch, timing, share)
                except ExclusionChanged as change:
                    assert not change.excluded & left_out, "content of an excluded account was left in a batch"
                    self._remember(change)

        return self._transactions.retry(attempt, share=share, max_cancelled=max_cancelled, is_single=len(changes) == 1)

    def _apply(self, changes: Sequence[Change], batch: Batch, timing: _Timing, share: float) -> Report:
        position = self.position
        batch.report.received_at = timing.received_at
        batch.report.decode_ms = timing.decode_ms
        move = None
        if position is not None and batch.report.last_seq is not None:
            move = CursorMove(position.relay, position.shard, position.seq, reached(changes, position.seq))
        report = self._transactions.apply(batch, share, move=move, limits=self._limits)
        if position is not None and move is not None:
            position.seq = move.to_seq
        return report

    def _write_without_refused(self, change: Change, refusal: Exception, timing: _Timing) -> Report:
        """Writes a refused change without the records that PostgreSQL refuses; those become dead letters."""
        if (rest := self._trial.without_refused(change)) is not None:
            try:
                return self._write_once([rest], timing, max_cancelled=1)
            except TookTooLong as error:
                return self._write_given_up(change, Objection("time-out", str(error)), timing)
            except RefusedData as error:
                refusal = error
        return self._write_given_up(change, Objection("postgres", reason_of(refusal)), timing)

    def _write_without_slow(self, change: Change, error: TookTooLong, timing: _Timing) -> Report:
        """Writes a change without the records that take too long; those become dead letters."""
        pause = backoff.batch()
        while not self._trial.answers_quickly():
            log.error("PostgreSQL is slow at everything, so no change is given up; trying again")
            self._transactions.wait(pause.longest_wait())
            try:
                return self._write_once([change], timing, max_cancelled=1)
            except TookTooLong as again:
                error = again
        if (rest := self._trial.without_slow(change, str(error))) is not None:
            try:
                return self._write_once([rest], timing, max_cancelled=1)
            except (TookTooLong, RefusedData) as rest_error:
                log.error("The rest of the commit can't be written either: %s", reason_of(rest_error))
        log.error(
            "A change of %s exceeds the time that a statement may take and is given up as a dead letter (time-out): %s",
            named(change),
            error,
        )
        return self._write_given_up(change, Objection("time-out", str(error)), timing)

    def _write_given_up(self, change: Change, objection: Objection, timing: _Timing) -> Report:
        """Writes a dead letter in place of a whole change."""
        return self._write_once([given_up(change, objection)], timing)

    def _remember(self, change: ExclusionChanged) -> None:
        """Learns which accounts are excluded, so that one that is busy does not cost a second try of every batch.

        Nothing depends on it: each batch finds out what has changed since.
        """
        remembered = self._excluded if len(self._excluded) < MAX_EXCLUDED else frozenset[str]()
        self._excluded = (remembered - change.allowed) | change.excluded

    def _batch_of(self, changes: Sequence[Change]) -> Batch:
        if (old := self._old.get()) is not None:
            changes = old.without_old(changes)
        return build(
            withhold(changes, self._excluded),
            self._source,
            shard=self.position.shard if self.position else "0/1",
            dead_letter_bytes=self._dead_letter_bytes,
        )


def reached(changes: Sequence[Change], seq: int | None) -> int:
    """The sequence number that the stream has reached after `changes`, from `seq` before them.

    Events that a relay sends twice don't move it back; a relay that numbers anew does. Doubtful numbers don't count.
    """
    reached = seq or 0
    for change in changes:
        if change.restarts_at is not None:
            reached = change.restarts_at - 1
        if change.seq is not None and change.seq > reached and not change.is_doubtful:
            reached = change.seq
    return reached


def _without_both(changes: Sequence[Change]) -> list[Sequence[Change]]:
    """`changes`, divided where a repository has an export in one and a commit in another."""
    exported = {change.export.did for change in changes if change.export is not None}
    if not exported or all(change.repo is None for change in changes):
        return [changes]
    parts: list[Sequence[Change]] = []
    start, kinds = 0, dict[str, bool]()
    for number, change in enumerate(changes):
        state = change.repo or change.export
        if state is not None and kinds.setdefault(state.did, change.repo is None) != (change.repo is None):
            parts.append(changes[start:number])
            start, kinds = number, {state.did: change.repo is None}
    return [*parts, changes[start:]]


def _counted(changes: Sequence[Change]) -> str:
    """How much it is, for people."""
    if len(changes) > 1:
        return f"{len(changes):,} changes"
    return f"{len(changes[0].writes) + len(changes[0].deletes):,} records"
