"""Identities as they are stored, and the queue of accounts whose identity is to be resolved (`pipeline.identity`).

An account is in one queue or in none. Taking it moves the time at which it may be taken again into the future, so a
process that dies gives it back by itself. What resolution found is saved in one transaction for many accounts.

All functions are part of the caller's transaction, which is the caller's to commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline import backoff
from appview_pipeline.store.errors import RefusedData, translated
from appview_pipeline.store.placeholders import fill_placeholders
from appview_pipeline.store.sql import named, sections
from appview_pipeline.store.staging import Value, copy_rows

QUEUES = ("event", "new", "retry", "refresh")
"""The queues: an #identity or #account event or a person; an account met for the first time; a failed attempt; a
refresh that is due."""

STATES = ("found", "not found", "tombstoned", "invalid")
"""What an answer says of a DID; `pipeline.identity` has the meaning of each."""


@dataclass(frozen=True)
class StoredIdentity:
    """A row of `pipeline.identity`; its columns have comments. `doc` is the DID document as JSON text."""

    did: str
    handle: str | None = None
    pds: str | None = None
    signing_key: str | None = None
    doc: str | None = None
    resolved_at: datetime | None = None
    handle_checked_at: datetime | None = None
    next_check_at: datetime | None = None
    attempts: int = 0
    error: str | None = None
    state: str | None = None
    source: str | None = None
    claimed_handle: str | None = None
    handle_source: str | None = None
    handle_error: str | None = None
    labeler: str | None = None
    labeler_key: str | None = None
    pds_changed_at: datetime | None = None
    queue: str | None = None
    wanted_at: datetime | None = None
    asked_at: datetime | None = None
    event_at: datetime | None = None
    status_wanted: bool = False


@dataclass(frozen=True)
class Wanted:
    """An account taken from a queue: `known` is its row at that moment, `attempts` its failures since the last answer.

    `asked_at` goes back with the outcome: whoever asks again in between moves it, and then stays queued.
    """

    did: str
    queue: str
    attempts: int
    asked_at: datetime | None
    status_wanted: bool
    known: StoredIdentity


@dataclass(frozen=True)
class Settled:
    """What one resolution found. `asked_at` as in `Wanted`, `state` one of `STATES`, `doc` JSON text.

    `handle`: verified in both directions, else None; `handle_error` says why it is not. `is_handle_final` is False
    where the check got no answer: a handle that was verified not long ago stays then. `error`: why `state` is not
    "found". `next_check_seconds`: until the next refresh. `status_seconds`: its PDS did not say the hosting status
    that was asked for; the account stays queued, to be asked again in so many seconds. `status_counts` is False where
    that is no failed attempt of the account (its PDS is parked, or its breaker open).
    """

    did: str
    asked_at: datetime | None
    state: str
    source: str | None
    next_check_seconds: float
    doc: str | None = None
    pds: str | None = None
    signing_key: str | None = None
    labeler: str | None = None
    labeler_key: str | None = None
    claimed_handle: str | None = None
    handle: str | None = None
    handle_source: str | None = None
    handle_error: str | None = None
    is_handle_final: bool = True
    error: str | None = None
    status_seconds: float | None = None
    status_counts: bool = True


@dataclass(frozen=True)
class Postponed:
    """An attempt without an answer: it is tried again in `seconds`. `error`: why, in words.

    `counts`: whether it is a failed attempt of the account; False where the server that would have been asked is
    parked, or its breaker open.
    """

    did: str
    error: str
    seconds: float
    counts: bool = True


@dataclass(frozen=True)
class QueueLength:
    """Accounts in a queue, counted up to a limit, and how long the first that may be resolved now has waited
    (None: there is none)."""

    length: int
    oldest_seconds: float | None


@dataclass(frozen=True)
class QueueState:
    """All queues, by name."""

    queues: dict[str, QueueLength]

    @property
    def urgent(self) -> int:
        """Accounts that wait to be resolved, refreshes left out."""
        return sum(it.length for name, it in self.queues.items() if name != "refresh")

    @property
    def oldest_seconds(self) -> float | None:
        """How long the first of them has waited; None: none waits."""
        waits = [it.oldest_seconds for name, it in self.queues.items() if name != "refresh"]
        return max((wait for wait in waits if wait is not None), default=None)


MAX_COUNTED = 100_000
"""Accounts of a queue that are counted unless the caller wants more."""


_COLUMNS = tuple(field.name for field in fields(StoredIdentity))
_SETTLED = ("position", *(field.name for field in fields(Settled)))


@cache
def _statement(file: str, name: str) -> str:
    columns = ", ".join("doc::text" if column == "doc" else column for column in _COLUMNS)
    statement = fill_placeholders(sections(f"identity/{file}.sql")[name], {"{columns}": columns})
    return named(statement, f"{file}.{name}")


def _fetch(connection: Connection, file: str, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(_statement(file, name), parameters)
        return cursor.fetchall()


def _execute(connection: Connection, file: str, name: str, **parameters: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_statement(file, name), parameters or None)
        return cursor.rowcount


def take(
    connection: Connection, queue: str, limit: int, claim_seconds: float, *, besides: Sequence[str] = ()
) -> list[Wanted]:
    """Takes at most `limit` accounts that may be resolved now, the one that waits longest first.

    They come back by themselves after `claim_seconds`, unless they are saved or postponed before. Costs O(limit),
    however long the queue is. Excluded accounts whose hosting status is not wanted leave the queue, and are not
    returned. `besides`: those that the caller has taken already. One that was asked for again meanwhile stays in its
    queue for when the attempt has ended.
    """
    dids = [did for (did,) in _fetch(connection, "queue", "due", queue=queue, limit=limit, besides=list(besides))]
    return _taken(connection, dids, claim_seconds)


def claim(connection: Connection, dids: Sequence[str], claim_seconds: float) -> list[Wanted]:
    """Takes these accounts, whatever their queue and time, as `take` does; those in no queue are left out."""
    found = [did for (did,) in _fetch(connection, "queue", "lock", dids=list(dids))]
    return _taken(connection, found, claim_seconds)


def _taken(connection: Connection, dids: list[str], claim_seconds: float) -> list[Wanted]:
    """Takes accounts whose rows are locked, in the order of `dids`."""
    if not dids:
        return []
    rows = [StoredIdentity(*row) for row in _fetch(connection, "queue", "take", dids=dids, claim=claim_seconds)]
    order = {did: number for number, did in enumerate(dids)}
    return [
        Wanted(
            did=it.did,
            queue=str(it.queue),
            attempts=it.attempts,
            asked_at=it.asked_at,
            status_wanted=it.status_wanted,
            known=it,
        )
        for it in sorted(rows, key=lambda it: order[it.did])
    ]


def save(connection: Connection, settled: Sequence[Settled], *, usable_seconds: float) -> None:
    """Saves what resolutions found, in `pipeline.identity` and `bsky.actor`; `settled` in the order in which they
    ended.

    An account leaves its queue unless it was asked for again since it was taken; one that is in no queue any more is
    skipped. A handle belongs to the last account that it was verified for: another one that had it loses it, and is
    checked again in an hour. A handle that was verified less than `usable_seconds` ago stays while its check gets no
    answer. Of excluded accounts nothing is stored.
    """
    if not settled:
        return
    recheck = backoff.handle_recheck()
    _execute(connection, "save", "stage")
    _execute(connection, "save", "empty")
    rows = [(number, *(_plain(getattr(it, column)) for column in _SETTLED[1:])) for number, it in enumerate(settled)]
    with connection.cursor() as cursor:
        copy_rows(cursor, "settled", _SETTLED, rows)
    _drop_unreadable_documents(connection)
    _execute(connection, "save", "lock")
    _execute(connection, "save", "lock_identities")
    _execute(connection, "save", "compare", usable=usable_seconds)
    _execute(connection, "save", "drop")
    _execute(connection, "save", "dequeue_excluded")
    _execute(connection, "save", "drop_excluded")
    _execute(connection, "save", "contend", recheck=recheck)
    _execute(connection, "save", "lock_actors")
    _execute(connection, "save", "release")
    _execute(connection, "save", "lose", recheck=recheck)
    _execute(connection, "save", "actors")
    _execute(connection, "save", "profiles")
    _execute(connection, "save", "identities")


def _plain(value: object) -> Value:
    """A value for COPY; text is what UTF-8 can express."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, bool | int) or value is None else str(value)


