"""`pipeline.backfill_batch`: what each process that fetches repositories has done, every few seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

from psycopg2.extensions import connection as Connection
from psycopg2.extras import Json

from appview_pipeline.store.sql import sections

_FILE = "backfill/report.sql"


@dataclass(frozen=True)
class BackfillReport:
    """A row: the columns of the same names have comments."""

    bucket: int | None
    seconds: float
    repositories: int = 0
    records: int = 0
    created: int = 0
    updated: int = 0
    deleted: int = 0
    refused: int = 0
    bytes: int = 0
    failed: int = 0
    parked: int = 0
    fetching: int = 0
    failures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BackfillTotals:
    """The sums of several rows, and the id of the last one (None: there was none)."""

    last_id: int | None
    rows: int
    repositories: int
    records: int
    created: int
    updated: int
    deleted: int
    refused: int
    bytes: int
    failed: int
    parked: int
    failures: dict[str, int]


def add_report(connection: Connection, report: BackfillReport) -> None:
    """Adds a row."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["add"], {**asdict(report), "failures": Json(report.failures)})


def reports_since(connection: Connection, after: int) -> BackfillTotals:
    """The sums of the rows after the id `after`, of all processes."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["since"], {"after": after})
        row = cursor.fetchone()
    assert row is not None
    last_id, *numbers, failures = row
    columns = (column.name for column in fields(BackfillTotals) if column.name not in ("last_id", "failures"))
    sums: dict[str, int] = {name: int(number or 0) for name, number in zip(columns, numbers, strict=True)}
    return BackfillTotals(last_id=last_id, failures=failures, **sums)
