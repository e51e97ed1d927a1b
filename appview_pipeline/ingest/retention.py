"""Retention: posts, likes and reposts that are older than `APPVIEW_RETENTION_DAYS` are deleted, beside the live stream.

As in a removal (removal.py), records are deleted in small batches through the one write path, so that counters,
duplicates, feed items and notifications follow, and what nobody needs any more of them goes in the same transaction. A
run that is killed loses nothing: `pipeline.sweep` has the account that it has come to.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from appview_pipeline.errors import OperatorError, Stopped
from appview_pipeline.ingest.old_records import OldRecords, old_records
from appview_pipeline.ingest.pace import Pace
from appview_pipeline.ingest.removal import MAX_IN_VAIN, SHARE, deletions
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store import retention as store
from appview_pipeline.store.database import Database
from appview_pipeline.store.retention import RETENTION, OldRows, count_old
from appview_pipeline.store.session_lock import session_lock
from appview_pipeline.store.sweeps import begin_sweep, note_steps, read_sweeps

log = logging.getLogger(__name__)

ACCOUNTS_AT_ONCE = 1_000
"""Accounts that one statement looks at."""
OFF = "APPVIEW_RETENTION_DAYS is 0: records are kept for ever. Set it to the days that they are to be kept."


@dataclass
class RetentionSummary:
    """What a run did. `before`: records older than this time went. `accounts`: accounts that had some; `records`:
    deleted, by collection; `longest_lock`: seconds that one batch held the cross-repository lock at most. `ended`: why
    the run ended."""

    before: str = ""
    accounts: int = 0
    records: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    longest_lock: float = 0.0
    seconds: float = 0.0
    ended: str = ""

    @property
    def total(self) -> int:
        """Records deleted."""
        return sum(self.records.values())


Progress = Callable[[RetentionSummary], object]


def count_retention(settings: Settings, database: Database) -> tuple[str, list[OldRows]]:
    """Counts what retention would delete and what it would keep, and why: (older than, the counts). Deletes nothing.

    Raises `OperatorError` where no retention is set, and where protected accounts are not indexed whole.
    """
    old = _old(settings, database)
    with database.connect("maintenance") as connection:
        return old.before, count_old(connection, protected=settings.retention_protected, before=old.before)


def apply_retention(
    settings: Settings,
    database: Database,
    *,
    seconds: float = float("inf"),
    chunk: int | None = None,
    progress: Progress = lambda so_far: None,
    stopped: Callable[[], bool] = lambda: False,
) -> RetentionSummary:
    """Deletes the records that are too old, account by account, from where the last run ended.

    `seconds`: limit of its time. `chunk`: records deleted in one transaction; None: as many as hold its locks for about
    `pace.LOCK_SECONDS`. Raises `OperatorError` where no retention is set, and where protected accounts are not indexed
    whole, `session_lock.LockTaken` where another run is at work, and `Stopped`.
    """
    old = _old(settings, database)
    with session_lock(database, "appview-pipeline: retention", taken="another run deletes old records", patience=0.0):
        return _Run(settings, database, old, seconds, Pace(chunk), progress, stopped).run()


def _old(settings: Settings, database: Database) -> OldRecords:
    old = old_records(settings, database)
    if old is None:
        raise OperatorError(OFF)
    with database.connect("reader") as connection:
        unknown = store.accounts_not_known(connection, settings.retention_protected)
    if unknown:
        raise OperatorError(
            f"Nothing is deleted: whom {', '.join(unknown[:10])} follow is not known, and so not who is protected. "
            f"Fetch what is missing (`appview-pipeline backfill {' '.join(unknown[:10])}`), or take them out of "
            "APPVIEW_RETENTION_PROTECTED."
        )
    return old


class _Run:
    """One walk through the accounts, or the rest of one."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        old: OldRecords,
        seconds: float,
        pace: Pace,
        progress: Progress,
        stopped: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._database = database
        self._old = old
        self._began = time.monotonic()
        self._seconds = seconds
        self._pace = pace
        self._progress = progress
        self._stopped = stopped
        self._writer = Writer(database, settings, RETENTION, stopped=stopped)
        self.summary = RetentionSummary(before=old.before)

    def run(self) -> RetentionSummary:
        with self._database.connect("writer") as connection:
            state = read_sweeps(connection).get(RETENTION)
            begin_sweep(connection, RETENTION)
        after = (state.position if state is not None else None) or ""
        while True:
            # Repositories with very many records take their time, which must not end every run at the same place.
            with self._database.connect("maintenance") as connection:
                last, dids = store.accounts_with_old_records(
                    connection,
                    after,
                    ACCOUNTS_AT_ONCE,
                    protected=self._settings.retention_protected,
                    before=self._old.before,
                )
            before = self.summary.total
            ended_at = after
            for did in dids:
                if not self._delete_of(did):
                    self._note(ended_at, before)
                    self.summary.ended = "its time is over"
                    return self._done()
                self.summary.accounts += 1
                ended_at = did
            self._note(last, before)
            if last is None:
                self.summary.ended = "nothing more is left"
                return self._done()
            after = last

    def _done(self) -> RetentionSummary:
        self.summary.seconds = time.monotonic() - self._began
        self._progress(self.summary)
        return self.summary

    def _note(self, position: str | None, before: int) -> None:
        with self._database.connect("writer") as connection:
            note_steps(connection, RETENTION, self.summary.total - before, position)

    def _delete_of(self, did: str) -> bool:
        """Deletes the old records of an account. Returns False where the time is over before."""
        last_uris: list[str] = []
        in_vain = 0
        while True:
            if self._stopped():
                raise Stopped
            if time.monotonic() - self._began > self._seconds:
                return False
            with self._database.connect("maintenance") as connection:
                uris = store.old_records(connection, did, self._pace.next, self._old.before)
            if not uris:
                return True
            in_vain = in_vain + 1 if uris == last_uris else 0
            if in_vain == MAX_IN_VAIN:
                raise OperatorError(f"{uris[0]} and {len(uris) - 1:,} other records can't be deleted: see the log.")
            last_uris = uris
            began = time.monotonic()
            reports = self._writer.write(deletions(did, uris), time.time())
            took = time.monotonic() - began
            locked = max(report.locked_seconds for report in reports)
            self._pace.took(len(uris), locked)
            self.summary.records.update(uri.split("/")[3] for uri in uris)
            self.summary.batches += len(reports)
            self.summary.longest_lock = max(self.summary.longest_lock, locked)
            self.summary.seconds = time.monotonic() - self._began
            self._progress(self.summary)
            time.sleep(took * (1 / SHARE - 1))
