"""Gaps as they are stored: what is known to be missing (`pipeline.gap`)."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

SWEPT_AT_ONCE = 5_000
MAX_OPEN = 1_000


class StreamGap(NamedTuple):
    """An open gap of a stream: nothing is known of what lies between two sequence numbers. `kind` as in the table."""

    kind: str
    after: int
    until: int


def open_stream_gaps(connection: Connection, relay: str, shard: str) -> list[StreamGap]:
    """The newest open gaps of a shard's stream that its consumer may yet see to be none; at most `MAX_OPEN`."""
    with connection.cursor() as cursor:
        cursor.execute(sections("report/gaps.sql")["stream"], {"relay": relay, "shard": shard, "limit": MAX_OPEN})
        return [StreamGap(*row) for row in cursor.fetchall()]


def open_gaps_of_relay(connection: Connection, relay: str) -> list[tuple[str, StreamGap]]:
    """The newest open gaps of a relay's stream with both ends, each with its shard; at most `MAX_OPEN`."""
    with connection.cursor() as cursor:
        cursor.execute(sections("report/gaps.sql")["relay"], {"relay": relay, "limit": MAX_OPEN})
        return [(row[0], StreamGap(*row[1:])) for row in cursor.fetchall()]


def sweep_gaps(connection: Connection, before: datetime) -> tuple[int, int]:
    """Closes what is proven to be complete, and deletes gaps closed before `before`, committing as it goes. Returns how
    many were closed and how many deleted."""
    statements = sections("sweep/gap.sql")
    closed = deleted = 0
    after: int | None = 0
    while after is not None:
        with connection.cursor() as cursor:
            cursor.execute(statements["proven"], {"after": after, "limit": SWEPT_AT_ONCE})
            row = cursor.fetchone()
        connection.commit()
        assert row is not None
        after, closed = row[0], closed + row[1]
    while True:
        with connection.cursor() as cursor:
            cursor.execute(statements["closed"], {"before": before, "limit": SWEPT_AT_ONCE})
            swept = cursor.rowcount
        connection.commit()
        deleted += swept
        if swept < SWEPT_AT_ONCE:
            return closed, deleted
