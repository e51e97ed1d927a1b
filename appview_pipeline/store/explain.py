"""What is stored about one record, or one account, for `appview-pipeline explain` (sql/report/explain.sql).

Reads only. What follows from a record by the rules of the write path is in `store/trial.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.derived_rows import DerivedRows, derived_rows, for_table
from appview_pipeline.store.effects import Effects
from appview_pipeline.store.sql import named, sections

MAX_SHOWN = 50
"""Rows of one kind that are read: a list may have a million members, but nobody reads more of them."""
MAX_COUNTED = 100_000
"""Records of an account that are counted."""


class StoredState(NamedTuple):
    """The record in `bsky.record`."""

    cid: str
    rev: str | None
    indexed_at: str
    applied_at: datetime
    is_quiet: bool
    takedown_ref: str | None
    json: str


class PastState(NamedTuple):
    """A past state of a record, or a deletion of it."""

    rev: str
    is_deletion: bool


class Tombstone(NamedTuple):
    """The deletion of a record. `seq`: None where an export showed it."""

    rev: str
    deleted_at: datetime
    seq: int | None


class Notified(NamedTuple):
    """A row of `bsky.notification`."""

    did: str
    reason: str
    subject: str | None
    sort_at: str


class Muted(NamedTuple):
    """A notification that a muted thread held back."""

    did: str
    reason: str


class Pending(NamedTuple):
    """A row of `pipeline.pending`: `other` is the record that is missing, or the one that waits."""

    kind: str
    other: str
    since: datetime
    attempts: int
    error: str | None
    not_before: datetime | None
    expires_at: datetime


class Letter(NamedTuple):
    """A dead letter without its bytes. `path`: None for a whole commit."""

    id: int
    path: str | None
    kind: str
    reason: str
    rev: str | None
    first_seen: datetime
    retried_at: datetime | None
    resolved_at: datetime | None


class Gap(NamedTuple):
    """An open gap of a repository."""

    kind: str
    from_text: str | None
    to_text: str | None
    detected_at: datetime


class Label(NamedTuple):
    """A row of `bsky.label`."""

    src: str
    val: str
    cid: str
    cts: str
    exp: str | None
    is_negated: bool
    is_in_effect: bool


class AppliedLabel(NamedTuple):
    """A label in effect that readers apply to a record or account. `kind`: account, record or self."""

    uri: str
    kind: str
    src: str
    val: str
    cid: str
    cts: str
    exp: str | None


class Repository(NamedTuple):
    """A repository in `pipeline.repo` (`is_known`: it has a row there), and what else decides what becomes of it."""

    is_known: bool
    rev: str | None
    chain_from: str | None
    export_rev: str | None
    sync_state: str | None
    sync_reason: str | None
    sync_at: datetime | None
    is_partial: bool
    is_excluded: bool
    is_forbidden: bool
    removal: str | None
    removal_requested_at: datetime | None
    removal_finished_at: datetime | None
    unchecked_rev: str | None
    unchecked_since: datetime | None
    queue_reason: str | None
    queued_at: datetime | None
    not_before: datetime | None
    attempts: int | None
    queue_error: str | None


class NotIndexed(NamedTuple):
    """Operations met of a collection that is not indexed."""

    creates: int
    updates: int
    deletes: int
    last_seen: datetime


class Actor(NamedTuple):
    """The account as readers see it."""

    handle: str | None
    indexed_at: str
    upstream_status: str | None
    takedown_ref: str | None


@dataclass(frozen=True, kw_only=True)
class RecordRows:
    """All rows about one record. `derived`: rows by table of schema bsky, each as a JSON object."""

    record: StoredState | None
    versions: list[PastState]
    tombstone: Tombstone | None
    record_takedown: str | None
    derived: dict[str, list[dict[str, Any]]]
    duplicate_of: str | None
    duplicates: list[str]
    notified: list[Notified]
    muted: list[Muted]
    waits_for: list[Pending]
    waited_for: list[Pending]
    letters: list[Letter]
    labels: list[Label]
    labels_applied: list[AppliedLabel]


@dataclass(frozen=True, kw_only=True)
class AccountRows:
    """All rows about one account that are few. `records` by collection, counted up to `MAX_COUNTED` in all."""

    actor: Actor | None
    repository: Repository
    gaps: list[Gap]
    records: dict[str, int] = field(default_factory=dict)
    letters: list[tuple[str, int, str]] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    labels_applied: list[AppliedLabel] = field(default_factory=list)


@cache
def _derived(rows: DerivedRows) -> str:
    return named(for_table(sections("report/explain.sql")["derived"], rows), f"explain.derived {rows.table}")


def _rows(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sections("report/explain.sql")[name], {"limit": MAX_SHOWN, **parameters})
        return cursor.fetchall()


def _row(connection: Connection, name: str, **parameters: Any) -> tuple[Any, ...] | None:
    return next(iter(_rows(connection, name, **parameters)), None)


def derived_tables(effects: Effects, collection: str) -> tuple[DerivedRows, ...]:
    """The tables that rows are derived for from records of a collection, but those that `RecordRows` has apart."""
    apart = ("notification", "duplicate_record")
    return tuple(it for it in derived_rows(effects) if collection in it.collections and it.table not in apart)


def read_record(connection: Connection, effects: Effects, uri: str) -> RecordRows:
    """Reads all rows about the record `at://<DID>/<collection>/<record key>`."""
    did, collection, rkey = uri.removeprefix("at://").split("/")
    stored = _row(connection, "record", uri=uri)
    tombstone = _row(connection, "tombstone", uri=uri)
    takedown = _row(connection, "record_takedown", uri=uri)
    duplicate_of = _row(connection, "duplicate_of", uri=uri)
    derived = {}
    for table in derived_tables(effects, collection):
        with connection.cursor() as cursor:
            cursor.execute(_derived(table), {"uri": uri, "did": did, "limit": MAX_SHOWN})
            if found := [row for (row,) in cursor.fetchall()]:
                derived[table.table] = found
    return RecordRows(
        record=None if stored is None else StoredState(*stored),
        versions=[PastState(*row) for row in _rows(connection, "versions", uri=uri)],
        tombstone=None if tombstone is None else Tombstone(*tombstone),
        record_takedown=None if takedown is None else takedown[0],
        derived=derived,
        duplicate_of=None if duplicate_of is None else duplicate_of[0],
        duplicates=[found for (found,) in _rows(connection, "duplicates", uri=uri)],
        notified=[Notified(*row) for row in _rows(connection, "notified", uri=uri)],
        muted=[Muted(*row) for row in _rows(connection, "muted", uri=uri)],
        waits_for=[Pending(*row) for row in _rows(connection, "waits_for", uri=uri)],
        waited_for=[Pending(kind, other, *others) for other, kind, *others in _rows(connection, "waited_for", uri=uri)],
        letters=[Letter(*row) for row in _rows(connection, "dead_letters", did=did, path=f"{collection}/{rkey}")],
        labels=[Label(*row) for row in _rows(connection, "labels", subject=uri)],
        labels_applied=[AppliedLabel(*row) for row in _rows(connection, "labels_in_effect", subject=uri)],
    )


def read_repository(connection: Connection, did: str) -> AccountRows:
    """Reads what decides whether the records of an account are indexed, and nothing else of it."""
    actor = _row(connection, "actor", did=did)
    (repository,) = _rows(connection, "repository", did=did)
    return AccountRows(
        actor=None if actor is None else Actor(*actor),
        repository=Repository(*repository),
        gaps=[Gap(*row) for row in _rows(connection, "gaps", did=did)],
    )


def read_account(connection: Connection, did: str) -> AccountRows:
    """Reads the same with numbers of the account's records and dead letters, and its labels."""
    found = read_repository(connection, did)
    return AccountRows(
        actor=found.actor,
        repository=found.repository,
        gaps=found.gaps,
        records=dict(_rows(connection, "record_counts", did=did, limit=MAX_COUNTED)),
        letters=[(kind, count, reason) for kind, count, reason in _rows(connection, "dead_letters_by_kind", did=did)],
        labels=[Label(*row) for row in _rows(connection, "labels", subject=did)],
        labels_applied=[AppliedLabel(*row) for row in _rows(connection, "labels_in_effect", subject=did)],
    )


