"""How far lists of hosts and repositories were read: `pipeline.relay_listing`, and of each host `pipeline.pds_host`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

ListingName = Literal["hosts", "repositories", "survey"]


@dataclass(frozen=True)
class Reading:
    """How far a list was read. `wait`: seconds until it may be gone on with; `finished_at`: None while it goes on."""

    cursor: str | None
    began_at: datetime
    finished_at: datetime | None
    entries: int
    queued: int
    attempts: int
    wait: float
    error: str | None


@dataclass(frozen=True)
class ListedHost:
    """A host as a relay lists it. `accounts`: a lower limit of the accounts that it has; None: not said."""

    host: str
    status: str
    accounts: int | None


@dataclass(frozen=True)
class HostToList:
    """A host whose repositories are to be listed, from `cursor` on. `listed`: how many were so far.

    `attempts`: failures since the last page.
    """

    host: str
    cursor: str | None
    listed: int
    accounts: int | None
    attempts: int


@dataclass(frozen=True)
class HostsLeft:
    """Hosts that are still to be listed, and how many of them have failed."""

    hosts: int
    failed: int


def _fetch(connection: Connection, name: str, **values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sections("backfill/listing.sql")[name], values)
        return cursor.fetchall()


def _execute(connection: Connection, name: str, **values: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sections("backfill/listing.sql")[name], values)
        return cursor.rowcount


def read_listing(connection: Connection, relay: str, listing: ListingName) -> Reading | None:
    """How far a relay's list was read; None: it never was."""
    rows = _fetch(connection, "read", relay=relay, listing=listing)
    return Reading(*rows[0]) if rows else None


def begin_listing(connection: Connection, relay: str, listing: ListingName) -> None:
    """Begins to read the list from its beginning. What the database's clock says now is when it began."""
    _execute(connection, "begin", relay=relay, listing=listing)


def move_listing(
    connection: Connection,
    relay: str,
    listing: ListingName,
    *,
    cursor: str | None,
    entries: int,
    queued: int = 0,
    error: str | None = None,
) -> None:
    """A page was read; `cursor` leads to the next one, None: there is none. `error`: why the list was cut off there."""
    _execute(
        connection,
        "move",
        relay=relay,
        listing=listing,
        cursor=cursor,
        is_last=cursor is None,
        entries=entries,
        queued=queued,
        error=error,
    )


def fail_listing(connection: Connection, relay: str, listing: ListingName, error: str, seconds: float) -> None:
    """A page could not be read; the list is gone on with after `seconds`."""
    _execute(connection, "fail", relay=relay, listing=listing, error=error.replace("\0", "")[:500], seconds=seconds)


def add_hosts(connection: Connection, hosts: Sequence[ListedHost], began_at: datetime) -> None:
    """Adds the hosts of a page. Their repositories are to be listed, unless they were since `began_at`."""
    if hosts:
        _execute(
            connection,
            "add_hosts",
            hosts=[it.host for it in hosts],
            statuses=[it.status for it in hosts],
            accounts=[it.accounts for it in hosts],
            began_at=began_at,
        )


def take_hosts(connection: Connection, limit: int, claim_seconds: float) -> list[HostToList]:
    """Takes at most `limit` hosts whose repositories are to be listed now; they come back after `claim_seconds`."""
    return [HostToList(*row) for row in _fetch(connection, "take_hosts", limit=limit, claim=claim_seconds)]


def move_host(
    connection: Connection,
    host: str,
    *,
    cursor: str | None,
    entries: int,
    claim_seconds: float,
    error: str | None = None,
) -> None:
    """A page of a host's list was read; `cursor` leads to the next one, None: there is none. `error`: why the list was
    cut off there."""
    _execute(
        connection,
        "move_host",
        host=host,
        cursor=cursor,
        is_last=cursor is None,
        entries=entries,
        claim=claim_seconds,
        error=error,
    )


def fail_host(connection: Connection, host: str, error: str, seconds: float | None, *, counts: bool) -> None:
    """A page could not be read; the list is gone on with after `seconds`, None: not before the network is listed anew.
    `counts`: the host was asked."""
    shown = error.replace("\0", "")[:500]
    _execute(connection, "fail_host", host=host, error=shown, seconds=seconds, counts=counts)


def release_hosts(connection: Connection, hosts: Collection[str]) -> None:
    """Gives hosts back that were taken."""
    if hosts:
        _execute(connection, "release_hosts", hosts=list(hosts))


def hosts_left(connection: Connection) -> HostsLeft:
    """How many hosts are still to be listed."""
    return HostsLeft(*_fetch(connection, "hosts_left")[0])