def _drop_unreadable_documents(connection: Connection) -> None:
    """Leaves out staged documents that PostgreSQL can't hold as JSON: half a surrogate pair, U+0000, a huge number.

    What was read from them is stored all the same.
    """
    if _reason_against_documents(connection, None) is None:
        return
    for (position,) in _fetch(connection, "save", "documents"):
        if (reason := _reason_against_documents(connection, position)) is not None:
            error = f"its document can't be stored ({reason})"
            _execute(connection, "save", "drop_document", position=position, error=error)


def _reason_against_documents(connection: Connection, position: int | None) -> str | None:
    """Why PostgreSQL can't hold the staged document at `position` (None: one of all); None where it can."""
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT documents")
        try:
            with translated():
                cursor.execute(_statement("save", "read_documents"), {"position": position})
        except RefusedData as error:
            cursor.execute("ROLLBACK TO SAVEPOINT documents")
            return str(error)
        cursor.execute("RELEASE SAVEPOINT documents")
        return None


def postpone(connection: Connection, items: Sequence[Postponed], *, usable_seconds: float) -> None:
    """Moves accounts to the queue `retry`, with the reason; those asked for again since they were taken can be taken at
    once. A handle that was last verified more than `usable_seconds` ago no longer counts as verified.

    Accounts that are in no queue any more are skipped.
    """
    by_did = {it.did: it for it in items}
    dids = sorted(by_did)
    if not dids:
        return
    _fetch(connection, "queue", "lock", dids=dids)
    _execute(
        connection,
        "queue",
        "postpone",
        dids=dids,
        errors=[str(_plain(by_did[did].error)).replace("\0", "") for did in dids],
        seconds=[by_did[did].seconds for did in dids],
        counts=[by_did[did].counts for did in dids],
    )
    expired = [did for (did,) in _fetch(connection, "queue", "expire", dids=dids, usable=usable_seconds)]
    if expired:
        _fetch(connection, "queue", "lock_actors", dids=expired)
        _execute(connection, "queue", "hide", dids=expired)


