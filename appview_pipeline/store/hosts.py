"""`pipeline.pds_host`: the hosts that repositories are fetched from, and which of them are parked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections


@dataclass(frozen=True)
class HostNews:
    """What a process has seen of a host since it last said so.

    `fetched`: repositories that it delivered; `failures`: in a row up to now, with the last one's `reason`;
    `parked_seconds`: it is parked from now on (0: it is not).
    """

    host: str
    fetched: int
    failures: int
    reason: str | None
    parked_seconds: float


@dataclass(frozen=True)
class KnownHost:
    """What all processes know of a host. `is_proven`: it delivered a repository after its last failure."""

    host: str
    failures: int
    is_proven: bool
    parked_seconds: float
    reason: str | None


@dataclass(frozen=True)
class ParkedHost:
    """A host that is parked for `seconds` more."""

    host: str
    seconds: float
    failures: int
    reason: str | None


def _fetch(connection: Connection, name: str, **values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sections("backfill/host.sql")[name], values)
        return cursor.fetchall()


def note_hosts(connection: Connection, news: Sequence[HostNews]) -> None:
    """Notes what a process has seen of hosts, each once."""
    if not news:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            sections("backfill/host.sql")["note"],
            {
                "hosts": [it.host for it in news],
                "fetched": [it.fetched for it in news],
                "failures": [it.failures for it in news],
                "reasons": [None if it.reason is None else it.reason.replace("\0", "")[:500] for it in news],
                "parked": [it.parked_seconds for it in news],
            },
        )


def read_hosts(connection: Connection, hosts: Collection[str]) -> dict[str, KnownHost]:
    """Those of these hosts that are known."""
    return {row[0]: KnownHost(*row) for row in _fetch(connection, "read", hosts=list(hosts))}


def parked_hosts(connection: Connection, limit: int = 100) -> list[ParkedHost]:
    """The hosts that are parked now, the one that returns last first."""
    return [ParkedHost(*row) for row in _fetch(connection, "parked", limit=limit)]


def count_parked_hosts(connection: Connection) -> int:
    """How many hosts are parked now."""
    return int(_fetch(connection, "parked_count")[0][0])
