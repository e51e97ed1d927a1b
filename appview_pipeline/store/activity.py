"""What a session of ours is doing, as PostgreSQL shows it."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.prepared import shown_name
from appview_pipeline.store.sql import sections


@dataclass(frozen=True)
class RunningStatement:
    """`name` as `file.section`, for how many seconds it has run, and the sessions that hold the locks it waits for."""

    name: str
    seconds: float
    blocked_by: list[str]


def statement_of(connection: Connection, backend: int) -> RunningStatement | None:
    """The statement that the backend with this process id runs, or last ran in its open transaction; None when it is
    idle or gone."""
    with connection.cursor() as cursor:
        cursor.execute(sections("report/at_work.sql")[""], {"backend": backend})
        row = cursor.fetchone()
    if row is None:
        return None
    query, seconds, blocked_by = row
    return RunningStatement(shown_name(query), seconds, blocked_by)
