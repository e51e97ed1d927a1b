"""What the identity process did: `pipeline.identity_batch`, a row every few seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

MAX_REPORTS = 20_000
"""Rows that are read at once, to be reported."""
MAX_COUNTED = 100_000
"""Accounts that are due and are counted."""
"""Rows that one transaction deletes."""


@dataclass
class IdentityReport:
    """What was done in `seconds`; a row of `pipeline.identity_batch`, whose comments describe the columns."""

    seconds: float = 0.0
    resolved: int = 0
    failed: int = 0
    verified: int = 0
    not_verified: int = 0
    statuses: int = 0
    lookups: int = 0
    hits: int = 0
    queued: int = 0
    oldest_seconds: float | None = None


@dataclass(frozen=True)
class ResolvedInHour:
    """What the reports of one hour (UTC) say together. `queued` and `oldest_seconds` are the last report's."""

    hour: datetime
    last_id: int
    last_at: datetime
    seconds: float
    resolved: int
    failed: int
    verified: int
    not_verified: int
    statuses: int
    lookups: int
    hits: int
    queued: int
    oldest_seconds: float | None


@dataclass(frozen=True)
class AccountsMet:
    """Accounts that batches of the stream had events of; how many of them were not known, or are to be resolved again;
    and the id of the last of these batches."""

    accounts: int
    unresolved: int
    batch: int


@dataclass(frozen=True)
class LastReport:
    """The newest report: how many seconds ago it was written, what waited then, and for how long the oldest had."""

    age_seconds: float
    queued: int
    oldest_seconds: float | None


def _rows(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sections("report/identity.sql")[name], parameters)
        return cursor.fetchall()


def add_report(connection: Connection, report: IdentityReport) -> None:
    """Writes a report."""
    with connection.cursor() as cursor:
        cursor.execute(sections("identity/batch.sql")[""], asdict(report))


def newest_report(connection: Connection) -> int:
    """The id of the newest report, 0 for none."""
    return int(_rows(connection, "newest")[0][0])


def reported_after(connection: Connection, report: int, limit: int = MAX_REPORTS) -> list[ResolvedInHour]:
    """What was reported after the report with that id, one `ResolvedInHour` an hour, oldest first."""
    return [ResolvedInHour(*row) for row in _rows(connection, "after", after=report, limit=limit)]


def last_report(connection: Connection) -> LastReport | None:
    """The newest report; None for none."""
    return next((LastReport(*row) for row in _rows(connection, "last")), None)


def accounts_met(connection: Connection, after: int | None) -> AccountsMet:
    """What the stream's batches after the one with id `after` met; None: nothing, which is where to begin."""
    return AccountsMet(*_rows(connection, "met", after=after)[0])


def refresh_due(connection: Connection, limit: int = MAX_COUNTED) -> int:
    """Accounts whose refresh is due, counted up to `limit`."""
    return int(_rows(connection, "refresh", limit=limit)[0][0])