def want(connection: Connection, dids: Sequence[str], *, status: bool = False) -> None:
    """Asks for the resolution of accounts, known or not (queue `event`); with `status` also for their hosting status
    at their PDS."""
    if dids:
        _execute(connection, "queue", "want", dids=list(dids), status=status)


def queue_refresh(connection: Connection, limit: int) -> int:
    """Moves at most `limit` accounts whose refresh is due into the queue `refresh`. Returns how many. O(limit)."""
    dids = [did for (did,) in _fetch(connection, "queue", "lock_refresh", limit=limit)]
    return _execute(connection, "queue", "queue_refresh", dids=dids) if dids else 0


def read(connection: Connection, dids: Sequence[str]) -> dict[str, StoredIdentity]:
    """The rows of those of `dids` that have one."""
    return {row[0]: StoredIdentity(*row) for row in _fetch(connection, "read", "rows", dids=list(dids))}


def with_handle(connection: Connection, handle: str, limit: int = 10) -> list[StoredIdentity]:
    """The accounts whose document names this handle (lower case): first the one for which it is verified."""
    return [StoredIdentity(*row) for row in _fetch(connection, "read", "with_handle", handle=handle, limit=limit)]


def queue_state(connection: Connection, limit: int = MAX_COUNTED) -> QueueState:
    """The length of each queue, counted up to `limit`, and its oldest wait."""
    rows = {queue: _fetch(connection, "queue", "length", queue=queue, limit=limit)[0] for queue in QUEUES}
    return QueueState({queue: QueueLength(*row) for queue, row in rows.items()})
