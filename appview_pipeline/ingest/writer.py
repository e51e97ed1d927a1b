"""Changes into the database, whatever happens: retried when PostgreSQL asks for it, split when it refuses a row."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import psycopg2
from psycopg2 import errors

from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.batch import Batch, build
from appview_pipeline.indexing.changes import Change, DeadLetter
from appview_pipeline.settings import Settings
from appview_pipeline.store.apply import CursorMove, Report, apply, prepare
from appview_pipeline.store.database import Database

log = logging.getLogger(__name__)

# PostgreSQL refuses the data itself: SQLSTATE classes 22, 23 and 54.
REFUSED = (psycopg2.DataError, psycopg2.IntegrityError, errors.ProgramLimitExceeded, errors.StatementTooComplex)
# Worth another try as it is.
TRANSIENT = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.QueryCanceled,
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
)
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 10.0


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
        self.position = position
        self._stopped = stopped
        self.retries = 0

    def fold(self, changes: Sequence[Change]) -> Batch:
        """What `write` would make of `changes`, ready to be copied; may be called while another thread writes."""
        batch = self._build(changes)
        batch.encode()
        return batch

    def write(
        self, changes: Sequence[Change], received_at: float, decode_ms: float = 0.0, folded: Batch | None = None
    ) -> list[Report]:
        """Writes `changes` and commits them, in one transaction where PostgreSQL takes them all.

        `folded`: what `fold` made of them.

        Waits and tries again as long as the database is away or busy, until told to stop (`Stopped`). A change that
        PostgreSQL refuses is found by halving and becomes a dead letter. Raises `CursorMoved` when another consumer
        moved the cursor.
        """
        try:
            return [self._write_once(changes, received_at, decode_ms, folded)]
        except REFUSED as refusal:
            if len(changes) == 1:
                return [self._write_without_offenders(changes[0], refusal, received_at, decode_ms)]
        half = len(changes) // 2
        log.warning("PostgreSQL refuses a row among %s changes; looking for it", f"{len(changes):,}")
        first = self.write(changes[:half], received_at, decode_ms * half / len(changes))
        return first + self.write(changes[half:], received_at, decode_ms * (1 - half / len(changes)))

    def _write_once(
        self, changes: Sequence[Change], received_at: float, decode_ms: float, folded: Batch | None = None
    ) -> Report:
        """One transaction, tried again while the error is a passing one. Raises what is in `REFUSED`."""
        pause = FIRST_PAUSE
        while True:
            try:
                return self._apply(changes, folded or self._build(changes), received_at, decode_ms)
            except REFUSED:
                raise
            except (*TRANSIENT, OperatorError) as error:
                self.retries += 1
                folded = None  # its report has been written on
                sentence = str(error).strip().partition("\n")[0]
                log.warning("Batch not written, trying again in %.1f s: %s", pause, sentence)
                self._wait(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LONGEST_PAUSE)

    def _build(self, changes: Sequence[Change]) -> Batch:
        return build(
            changes,
            self._source,
            shard=self.position.shard if self.position else "0/1",
            dead_letter_bytes=self._settings.dead_letter_bytes,
        )

    def _apply(self, changes: Sequence[Change], batch: Batch, received_at: float, decode_ms: float) -> Report:
        position = self.position
        batch.report.received_at = received_at
        batch.report.decode_ms = decode_ms
        move = None
        if position is not None and batch.report.last_seq is not None:
            move = CursorMove(position.relay, position.shard, position.seq, _reached(changes, position.seq))
        with self._database.connect("writer") as connection:
            prepare(connection)
            report = apply(connection, batch, move=move, dead_letters_per_minute=self._settings.dead_letters_per_minute)
        if position is not None and move is not None:
            position.seq = move.to_seq
        return report

    def _write_without_offenders(
        self, change: Change, refusal: Exception, received_at: float, decode_ms: float
    ) -> Report:
        """Writes a refused change without the records that PostgreSQL refuses; those become dead letters."""
        kept, letters = [], []
        for write in change.writes:
            if (reason := self._refusal(replace(change, writes=[write], deletes=[], repo=None))) is None:
                kept.append(write)
            else:
                path = f"{write.collection}/{write.rkey}"
                letters.append(
                    DeadLetter(
                        "postgres",
                        reason,
                        write.seq,
                        write.did,
                        path,
                        write.json.encode(),
                        "json",
                        write.rev,
                        write.cid,
                        write.action,
                        write.indexed_at,
                    )
                )
        rest = replace(change, writes=kept, dead_letters=[*change.dead_letters, *letters])
        if letters:
            try:
                return self._write_once([rest], received_at, decode_ms)
            except REFUSED as error:
                refusal = error
        did = change.repo.did if change.repo else None
        letter = DeadLetter("postgres", _words(refusal), change.seq, did, None, repr(change).encode(), "other")
        nothing = Change(change.size, change.seq, change.time, change.is_event, dead_letters=[letter])
        return self._write_once([nothing], received_at, decode_ms)

    def _refusal(self, change: Change) -> str | None:
        """Why PostgreSQL refuses a change, None when it takes it. Nothing is written."""
        batch = build([change], self._source, dead_letter_bytes=self._settings.dead_letter_bytes)
        try:
            with self._database.connect("writer") as connection:
                prepare(connection)
                apply(connection, batch, dry_run=True)
        except REFUSED as error:
            return _words(error)
        return None

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

    Events that a relay sends twice don't move it back; a relay that numbers anew does.
    """
    reached = seq or 0
    for change in changes:
        if change.restarts_at is not None:
            reached = change.restarts_at - 1
        if change.seq is not None and change.seq > reached:
            reached = change.seq
    return reached


def _words(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].replace("\0", "")[:500]
