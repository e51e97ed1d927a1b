"""What the fetch process did: `pipeline.fetch_batch`, a row every few seconds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

MAX_REPORTS = 20_000
"""Rows that are read at once, to be reported."""
"""Rows that one transaction deletes."""


@dataclass
class FetchReport:
    """What was done in `seconds`; a row of `pipeline.fetch_batch`, whose comments describe the columns."""

    seconds: float = 0.0
    asked: int = 0
    found: int = 0
    absent: int = 0
    refused: int = 0
    invalid: int = 0
    unreachable: int = 0
    queued_repositories: int = 0
    asked_by_collection: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    oldest_seconds: float | None = None
    given_up: int = 0
    signatures_checked: int = 0
    signatures_bad: int = 0


@dataclass(frozen=True)
class LastFetchReport:
    """The newest report: how many seconds ago it was written, what waited then, and for how long the oldest had."""

    age_seconds: float
    waiting: int
    oldest_seconds: float | None


@dataclass(frozen=True)
class Outcomes:
    """What attempts came to."""

    found: int = 0
    absent: int = 0
    refused: int = 0
    invalid: int = 0
    unreachable: int = 0

    @property
    def asked(self) -> int:
        return self.found + self.absent + self.refused + self.invalid + self.unreachable

    @property
    def answered(self) -> int:
        """Attempts that a host answered."""
        return self.asked - self.unreachable

    @property
    def success_rate(self) -> float | None:
        """The share of the answers that settle whether there is the record, and have it; None without an answer."""
        return (self.answered - self.invalid) / self.answered if self.answered else None


def _rows(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sections("report/fetching.sql")[name], parameters)
        return cursor.fetchall()


def outcomes_of(report: FetchReport) -> Outcomes:
    """What the attempts of a report came to."""
    return Outcomes(
        found=report.found,
        absent=report.absent,
        refused=report.refused,
        invalid=report.invalid,
        unreachable=report.unreachable,
    )


def add_fetch_report(connection: Connection, report: FetchReport) -> None:
    """Writes a report."""
    values = asdict(report) | {"asked_by_collection": json.dumps(report.asked_by_collection)}
    with connection.cursor() as cursor:
        cursor.execute(sections("backfill/fetch_batch.sql")[""], values)


def newest_fetch_report(connection: Connection) -> int:
    """The id of the newest report, 0 for none."""
    return int(_rows(connection, "newest")[0][0])


def fetched_after(connection: Connection, report: int, limit: int = MAX_REPORTS) -> tuple[int, FetchReport] | None:
    """What was reported after the report with that id, together, and the id of the last report; None: nothing."""
    row = next(iter(_rows(connection, "after", after=report, limit=limit)), None)
    if row is None:
        return None
    names = FetchReport.__dataclass_fields__
    return row[0], FetchReport(**dict(zip(names, row[1:], strict=True)))


def last_fetch_report(connection: Connection) -> LastFetchReport | None:
    """The newest report; None for none."""
    return next((LastFetchReport(*row) for row in _rows(connection, "last")), None)


def recent_outcomes(connection: Connection, seconds: float) -> Outcomes:
    """What the attempts of the last `seconds` came to."""
    return Outcomes(*_rows(connection, "outcomes", seconds=seconds)[0])
