"""What reports are made of: `pipeline.batch`, where every micro-batch leaves its numbers, and measures of tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

MAX_BATCHES = 5_000


@dataclass(frozen=True)
class Applied:
    """What the batches of one hour (UTC) after a certain batch did. Sequence numbers and lag are the relay's alone.

    `ops` counts by `"<collection> <action>"`, `written` rows by table, `rejected_by_kind` dead letters by kind.
    `skipped` are numbers that the relay left out, `doubtful` frames whose number fits nothing before it.
    `withheld` are events of excluded accounts, of which something was left out.
    `lag_seconds` is how far behind the relay the newest batch was applied. `*_ms` are sums over the batches.
    """

    hour: datetime
    batches: int
    last_id: int
    first_seq: int | None
    last_seq: int | None
    last_relay_time: datetime | None
    lag_seconds: float | None
    last_applied_at: datetime
    frames: int
    events: int
    rejected: int
    stale: int
    skipped: int
    doubtful: int
    withheld: int
    bytes: int
    decode_ms: float
    apply_ms: float
    ignored: int
    ops: dict[str, int]
    written: dict[str, int]
    rejected_by_kind: dict[str, int]


@dataclass(frozen=True)
class StreamState:
    """Where one shard of a relay's stream stands, and what its batches of the last hour did."""

    shard: str
    seq: int
    idle_seconds: float
    lag_seconds: float | None
    batches: int
    events: int
    rejected: int


@dataclass(frozen=True)
class TableSize:
    """A table's estimated rows (-1: never analyzed) and bytes on disk, indexes included."""

    name: str
    estimated_rows: int
    bytes: int


@dataclass(frozen=True)
class PartitionRecords:
    """Records of a span of time of application: how many, of how many repositories, the newest `indexedAt`."""

    records: int
    repositories: int
    newest: str | None


@dataclass(frozen=True)
class Drift:
    """Counters compared with a recount."""

    compared: int
    differing: int
    examples: list[str]


def _rows(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sections(name)[""], parameters)
        return cursor.fetchall()


def newest_batch(connection: Connection) -> int:
    """The id of the newest batch, 0 for none."""
    return int(_rows(connection, "report/newest_batch.sql")[0][0])


def first_applied(connection: Connection) -> datetime | None:
    """When the first batch of all was applied; None for none."""
    return next((row[0] for row in _rows(connection, "report/first_applied.sql")), None)


def applied_after(
    connection: Connection, batch: int, relay: str, limit: int = MAX_BATCHES, shard: str | None = None
) -> list[Applied]:
    """What was applied after the batch with id `batch`, one `Applied` an hour, oldest first; empty when nothing was.

    With `shard` what that shard's sensor reports: all batches are reported by the sensors of a layout once.
    """
    rows = _rows(connection, "report/batches.sql", after=batch, limit=limit, relay=relay, shard=shard)
    return [Applied(*row) for row in rows]


def written_between(connection: Connection, since: datetime, until: datetime) -> dict[str, int]:
    """Rows written by table in that time, as far back as batches are kept."""
    return dict(_rows(connection, "report/written.sql", since=since, until=until))


def stream_state(connection: Connection, relay: str) -> list[StreamState]:
    """One `StreamState` a shard; empty for a relay that has no cursor yet."""
    return [StreamState(*row) for row in _rows(connection, "report/stream.sql", relay=relay)]


def table_sizes(connection: Connection, tables: Sequence[str]) -> list[TableSize]:
    """The sizes of these tables of schema bsky, by name."""
    return [TableSize(*row) for row in _rows(connection, "report/tables.sql", tables=list(tables))]


def partition_records(
    connection: Connection, since: datetime, until: datetime, collections: Sequence[str] | None
) -> PartitionRecords:
    """The records of `collections` (None: all) applied in that time."""
    wanted = list(collections) if collections is not None else None
    rows = _rows(connection, "report/records_of_partition.sql", since=since, until=until, collections=wanted)
    return PartitionRecords(*rows[0])


def aggregate_drift(
    connection: Connection, check: str, since: datetime, until: datetime, limit: int = 2_000, shown: int = 10
) -> Drift:
    """Recounts what was touched in that time; `check` is `post_aggregates` or `profile_aggregates`."""
    rows = _rows(connection, f"check/{check}.sql", since=since, until=until, limit=limit, shown=shown)
    compared, differing, examples = rows[0]
    return Drift(compared, differing, examples or [])
