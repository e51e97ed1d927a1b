"""What a batch is made of: rows to be staged, a report of what became of them, a move of the stream's cursor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

from appview_pipeline.store.effects import Effects
from appview_pipeline.store.staging import Value

SHARED_STAGES: dict[str, tuple[str, ...]] = {
    "stage_repo": (
        "did",
        "oldest_rev",
        "first_rev",
        "first_since",
        "first_prev_data",
        "first_data",
        "first_is_sync",
        "chain_from",
        "chain_since",
        "chain_prev_data",
        "rev",
        "commit_cid",
        "data_cid",
        "seq",
        "indexed_at",
    ),
    "stage_export": (
        "did",
        "rev",
        "commit_cid",
        "data_cid",
        "is_end",
        "is_whole",
        "asked_at",
        "is_fetched",
    ),
    "stage_write": ("uri", "cid", "did", "collection", "action", "rev", "json", "indexed_at", "quiet"),
    "stage_delete": ("uri", "did", "collection", "rev", "seq", "indexed_at", "quiet"),
    "stage_superseded": (
        *("uri", "did", "collection", "action", "rev", "cid", "json", "seq", "created_at", "indexed_at", "quiet"),
    ),
    "stage_account": ("did", "active", "status", "at", "seq", "indexed_at"),
    "stage_identity": ("did", "at", "seq"),
    "stage_ignored": ("did", "rev", "collection", "creates", "updates", "deletes"),
    "stage_dead_letter": (
        "fingerprint",
        "source",
        "seq",
        "did",
        "path",
        "kind",
        "reason",
        "bytes",
        "byte_length",
        "form",
        "rev",
        "cid",
        "action",
        "event_time",
        "quiet",
    ),
    "stage_gap": ("kind", "did", "relay", "shard", "from_text", "to_text", "links", "resolved"),
    "stage_unchecked": ("did", "rev", "seq", "block"),
}
"""Staging tables of sql/apply/staging.sql that Python fills, and their columns in the order of a row's values."""

LINK_COLUMNS = ("did", "rev", "since", "prev_data", "data")
"""Columns of `stage_link`, which few batches need."""


class CursorMoved(Exception):
    """The cursor was not where the batch began: somebody else consumes this stream. Nothing was written."""


class ExclusionChanged(Exception):
    """The batch has content of accounts that are excluded (`excluded`), or lacks that of accounts that are not any more
    (`allowed`). Nothing was written: the batch has to be built again."""

    def __init__(self, excluded: Set[str], allowed: Set[str]) -> None:
        super().__init__(f"{len(excluded)} accounts of the batch are excluded, {len(allowed)} are not any more")
        self.excluded = frozenset(excluded)
        self.allowed = frozenset(allowed)


@dataclass(frozen=True)
class CursorMove:
    """The stream's progress that commits together with a batch: `seq` before it (None: no cursor yet) and after it."""

    relay: str
    shard: str
    from_seq: int | None
    to_seq: int


@dataclass(frozen=True)
class DeadLetterLimits:
    """Dead letters of a kind stored in a minute, and bytes of them in a day; what exceeds either is only counted."""

    per_minute: int
    bytes_per_day: int


DEAD_LETTER_LIMITS = DeadLetterLimits(1_000, 50_000_000)


@dataclass(frozen=True)
class StoredRecord:
    """A record as `bsky.record` has it, to be staged again."""

    uri: str
    cid: str
    did: str
    rev: str
    json: str
    indexed_at: str


@dataclass
class Report:
    """What a batch's row in `pipeline.batch` says; `apply` adds what it finds out."""

    source: str
    shard: str = "0/1"
    first_seq: int | None = None
    last_seq: int | None = None
    frames: int = 0
    events: int = 0
    ops: dict[str, dict[str, int]] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    rejected_by_kind: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    accounts: int = 0
    unresolved: int = 0
    stale: int = 0
    skipped: int = 0
    doubtful: int = 0
    withheld: int = 0
    bytes: int = 0
    relay_time: str | None = None
    received_at: float | None = None
    decode_ms: float = 0.0
    apply_ms: float = 0.0
    locked_at: float | None = None
    locked_seconds: float = 0.0
    """Since when it held the cross-repository lock (`time.monotonic`), and for how long; not in the row."""

    @property
    def rejected(self) -> int:
        return sum(self.rejected_by_kind.values())

    def add_written(self, table: str, rows: int) -> None:
        """Counts rows of a table of schema bsky that the batch inserted, updated or deleted."""
        if rows > 0:
            self.written[table] = self.written.get(table, 0) + rows


class BatchToApply(Protocol):
    """What `apply` needs to know of a batch (indexing/batch.py builds it)."""

    @property
    def rows(self) -> Mapping[str, Sequence[Sequence[Value]]]:
        """Rows by staging table; tables without rows may be absent."""
        ...

    @property
    def texts(self) -> Mapping[str, bytes]:
        """Rows that are encoded for COPY already."""
        ...

    @property
    def effects(self) -> Effects:
        """What the collections declare."""
        ...

    @property
    def seen(self) -> Set[str]:
        """The collections that the batch has events of."""
        ...

    @property
    def report(self) -> Report: ...

    @property
    def withheld(self) -> Set[str]:
        """Accounts whose content was taken out of the batch because they are excluded."""
        ...

    @property
    def others(self) -> Set[str]:
        """Accounts that the batch has content of and no commit or export: their repositories need not be locked."""
        ...

    def content_of(self, dids: Set[str]) -> Set[str]:
        """Those of these accounts that the batch has content of."""
        ...

    def links_of(self, dids: Set[str]) -> Sequence[Sequence[Value]]:
        """The commits of these repositories, for `stage_link`."""
        ...

    def stage_again(self, collection: str, records: Sequence[StoredRecord]) -> Mapping[str, Sequence[Sequence[Value]]]:
        """The staging rows of records that are stored already."""
        ...

    def restage(self, collection: str, records: Sequence[StoredRecord]) -> Mapping[str, Sequence[Sequence[Value]]]:
        """The same, for records that the transaction stages again as writes: `rows` has them from now on."""
        ...
