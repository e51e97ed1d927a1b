"""Gaps as they are stored: what is known to be missing (`pipeline.gap`)."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections
from appview_pipeline.store.sweeps import GAPS_FILLED, sweep_to_its_end

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


class OpenStreamGap(NamedTuple):
    """An open gap of a stream, with a row of its own (`id`). `after` and `until` are sequence numbers, None: unknown.

    `from_time`: the time of the last event that was applied before it, None: unknown. What happened before that time is
    applied; `until` came at `detected_at` or before. Where `after` is None it is of another relay's stream.
    """

    id: int
    kind: str
    relay: str
    shard: str
    after: int | None
    until: int | None
    detected_at: datetime
    from_time: datetime | None


def open_gaps_of_streams(connection: Connection) -> list[OpenStreamGap]:
    """The oldest open gaps of all streams: numbers that are missing (`sequence`), and cursors that were older than the
    relay's window (`outdated_cursor`). At most `MAX_OPEN`."""
    with connection.cursor() as cursor:
        cursor.execute(sections("report/gaps.sql")["streams"], {"limit": MAX_OPEN})
        return [OpenStreamGap(*row) for row in cursor.fetchall()]


def was_streamed(connection: Connection, relay: str, shard: str) -> bool:
    """Whether events of another stream were ever applied, or of this one: other shards of the relay may have
    started a moment ago."""
    with connection.cursor() as cursor:
        cursor.execute(sections("report/gaps.sql")["was_streamed"], {"relay": relay, "shard": shard})
        return cursor.fetchone() == (True,)


def close_gap(connection: Connection, gap: int) -> bool:
    """Closes a gap of a stream by its id: everything that happened in it is applied, or queued to be fetched. Returns
    whether it was open."""
    with connection.cursor() as cursor:
        cursor.execute(sections("sweep/gap.sql")["close_of_stream"], {"id": gap})
        return cursor.rowcount == 1


def sweep_gaps(connection: Connection, before: datetime) -> tuple[int, int]:
    """Closes what is proven to be complete, and deletes gaps closed before `before`, committing as it goes. Returns how
    many were closed and how many deleted."""
    closed = sweep_to_its_end(connection, GAPS_FILLED, before)
    return closed, sweep_to_its_end(connection, "closed gaps", before)
