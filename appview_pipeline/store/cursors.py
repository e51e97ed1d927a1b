"""Reading `pipeline.cursor`; it is moved by `apply`, in a batch's transaction, and nowhere else."""

from __future__ import annotations

from psycopg2.extensions import connection as Connection


def cursor_of(connection: Connection, relay: str, shard: str) -> int | None:
    """The sequence number up to which a stream is applied, None when it has not begun."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq FROM pipeline.cursor WHERE relay = %s AND shard = %s", (relay, shard))
        row = cursor.fetchone()
    return None if row is None else int(row[0])
