"""`pipeline.upstream`: the servers that resolution asks and leaves alone, for people and plots to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

MAX_UPSTREAMS = 1_000
"""Rows that the process writes at most; those that it leaves alone first."""
MAX_ROWS = 5_000
"""Rows of the table, about: strangers name new servers all the time. Those that changed longest ago go first."""
WELL_SECONDS = 86_400.0
"""How long a server stays in the table after it was last left alone."""


class Upstream(Protocol):
    """A server as the client sees it (`network/upstreams.py`); times are seconds since 1970."""

    @property
    def host(self) -> str: ...
    @property
    def breaker(self) -> str: ...
    @property
    def failures(self) -> int: ...
    @property
    def opened(self) -> int: ...
    @property
    def open_until(self) -> float | None: ...
    @property
    def parked_until(self) -> float | None: ...
    @property
    def reason(self) -> str | None: ...


@dataclass(frozen=True)
class StoredUpstream:
    """A row of `pipeline.upstream`; times are seconds since 1970."""

    host: str
    breaker: str
    failures: int
    opened: int
    open_until: float | None
    parked_until: float | None
    reason: str | None


@dataclass(frozen=True)
class LeftAlone:
    """How many servers are left alone: their breaker is `open` (or probing), or they are `parked` at their own wish."""

    open: int
    parked: int


def forget_upstreams(connection: Connection) -> None:
    """Empties the table: a process that starts knows nothing of any server yet."""
    with connection.cursor() as cursor:
        cursor.execute(sections("identity/upstream.sql")["forget"])


def save_upstreams(connection: Connection, upstreams: Sequence[Upstream], now: float) -> None:
    """Writes those `upstreams` that failed, or are or were left alone; at most `MAX_UPSTREAMS` of them.

    A server that is not among them any more is closed, and dropped after `WELL_SECONDS`, or where there are more than
    `MAX_ROWS`. `now`: seconds since 1970.
    """
    noted = [one for one in upstreams if one.breaker != "closed" or one.failures or one.opened or one.parked_until]
    noted.sort(key=lambda one: (one.breaker == "closed", (one.parked_until or 0.0) <= now, -one.opened, one.host))
    noted = noted[:MAX_UPSTREAMS]
    hosts = [one.host for one in noted]
    values = {
        "hosts": hosts,
        "breakers": [one.breaker for one in noted],
        "failures": [one.failures for one in noted],
        "opened": [one.opened for one in noted],
        "open_until": [_whole(one.open_until) for one in noted],
        "parked_until": [_whole(one.parked_until) if (one.parked_until or 0.0) > now else None for one in noted],
        "reasons": [None if one.reason is None else one.reason.replace("\0", "")[:500] for one in noted],
        "seconds": WELL_SECONDS,
        "rows": MAX_ROWS,
    }
    statements = sections("identity/upstream.sql")
    with connection.cursor() as cursor:
        if noted:
            cursor.execute(statements["save"], values)
        cursor.execute(statements["close"], values)
        cursor.execute(statements["drop"], values)


def _whole(seconds: float | None) -> float | None:
    """In whole seconds: what is reckoned from two clocks differs by microseconds each time."""
    return None if seconds is None else float(round(seconds))


def list_upstreams(connection: Connection, limit: int = 100) -> list[StoredUpstream]:
    """The servers, those that are left alone first."""
    with connection.cursor() as cursor:
        cursor.execute(sections("report/identity.sql")["upstreams"], {"limit": limit})
        return [StoredUpstream(*row) for row in cursor.fetchall()]


def left_alone(connection: Connection) -> LeftAlone:
    """How many are left alone now."""
    with connection.cursor() as cursor:
        cursor.execute(sections("report/identity.sql")["left_alone"])
        row = cursor.fetchone()
    assert row is not None
    return LeftAlone(*row)
