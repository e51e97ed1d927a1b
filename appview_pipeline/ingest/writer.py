"""Changes into the database, whatever happens: retried when PostgreSQL asks for it, split when it refuses a row or when
a batch takes too long.

Nothing that one account sends may stop the stream, and nothing that somebody does to the database may turn good data
into dead letters. So a cancelled batch is handled by its cause:

- It waited for a lock (SQLSTATE 55P03). Somebody else has it, which says nothing about the data. The batch is tried
  again, as a whole, for as long as that takes; `watchdog.py` names the holder. Lock waits end before the time of the
  statement is over, so that one is not taken for the other.
- It was at work until its time was over (57014, `APPVIEW_STATEMENT_TIMEOUT`). After two of these it is halved; each
  part gets half of the time, at least a tenth, and one try. This usually helps, since the cost of what makes a batch
  slow grows faster than its size.
- A single change gets all of the time. When that is not enough either, and PostgreSQL answers quickly otherwise
  (`_answers_quickly`), the records in it that take too long become dead letters of kind `time-out`, which can be
  retried, and the stream goes on. While PostgreSQL is slow at everything nothing is given up.

Giving up a change takes at least `APPVIEW_STATEMENT_TIMEOUT`, which bounds how many can be: 30 an hour by default.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.batch import Batch, build
from appview_pipeline.indexing.changes import Change, DeadLetter
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.ingest.restore import MISSING_BLOCK, restore
from appview_pipeline.settings import Settings
from appview_pipeline.store.apply import apply, prepare
from appview_pipeline.store.batch import CursorMove, DeadLetterLimits, Report
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.errors import Cancelled, LockWait, RefusedData, Transient

log = logging.getLogger(__name__)

_T = TypeVar("_T")

CANCELLED_BATCH = 2
"""Cancellations after which a batch is halved."""
CANCELLED_BY_OTHERS = 5
"""Cancellations of one change, before its time was over, after which it is given up. Somebody else cancels it then: a
person, once or twice, or a limit on a server or pooler that we don't know of, again and again."""
SMALLEST_SHARE = 0.1
"""The least of `APPVIEW_STATEMENT_TIMEOUT` that a part of a cancelled batch gets."""
QUICK_SHARE = 0.1
"""PostgreSQL answers quickly when a batch of nothing takes less than this share of `APPVIEW_STATEMENT_TIMEOUT`."""
MAX_SLOW_RECORDS = 10
"""Records of one change that are found to be slow by trying; what follows them is given up with them."""


class _TookTooLong(Exception):
    """A batch was cancelled as often as it may be. The sentence says at which statement, last."""


@dataclass(frozen=True)
class AtWork:
    """A write under way, for whoever watches: since when (`time.monotonic`), how many changes, and the process id of
    the PostgreSQL backend that is at it (None: between two tries)."""

    since: float
    changes: int
    backend: int | None


class Stopped(Exception):
    """The writer was told to stop while it waited to try again. The batch is not written."""


