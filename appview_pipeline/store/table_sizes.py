"""How large tables are, hour by hour (`pipeline.table_size`)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

_FILE = "operations/table_size.sql"
FORGOTTEN_AT_ONCE = 20_000
"""Rows that one transaction deletes."""


@dataclass(frozen=True, slots=True)
class MeasuredTable:
    """A table (`schema.name`), its bytes on the disk with indexes and TOAST, and PostgreSQL's estimate of its rows."""

    name: str
    bytes: int
    rows: int


def measure_tables(connection: Connection) -> list[MeasuredTable]:
    """Writes how large each table is in this hour, and returns that, the largest first."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["measure"])
        cursor.execute(sections(_FILE)["measured"])
        return [MeasuredTable(*row) for row in cursor.fetchall()]


def forget_measurements(connection: Connection, before: datetime) -> int:
    """Deletes measurements from before `before`, committing every `FORGOTTEN_AT_ONCE` rows. Returns how many."""
    forgotten = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(sections(_FILE)["forget"], {"before": before, "limit": FORGOTTEN_AT_ONCE})
            deleted = cursor.rowcount
        connection.commit()
        forgotten += deleted
        if deleted < FORGOTTEN_AT_ONCE:
            return forgotten