def not_indexed(connection: Connection, collection: str) -> NotIndexed | None:
    """What was met of a collection that is not indexed; None: nothing."""
    row = _row(connection, "not_indexed", collection=collection)
    return None if row is None else NotIndexed(*row)


def removed_accounts(connection: Connection, dids: Sequence[str]) -> set[str]:
    """Those of the accounts that were removed, or are being removed."""
    return {did for (did,) in _rows(connection, "removed", dids=list(dids))} if dids else set()


def blocks_between(connection: Connection, did: str, others: Sequence[str]) -> list[tuple[str, str]]:
    """Blocks between an account and others: who blocks, and whom."""
    return [(by, whom) for by, whom in _rows(connection, "blocks", did=did, dids=list(others))] if others else []


def missing_records(connection: Connection, uris: Sequence[str]) -> set[str]:
    """Those of the records that are not indexed."""
    return {uri for (uri,) in _rows(connection, "missing_records", uris=list(uris))} if uris else set()


def counters(connection: Connection, table: str, keys: Sequence[str]) -> dict[str, dict[str, int]]:
    """The counters of posts (`post_agg`) or accounts (`profile_agg`) by column; keys without a row are left out."""
    names = {
        "post_agg": ("likeCount", "replyCount", "repostCount", "quoteCount"),
        "profile_agg": ("followersCount", "followsCount", "postsCount"),
    }[table]
    return {key: dict(zip(names, values, strict=True)) for key, *values in _rows(connection, table, keys=list(keys))}


def parent_as_of(connection: Connection, parent: str, rev: str) -> tuple[str, str | None, bool | None] | None:
    """A post as of a rev: its own rev, the root it names, whether its own root is invalid; None: it did not exist."""
    row = _row(connection, "parent", parent=parent, rev=rev)
    return None if row is None else (row[0], row[1], row[2])


def gate_as_of(connection: Connection, gate: str, rev: str) -> str | None:
    """The rev of the state that a gate had as of a rev; None: there was no such gate."""
    row = _row(connection, "post_gate", gate=gate, rev=rev)
    return None if row is None else str(row[0])
