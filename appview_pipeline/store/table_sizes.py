"""How large tables are, hour by hour (`pipeline.table_size`)."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

_FILE = "operations/table_size.sql"


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
