"""Removals: everything by an account that is gone, or that wants nothing of it kept, beside the live stream.

Records are deleted in small batches through the one write path, so that other accounts' counters, notifications and
duplicates follow; `sql/account/remove.sql` removes the rest. `pipeline.removal` says which accounts, and how far each
has come: a job that is killed is taken up again by the next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from appview_pipeline.errors import OperatorError, Stopped
from appview_pipeline.indexing.changes import Change, RecordDelete
from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.ingest.pace import Pace
from appview_pipeline.ingest.rerun import retry_while_busy
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.syntax import format_milliseconds
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.errors import DatabaseError, Transient
from appview_pipeline.store.labels import remove_labels
from appview_pipeline.store.removal import (
    LEFT_OVER,
    REMOVAL,
    REMOVAL_REV,
    Removal,
    finish_removal,
    hold_removal,
    next_removal,
    note_failure,
    records_to_remove,
    remove_left_over,
    remove_states,
    start_removal,
    states_before,
)
from appview_pipeline.store.session_lock import session_lock

log = logging.getLogger(__name__)

LEFT_OVER_CHUNK = 1_000
"""Rows without a record that one transaction removes."""
MAX_IN_VAIN = 3
"""How often the same records are deleted in vain."""
SHARE = 0.5
"""How much of its time the job works: for the rest the live writer has the locks to itself."""


@dataclass
class RemovalSummary:
    """What a job did. `accounts`: removed whole; `taken_back`: active again, or allowed again, meanwhile; `failed`: by
    DID, why. `records`: deleted; `rows`: removed beside them. `longest_lock`: seconds that one batch held the
    cross-repository lock at most."""

    accounts: int = 0
    taken_back: int = 0
    records: int = 0
    rows: int = 0
    batches: int = 0
    longest_lock: float = 0.0
    seconds: float = 0.0
    failed: dict[str, str] | None = None

    def fail(self, did: str, why: str) -> None:
        """Notes a removal that does not go on."""
        self.failed = {**(self.failed or {}), did: why}


Progress = Callable[[RemovalSummary], object]
"""Called after every batch of records, and after every account."""


class _TakenBack(Exception):
    """The removal is not wanted any more."""


class _NotEmpty(Exception):
    """There are records of the account again, or the removal was taken back."""


def remove_accounts(
    settings: Settings,
    database: Database,
    *,
    chunk: int | None = None,
    progress: Progress = lambda so_far: None,
    stopped: Callable[[], bool] = lambda: False,
) -> RemovalSummary:
    """Does all removals of `pipeline.removal` that are open, the oldest first.

    A removal that fails is noted there with the reason, and the next one is done; the next job tries it again. `chunk`:
    records deleted in one transaction; None: as many as hold its locks for about `pace.LOCK_SECONDS`. Raises
    `session_lock.LockTaken` where another job is at it, and `Stopped`.
    """
    started = time.monotonic()
    summary = RemovalSummary()
    tried: list[str] = []
    with session_lock(database, "appview-pipeline: removal", taken="another job removes accounts", stopped=stopped):
        while True:
            with database.connect("reader") as connection:
                removal = next_removal(connection, tried)
            if removal is None:
                break
            tried.append(removal.did)
            try:
                _Run(
                    settings=settings,
                    database=database,
                    removal=removal,
                    summary=summary,
                    chunk=chunk,
                    progress=progress,
                    stopped=stopped,
                ).run()
                summary.accounts += 1
            except _TakenBack:
                summary.taken_back += 1
                log.info("The removal of %s was taken back", removal.did)
            except (DatabaseError, OperatorError) as error:
                why = str(error)
                log.error("The removal of %s does not go on: %s", removal.did, why)
                summary.fail(removal.did, why)
                if not isinstance(error, Transient):
                    with database.connect("writer") as connection:
                        note_failure(connection, removal, why)
            progress(summary)
    summary.seconds = time.monotonic() - started
    return summary


@dataclass
class _Run:
    """The removal of one account."""

    settings: Settings
    database: Database
    removal: Removal
    summary: RemovalSummary
    chunk: int | None
    progress: Progress
    stopped: Callable[[], bool]

    def run(self) -> None:
        """Raises `_TakenBack`, `Stopped`, `OperatorError`, `DatabaseError`."""
        while self._unless_busy(start_removal):
            self._remove_records()
            try:
                self._remove_left_over()
                if self._unless_busy(finish_removal):
                    return
            except _NotEmpty:
                pass  # taken back, or taken back and asked for again: the next statement says which
        raise _TakenBack

    def _unless_busy(self, do: Callable[[Connection, Removal], bool]) -> bool:
        """What `do` says, in a transaction of its own; tried again where others hold the same rows."""
        with self.database.connect("writer") as connection:
            return retry_while_busy(connection, partial(do, connection, self.removal))

    def _remove_records(self) -> None:
        writer = Writer(self.database, self.settings, REMOVAL, stopped=self.stopped)
        pace = Pace(self.chunk)
        before: list[str] = []
        in_vain = 0
        while True:
            self._check_stop()
            with self.database.connect("reader") as connection:
                uris = records_to_remove(connection, self.removal, pace.next)
            if not uris:
                return
            # Once may be a removal that was taken back and asked for again.
            in_vain = in_vain + 1 if uris == before else 0
            if in_vain == MAX_IN_VAIN:
                raise OperatorError(f"{uris[0]} and {len(uris) - 1:,} other records can't be deleted: see the log.")
            before = uris
            began = time.monotonic()
            reports = writer.write(deletions(self.removal.did, uris), time.time())
            took = time.monotonic() - began
            locked = max(report.locked_seconds for report in reports)
            pace.took(len(uris), locked)
            self.summary.records += sum(report.written.get("record", 0) for report in reports)
            self.summary.batches += len(reports)
            self.summary.longest_lock = max(self.summary.longest_lock, locked)
            self.progress(self.summary)
            time.sleep(took * (1 / SHARE - 1))

    def _remove_left_over(self) -> None:
        self._remove_states()
        while removed := self._in_transaction(partial(remove_labels, src=self.removal.did, limit=LEFT_OVER_CHUNK)):
            self.summary.rows += removed
        for statement in LEFT_OVER:
            while removed := self._in_transaction(
                partial(remove_left_over, removal=self.removal, statement=statement, limit=LEFT_OVER_CHUNK)
            ):
                self.summary.rows += removed
                if removed < LEFT_OVER_CHUNK:
                    break

    def _remove_states(self) -> None:
        """From the newest on: a post's replies are looked at before it, and those of one chunk level by level."""
        before: str | None = None
        while True:
            with self.database.connect("reader") as connection:
                first = states_before(connection, self.removal, before, LEFT_OVER_CHUNK)
            if first is None:
                return
            while removed := self._in_transaction(
                partial(remove_states, removal=self.removal, first=first, before=before, effects=EFFECTS)
            ):
                self.summary.rows += removed
            before = first

    def _in_transaction(self, do: Callable[..., int]) -> int:
        """Raises `_NotEmpty`: what an account brings once it is active again must not be taken for what was left."""
        self._check_stop()

        def held(connection: Connection) -> int:
            if not hold_removal(connection, self.removal):
                raise _NotEmpty
            return do(connection)

        with self.database.connect("maintenance") as connection:
            return retry_while_busy(connection, partial(held, connection))

    def _check_stop(self) -> None:
        if self.stopped():
            raise Stopped


def deletions(did: str, uris: Sequence[str]) -> list[Change]:
    """The changes that delete records of an account, however new they are."""
    now = format_milliseconds(time.time_ns() // 1_000_000)
    return [
        Change(size=0, deletes=[RecordDelete(uri, did, uri.split("/")[3], REMOVAL_REV, now, seq=None)]) for uri in uris
    ]