@dataclass
class Position:
    """Where a stream stands: the sequence number that all batches so far reach; None before the first."""

    relay: str
    shard: str
    seq: int | None


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
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._settings = settings
        self._source = source
        self._limits = DeadLetterLimits(settings.dead_letters_per_minute, settings.dead_letter_day_bytes)
        self.position = position
        self._stopped = stopped
        self._limit = database.roles["writer"].statement
        self.retries = 0
        self.at_work: AtWork | None = None

    def build(self, changes: Sequence[Change]) -> Batch:
        """The batch of `changes`, encoded for `write`; may be called while another thread writes."""
        batch = self._batch_of(changes)
        batch.encode()
        return batch

    def write(
        self, changes: Sequence[Change], received_at: float, decode_ms: float = 0.0, built: Batch | None = None
    ) -> list[Report]:
        """Writes `changes` and commits them, in one transaction where PostgreSQL takes them all.

        `built`: what `build` made of them.

        Waits and tries again as long as the database is away or busy, until told to stop (`Stopped`). A change that
        PostgreSQL refuses, or that takes longer than it may, is found by halving and becomes a dead letter. Raises
        `CursorMoved` when another consumer moved the cursor.
        """
        if built is None or MISSING_BLOCK in built.report.rejected_by_kind:
            # Not before now: the batch before this one, which may bring the record, is written.
            known = restore(self._database, changes)
            changes, built = known, built if known is changes else None
        try:
            return self._write(changes, received_at, decode_ms, built)
        finally:
            self.at_work = None

    def _write(
        self,
        changes: Sequence[Change],
        received_at: float,
        decode_ms: float,
        built: Batch | None = None,
        share: float = 1.0,
        patience: int = CANCELLED_BATCH,
    ) -> list[Report]:
        """`share`: how much of `APPVIEW_STATEMENT_TIMEOUT` a statement may take; `patience`: how often it may take
        longer before the batch is halved."""
        self.at_work = AtWork(time.monotonic(), len(changes), None)
        try:
            return [self._write_once(changes, received_at, decode_ms, built, share=share, patience=patience)]
        except RefusedData as refusal:
            if len(changes) == 1:
                return [self._write_without_offenders(changes[0], refusal, received_at, decode_ms)]
            log.warning("PostgreSQL refuses a row among %s changes; looking for it", f"{len(changes):,}")
        except _TookTooLong as error:
            if len(changes) == 1:
                return [self._write_without_slow_records(changes[0], error, received_at, decode_ms)]
            log.warning("%s changes take too long together (%s); halving them", f"{len(changes):,}", error)
            share, patience = max(share / 2, SMALLEST_SHARE), 1
        half = len(changes) // 2
        reports = []
        for part in (changes[:half], changes[half:]):
            own_share = share if len(part) > 1 else 1.0
            own_decode_ms = decode_ms * len(part) / len(changes)
            reports += self._write(part, received_at, own_decode_ms, share=own_share, patience=patience)
        return reports

    def _write_once(
        self,
        changes: Sequence[Change],
        received_at: float,
        decode_ms: float,
        built: Batch | None = None,
        *,
        share: float = 1.0,
        patience: int | None = None,
    ) -> Report:
        """One transaction, tried again while the error is a passing one.

        Raises `RefusedData`, and `_TookTooLong` when cancelled `patience` times (None: never).
        """

        def attempt(share: float) -> Report:
            nonlocal built
            batch, built = built or self._batch_of(changes), None  # its report is written on: it serves one try
            return self._apply(changes, batch, received_at, decode_ms, share)

        return self._patiently(attempt, share, patience, is_single=len(changes) == 1)

    def _patiently(self, attempt: Callable[[float], _T], share: float, patience: int | None, *, is_single: bool) -> _T:
        """What `attempt` gives, tried again while its error is a passing one."""
        pause = backoff.batch()
        cancelled, by_others = 0, 0
        while True:
            began = time.monotonic()
            try:
                return attempt(share)
            except (Transient, OperatorError) as error:
                self.retries += 1
                if self.at_work is not None:
                    self.at_work = replace(self.at_work, backend=None)
                sentence = _words(error)
                if isinstance(error, Cancelled):
                    sentence = f"{error.statement}: {sentence}"
                    if is_single and time.monotonic() - began < 0.9 * share * self._limit:
                        by_others += 1
                    else:
                        cancelled += 1
                    if patience is not None and (cancelled >= patience or by_others >= CANCELLED_BY_OTHERS):
                        raise _TookTooLong(sentence) from error
                elif isinstance(error, LockWait):
                    share = 1.0  # the time of a part is for its work, not for others'
                wait = pause.next()
                log.warning("Batch not written, trying again in %.1f s: %s", wait, sentence)
                self._wait(wait)

    def _batch_of(self, changes: Sequence[Change]) -> Batch:
        return build(
            changes,
            self._source,
            shard=self.position.shard if self.position else "0/1",
            dead_letter_bytes=self._settings.dead_letter_bytes,
        )

    def _apply(
        self, changes: Sequence[Change], batch: Batch, received_at: float, decode_ms: float, share: float
    ) -> Report:
        position = self.position
        batch.report.received_at = received_at
        batch.report.decode_ms = decode_ms
        move = None
        if position is not None and batch.report.last_seq is not None:
            move = CursorMove(position.relay, position.shard, position.seq, _reached(changes, position.seq))
        with self._prepared(share) as connection:
            report = apply(connection, batch, move=move, limits=self._limits)
        if position is not None and move is not None:
            position.seq = move.to_seq
        return report

    @contextmanager
    def _prepared(self, share: float) -> Iterator[Connection]:
        """A connection whose next transaction has `share` of the usual time for each statement."""
        with self._database.connect("writer") as connection:
            if self.at_work is not None:
                self.at_work = replace(self.at_work, backend=connection.info.backend_pid)
            prepare(connection, EFFECTS)
            role = self._database.roles["writer"]
            lock = min(role.lock, share * role.statement / 2)
            if share < 1.0 or lock < role.lock:
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true)",
                        (f"{share * role.statement * 1000:.0f}ms", f"{lock * 1000:.0f}ms"),
                    )
            yield connection

    def _write_without_offenders(
        self, change: Change, refusal: Exception, received_at: float, decode_ms: float
    ) -> Report:
        """Writes a refused change without the records that PostgreSQL refuses; those become dead letters."""
        kept, letters = [], []
        for write in change.writes:
            if (objection := self._objection(replace(change, writes=[write], deletes=[], repo=None))) is None:
                kept.append(write)
            else:
                letters.append(_letter(write, *objection))
        if letters:
            rest = replace(change, writes=kept, dead_letters=[*change.dead_letters, *letters])
            try:
                return self._write_once([rest], received_at, decode_ms, patience=1)
            except _TookTooLong as error:
                return self._write_letter(change, "time-out", str(error), received_at, decode_ms)
            except RefusedData as error:
                refusal = error
        return self._write_letter(change, "postgres", _words(refusal), received_at, decode_ms)

    def _write_without_slow_records(
        self, change: Change, error: _TookTooLong, received_at: float, decode_ms: float
    ) -> Report:
        """Writes a change without the records that take too long; those become dead letters."""
        pause = backoff.batch()
        while not self._answers_quickly():
            log.error("PostgreSQL is slow at everything, so no change is given up; trying again")
            self._wait(pause.longest_wait())
            try:
                return self._write_once([change], received_at, decode_ms, patience=1)
            except _TookTooLong as again:
                error = again
        kept: list[RecordWrite] = []
        letters: list[DeadLetter] = []
        for write in change.writes:
            objection: tuple[str, str] | None = ("time-out", str(error))
            if len(change.writes) + len(change.deletes) > 1 and len(letters) < MAX_SLOW_RECORDS:
                objection = self._objection(replace(change, writes=[write], deletes=[], repo=None), SMALLEST_SHARE)
            if objection is None:
                kept.append(write)
            else:
                letters.append(_letter(write, *objection))
        what = change.repo.did if change.repo is not None else f"event {change.seq}"
        if letters:
            log.error(
                "%s records of %s exceed the time that a statement may take and are given up as dead letters "
                "(time-out): %s; at %s",
                len(letters),
                what,
                ", ".join(str(letter.path) for letter in letters[:3]),
                error,
            )
            rest = replace(change, writes=kept, dead_letters=[*change.dead_letters, *letters])
            try:
                return self._write_once([rest], received_at, decode_ms, patience=1)
            except (_TookTooLong, RefusedData) as rest_error:
                log.error("The rest of the commit can't be written either: %s", _words(rest_error))
        log.error(
            "A change of %s exceeds the time that a statement may take and is given up as a dead letter (time-out): %s",
            what,
            error,
        )
        return self._write_letter(change, "time-out", str(error), received_at, decode_ms)

    def _write_letter(self, change: Change, kind: str, reason: str, received_at: float, decode_ms: float) -> Report:
        """Writes a dead letter in place of a whole change."""
        did, rev, since = (change.repo.did, change.repo.rev, change.repo.since) if change.repo else (None, None, None)
        content = repr(change).encode()
        letter = DeadLetter(kind, reason, change.seq, did, None, content, "other", rev=rev, since=since)
        nothing = Change(change.size, change.seq, change.time, change.is_event, dead_letters=[letter])
        return self._write_once([nothing], received_at, decode_ms)

    def _objection(self, change: Change, share: float = 1.0) -> tuple[str, str] | None:
        """Why PostgreSQL refuses a change or takes too long for it, as a dead letter's kind and reason; None when it
        takes it. Nothing is written."""

        def attempt(share: float) -> None:
            batch = build([change], self._source, dead_letter_bytes=self._settings.dead_letter_bytes)
            with self._prepared(share) as connection:
                apply(connection, batch, dry_run=True)

        try:
            self._patiently(attempt, share, 1, is_single=True)
        except RefusedData as error:
            return "postgres", _words(error)
        except _TookTooLong as error:
            return "time-out", str(error)
        return None

    def _answers_quickly(self) -> bool:
        """Whether PostgreSQL takes a batch of nothing in a small part of the time that the usual batch has."""
        began = time.monotonic()
        if self._objection(Change(0)) is not None:
            return False
        return time.monotonic() - began < QUICK_SHARE * self._limit

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._stopped():
                raise Stopped
            time.sleep(min(left, 0.2))
        if self._stopped():
            raise Stopped


def _reached(changes: Sequence[Change], seq: int | None) -> int:
    """The sequence number that the stream has reached after `changes`.

    Events that a relay sends twice don't move it back; a relay that numbers anew does. Doubtful numbers don't count.
    """
    reached = seq or 0
    for change in changes:
        if change.restarts_at is not None:
            reached = change.restarts_at - 1
        if change.seq is not None and change.seq > reached and not change.is_doubtful:
            reached = change.seq
    return reached


def _letter(write: RecordWrite, kind: str, reason: str) -> DeadLetter:
    return DeadLetter(
        kind=kind,
        reason=reason,
        seq=write.seq,
        did=write.did,
        path=f"{write.collection}/{write.rkey}",
        bytes=write.json.encode(),
        form="json",
        rev=write.rev,
        cid=write.cid,
        action=write.action,
        time=write.indexed_at,
    )


def _words(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].replace("\0", "")[:500]
