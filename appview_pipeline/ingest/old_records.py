"""Which records are too old to be indexed, where a retention is set (`APPVIEW_RETENTION_DAYS`, docs/sweeps.md).

A record that retention has deleted must not come back: not by a backfill, an audit, or a commit that is delivered
again. So what would create a record that is too old is left out of what is written.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from appview_pipeline import backoff
from appview_pipeline.indexing.changes import Change
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.protocol.syntax import format_milliseconds, is_tid, tid_from_micros
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.retention import followed_accounts

EXPIRING = EFFECTS.expiring


@dataclass(frozen=True)
class OldRecords:
    """What is too old: records of `EXPIRING` collections from before `before` (ISO 8601, UTC, milliseconds; as a TID
    `oldest_key`), but of accounts that are `protected`."""

    before: str
    oldest_key: str
    protected: frozenset[str]

    def has_old_key(self, did: str, collection: str, rkey: str) -> bool:
        """Whether a record is too old by its key."""
        return collection in EXPIRING and did not in self.protected and is_tid(rkey) and rkey < self.oldest_key

    def is_old(self, write: RecordWrite) -> bool:
        """Whether a record is too old, by its key or by the time that it would be sorted by."""
        if write.collection not in EXPIRING or write.did in self.protected:
            return False
        if is_tid(write.rkey) and write.rkey < self.oldest_key:
            return True
        return min(created_at(write.record), write.indexed_at) < self.before

    def without_old(self, changes: Sequence[Change]) -> Sequence[Change]:
        """`changes` without what would create old records. Updates stay: what is indexed must not get stale."""
        return [
            replace(change, writes=[it for it in change.writes if it.action != "create" or not self.is_old(it)])
            if any(it.action == "create" and self.is_old(it) for it in change.writes)
            else change
            for change in changes
        ]


def old_records(settings: Settings, database: Database) -> OldRecords | None:
    """What is too old now; None where no retention is set."""
    if not settings.retention_days:
        return None
    micros = time.time_ns() // 1_000 - settings.retention_days * 86_400_000_000
    with database.connect("reader") as connection:
        followed = followed_accounts(connection, settings.retention_protected)
    return OldRecords(
        before=format_milliseconds(max(micros, 0) // 1_000),
        oldest_key=tid_from_micros(max(micros, 0)),
        protected=followed | frozenset(settings.retention_protected),
    )


class KnownOldRecords:
    """`old_records`, read again every few minutes."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._read_at = 0.0
        self._known: OldRecords | None = None

    def get(self) -> OldRecords | None:
        """What is too old; None where no retention is set."""
        if not self._settings.retention_days:
            return None
        if self._known is None or time.monotonic() - self._read_at > backoff.RETENTION_REFRESH_SECONDS:
            self._known = old_records(self._settings, self._database)
            self._read_at = time.monotonic()
        return self._known
