"""How complete the index is, and what is being done about it: numbers for plots and checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

SYNC_STATES = ("unknown", "synchronized", "desynchronized", "resyncing", "error")
MAX_COUNTED = 20_000
"""Open gaps of one kind that are counted."""
COUNTED_ROWS = 200_000
"""Beyond so many repositories their states are estimated, since counting would read the whole table."""


@dataclass(frozen=True)
class RepositoryStates:
    """Repositories by `pipeline.repo.sync_state`. `is_estimate`: by PostgreSQL's sample of the table; states that few
    repositories are in may be missing then."""

    counts: dict[str, int]
    is_estimate: bool


@dataclass(frozen=True)
class OpenGaps:
    """Open gaps, counted up to a limit, and seconds since the oldest was found (None: there is none).

    `workable` and `oldest_workable_seconds`: without those of repositories that are given up for now, and of accounts
    that are not active or excluded, about which nothing can be done at the moment.
    """

    count: int = 0
    oldest_seconds: float | None = None
    workable: int = 0
    oldest_workable_seconds: float | None = None


def _rows(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sections("report/sync.sql")[name], parameters)
        return cursor.fetchall()


def repository_states(connection: Connection) -> RepositoryStates:
    """Repositories by state."""
    ((size,),) = _rows(connection, "size")
    if size > COUNTED_ROWS and (estimated := _rows(connection, "estimated")):
        return RepositoryStates(dict(estimated), is_estimate=True)
    return RepositoryStates(dict(_rows(connection, "counted")), is_estimate=False)


def open_gaps(connection: Connection, limit: int = MAX_COUNTED) -> OpenGaps:
    """The open gaps; at most `limit` of each kind are looked at, the oldest first."""
    return OpenGaps(*_rows(connection, "gaps", limit=limit)[0])


def has_stream_gaps(connection: Connection) -> bool:
    """Whether a gap of a stream is open."""
    return bool(_rows(connection, "stream_gaps")[0][0])


def newest_work(connection: Connection) -> int:
    """The id of the newest row of `pipeline.backfill_batch`, 0 for none."""
    return int(_rows(connection, "newest_work")[0][0])


def buckets_with_work(connection: Connection, priority: int) -> list[int]:
    """The buckets of which something of at least that priority may be taken now."""
    return [bucket for (bucket,) in _rows(connection, "buckets", priority=priority)]
