"""`pipeline.backfill_queue`: repositories to fetch whole.

Taking is moving a time: a repository that is taken may be taken again only later, so a process that is killed loses
nothing. Whoever has taken some renews that (`renew`) while at work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.placeholders import fill_placeholders
from appview_pipeline.store.sql import named, sections

ASKED, DESYNCHRONIZED, NEW, REST = 3, 2, 1, 0
"""Priorities: somebody asked for it; something of it is missing; a new account; the rest."""
BUCKETS = 64
"""Parts of the queue: partitions of the asset `repositories`."""
MAX_COUNTED = 100_000
"""Repositories that are counted unless the caller wants more."""
MAX_HOSTS = 500
"""Hosts that one look for work looks at."""
UNKNOWN_HOST = ""
"""The host of repositories whose host is not known yet."""

_SCOPES = {True: "q.priority >= 2", False: "q.bucket = %(bucket)s"}


@dataclass(frozen=True)
class Scope:
    """What a process works off: one `bucket`, or what is urgent in all of them (None); nothing below `priority`."""

    bucket: int | None
    priority: int = REST

    @property
    def is_urgent(self) -> bool:
        """Whether it is what is urgent, of all buckets."""
        return self.bucket is None


URGENT = Scope(None, DESYNCHRONIZED)


@dataclass(frozen=True)
class Queued:
    """A repository that was taken. `host`: origin of its PDS, or empty; `enqueued_at` belongs to `Fetched` and
    `Postponed`: whoever asks for the repository meanwhile moves it."""

    did: str
    host: str
    priority: int
    reason: str
    attempts: int
    enqueued_at: datetime


@dataclass(frozen=True)
class Fetched:
    """A repository that was fetched and applied: what `pipeline.backfill_queue` keeps of it."""

    did: str
    enqueued_at: datetime
    rev: str | None
    records: int | None
    bytes: int | None
    seconds: float
    """Seconds until it is fetched again where that did not make it complete."""
    parked: bool = False
    """Where it did not, it is given up for now."""


@dataclass(frozen=True)
class Postponed:
    """A repository that could not be fetched: why, and after how many `seconds` it may be taken again.

    `counts`: it was an attempt of the repository's (its host was asked). `parked`: it is given up for now.
    """

    did: str
    enqueued_at: datetime
    error: str
    seconds: float
    counts: bool
    parked: bool = False


@dataclass(frozen=True)
class QueueState:
    """The queue: how many wait by priority, without those that are parked, counted up to a limit; `fetching` among
    them; `parked`; urgent ones that may be taken now (`due`), and the seconds since the first urgent one was asked for
    (None: none)."""

    waiting: dict[int, int]
    fetching: int
    parked: int
    due: int
    oldest_seconds: float | None

    @property
    def urgent(self) -> int:
        """Those of the priorities 2 and 3."""
        return self.waiting.get(DESYNCHRONIZED, 0) + self.waiting.get(ASKED, 0)

    @property
    def total(self) -> int:
        """All that wait."""
        return sum(self.waiting.values())


@dataclass(frozen=True)
class Parked:
    """A repository that was given up for now."""

    did: str
    host: str
    attempts: int
    error: str | None
    since: datetime


@dataclass(frozen=True)
class Waiting:
    """A repository that is not finished. `error`: the last failure, or None. `is_taken`: a process has it now."""

    did: str
    error: str | None
    is_parked: bool
    is_taken: bool


@cache
def _statement(name: str, is_urgent: bool = False) -> str:
    text = sections("backfill/queue.sql")[name]
    if "{scope}" not in text:
        return text
    scope = "urgent" if is_urgent else "bucket"
    return named(fill_placeholders(text, {"{scope}": _SCOPES[is_urgent]}), f"queue.{name} of {scope}")


def _fetch(connection: Connection, name: str, is_urgent: bool = False, **values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(_statement(name, is_urgent), values)
        return cursor.fetchall()


def _execute(connection: Connection, name: str, **values: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_statement(name), values)
        return cursor.rowcount


def enqueue(
    connection: Connection,
    dids: Collection[str],
    *,
    reason: str,
    priority: int,
    hosts: Mapping[str, str] | None = None,
) -> int:
    """Queues repositories to be fetched. Returns how many of them did not wait before.

    `reason` as the table's column says; `hosts`: origins of PDSes by DID, as far as known. One that waits keeps its
    place and its pauses, unless somebody asks for it (`ASKED`); one that is finished begins anew. Excluded accounts,
    and those that are not active, are left out.
    """
    if not dids:
        return 0
    wanted = list(dict.fromkeys(dids))
    known = hosts or {}
    rows = _fetch(
        connection,
        "enqueue",
        dids=wanted,
        hosts=[known.get(did, UNKNOWN_HOST) for did in wanted],
        reason=reason,
        priority=priority,
    )
    return int(rows[0][0])


def enqueue_new(
    connection: Connection, dids: Collection[str], *, reason: str, priority: int, host: str = UNKNOWN_HOST
) -> int:
    """Queues those repositories that are not in the queue, finished or not, nor complete. Returns how many."""
    wanted = list(dict.fromkeys(dids))
    if not wanted:
        return 0
    hosts = [host] * len(wanted)
    return _execute(connection, "enqueue_new", dids=wanted, hosts=hosts, reason=reason, priority=priority)


def hosts_with_work(
    connection: Connection, scope: Scope, after: str = UNKNOWN_HOST, limit: int = MAX_HOSTS
) -> tuple[list[str], str | None]:
    """Hosts after `after`, by name, that have something to be taken now and are not parked; and where to go on, None at
    the end. Looks at `limit` hosts, whatever the length of the queue. Repositories without a host are not among them.
    """
    ((last, hosts),) = _fetch(
        connection,
        "hosts",
        scope.is_urgent,
        bucket=scope.bucket,
        priority=scope.priority,
        after=after,
        looked_at=limit,
    )
    return list(hosts), last


def take(connection: Connection, scope: Scope, counts: Mapping[str, int], claim_seconds: float) -> list[Queued]:
    """Takes at most so many repositories of each host (`counts`) that may be taken now, by priority, then by time."""
    rows = _fetch(
        connection,
        "take",
        scope.is_urgent,
        bucket=scope.bucket,
        priority=scope.priority,
        hosts=list(counts),
        counts=list(counts.values()),
        claim=claim_seconds,
    )
    return _in_order(rows)


def take_given(connection: Connection, dids: Collection[str], claim_seconds: float) -> list[Queued]:
    """Takes those of these repositories that may be taken now."""
    return _in_order(_fetch(connection, "take_given", dids=list(dids), claim=claim_seconds))


def _in_order(rows: Sequence[tuple[Any, ...]]) -> list[Queued]:
    return sorted((Queued(*row) for row in rows), key=lambda it: (-it.priority, it.enqueued_at, it.did))


def waiting(connection: Connection, dids: Collection[str]) -> list[Waiting]:
    """Those of these repositories that are not finished."""
    return [Waiting(*row) for row in _fetch(connection, "waiting", dids=list(dids))]


def renew(connection: Connection, dids: Collection[str], claim_seconds: float) -> None:
    """These repositories stay taken for `claim_seconds` from now."""
    if dids:
        _fetch(connection, "lock", dids=list(dids))
        _execute(connection, "renew", dids=list(dids), claim=claim_seconds)


def release(connection: Connection, dids: Collection[str]) -> None:
    """Gives repositories back that were taken: they may be taken again at once."""
    if dids:
        _fetch(connection, "lock", dids=list(dids))
        _execute(connection, "release", dids=list(dids))


def set_hosts(connection: Connection, hosts: Mapping[str, str]) -> None:
    """Gives repositories back whose host is known now, or another one than was thought."""
    if hosts:
        _fetch(connection, "lock", dids=list(hosts))
        _execute(connection, "set_hosts", dids=list(hosts), hosts=list(hosts.values()))


def finish(connection: Connection, fetched: Sequence[Fetched]) -> list[str]:
    """Notes what was fetched and applied. A repository that was asked for again since it was taken, or that is still
    not complete, stays in the queue. Returns those that are given up for now."""
    by_did = {it.did: it for it in fetched}
    if not by_did:
        return []
    items = list(by_did.values())
    _fetch(connection, "lock", dids=list(by_did))
    found = _fetch(
        connection,
        "finish",
        dids=[it.did for it in items],
        enqueued_at=[it.enqueued_at for it in items],
        revs=[it.rev for it in items],
        records=[it.records for it in items],
        bytes=[it.bytes for it in items],
        seconds=[it.seconds for it in items],
        parked=[it.parked for it in items],
    )
    return [did for (did,) in found if did is not None]


def postpone(connection: Connection, items: Sequence[Postponed]) -> None:
    """Notes what could not be fetched, and when it may be taken again. Accounts that are excluded by now leave the
    queue."""
    by_did = {it.did: it for it in items}
    if not by_did:
        return
    last = list(by_did.values())
    _fetch(connection, "lock", dids=list(by_did))
    _execute(
        connection,
        "postpone",
        dids=[it.did for it in last],
        enqueued_at=[it.enqueued_at for it in last],
        errors=[it.error.replace("\0", "")[:500] for it in last],
        seconds=[it.seconds for it in last],
        counts=[it.counts for it in last],
        parked=[it.parked for it in last],
    )
    _execute(connection, "forget_excluded", dids=list(by_did))


def queue_unknown(connection: Connection, limit: int = 5_000) -> int:
    """Queues the next repositories that only the stream has brought (priority `NEW`). Returns how many it looked at:
    fewer than `limit` at the end. O(limit)."""
    dids = [did for (did,) in _fetch(connection, "unknown", limit=limit)]
    if dids:
        enqueue_new(connection, dids, reason="discovered", priority=NEW)
        _execute(connection, "note_queued", dids=dids)
    return len(dids)


def queue_incomplete(connection: Connection, after: str = "", limit: int = 5_000) -> tuple[int, str | None]:
    """Queues those of the next repositories that are not complete and not in the queue. Returns how many, and where to
    go on (None: that was the end)."""
    ((last, dids),) = _fetch(connection, "incomplete", after=after, limit=limit)
    return enqueue(connection, dids, reason="gap", priority=DESYNCHRONIZED), last


def count_waiting(connection: Connection, scope: Scope, limit: int = 1_000_000) -> int:
    """How many repositories of the scope are not finished, counted up to `limit`."""
    if scope.is_urgent:
        return int(_fetch(connection, "urgent", limit=limit)[0][0])
    rows = _fetch(connection, "waiting_of_bucket", bucket=scope.bucket, priority=scope.priority, limit=limit)
    return int(rows[0][0])


def urgent_due(connection: Connection) -> bool:
    """Whether something urgent may be fetched now."""
    return bool(_fetch(connection, "urgent_due")[0][0])


def queue_state(connection: Connection, limit: int = MAX_COUNTED) -> QueueState:
    """The state of the queue; numbers are counted up to `limit`."""
    by_priority = _fetch(connection, "states", limit=limit)
    ((_, due, oldest),) = _fetch(connection, "urgent", limit=limit)
    return QueueState(
        waiting={priority: count for priority, count, _ in by_priority},
        fetching=sum(fetching for _, _, fetching in by_priority),
        parked=int(_fetch(connection, "parked_count", limit=limit)[0][0]),
        due=due,
        oldest_seconds=oldest,
    )


def list_parked(connection: Connection, limit: int = 100) -> list[Parked]:
    """The repositories that were given up last."""
    return [Parked(*row) for row in _fetch(connection, "parked", limit=limit)]
