"""Databases for tests, their rows, and dumps of schemas `bsky` and `pipeline` in which equal states are equal.

Left out is what says when or in which order something was written rather than what is known: surrogate keys, the times
of our own clock, the batches, the name of the source, which records were seen to take another's place. Aggregates that
count nothing equal absent ones, and so do tombstones of records that are there again and gaps that were closed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from appview_pipeline.ingest.files.replay import ReplaySummary, replay
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.simulated_network.corpus import write_corpus
from appview_pipeline_tests.support.database import connect, run_sql

Dump = dict[str, list[str]]
"""Rows by table (`schema.table`), each row one line of JSON, sorted; tables without rows are absent."""

Fresh = Callable[..., AbstractContextManager[Database]]
"""Makes a database for a block; keyword arguments are settings."""

LEFT_OUT = {
    "bsky.record": {"appliedAt"},
    "bsky.notification": {"id"},
    "bsky.op_thread_reply": {"deletedAt"},
    "pipeline.repo": {"updated_at", "sync_at", "sync_reason", "resync_at", "resync_oldest"},
    "pipeline.unchecked_commit": {"since", "check_at"},
    "pipeline.backfill_queue": {"enqueued_at", "not_before", "finished_at", "reason"},
    "pipeline.identity": {
        "wanted_at",
        "asked_at",
        "resolved_at",
        "handle_checked_at",
        "next_check_at",
        "pds_changed_at",
    },
    "pipeline.tombstone": {"deleted_at"},
    "pipeline.dead_letter": {"id", "first_seen", "source"},
    "pipeline.gap": {"id", "detected_at", "resolved_at", "links"},
    "pipeline.pending": {"since", "expires_at", "not_before", "error"},
    "pipeline.ignored_collection": {"first_seen", "last_seen"},
    "pipeline.cursor": {"updated_at"},
}
NOT_DUMPED = {
    "pipeline.batch",
    "pipeline.dead_letter_day",
    "pipeline.fetch_batch",
    "pipeline.identity_batch",
    "pipeline.kept_notification",
    "pipeline.sweep",
    "pipeline.upstream",
    "pipeline.schema_version",
    "bsky.kysely_migration",
    "bsky.kysely_migration_lock",
}
_ONLY = {
    "tombstone": "WHERE NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = tombstone.uri AND r.rev > tombstone.rev)",
    "gap": "WHERE resolved_at IS NULL",
    "backfill_queue": "WHERE finished_at IS NULL",
    # The other kinds are only fetched: whether their rows are still there depends on when somebody looked.
    "pending": "WHERE kind = 'reply'",
}
_AGGREGATES = {"bsky.post_agg": "uri", "bsky.profile_agg": "did"}

MAX_LEFT = 3
"""Databases whose tests have ended and that are not dropped yet. DROP DATABASE looks only every 100 ms whether the last
session has ended, which takes some milliseconds: the next tests are that time."""

_numbers = itertools.count(1)
_left: WeakKeyDictionary[EmbeddedPostgres, deque[str]] = WeakKeyDictionary()


def dump(url: str) -> Dump:
    """Everything that is compared. `url` is SQLAlchemy's."""
    found: Dump = {}
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema || '.' || table_name, array_agg(column_name::text) FROM information_schema.columns "
            "JOIN information_schema.tables USING (table_schema, table_name) "
            "WHERE table_schema IN ('bsky', 'pipeline') AND table_type = 'BASE TABLE' GROUP BY 1 ORDER BY 1"
        )
        for table, columns in cursor.fetchall():
            if table in NOT_DUMPED:
                continue
            left_out = LEFT_OUT.get(table, set())
            assert left_out <= set(columns), f"{table} has no longer {left_out - set(columns)}"
            wanted = sorted(set(columns) - left_out)
            schema, name = table.split(".")
            cursor.execute(
                f'SELECT {", ".join(f"{chr(34)}{column}{chr(34)}" for column in wanted)} FROM {schema}."{name}" '
                + _ONLY.get(name, "")
            )
            rows = [dict(zip(wanted, row, strict=True)) for row in cursor.fetchall()]
            if key := _AGGREGATES.get(table):
                rows = [row for row in rows if any(value for column, value in row.items() if column != key)]
            if rows:
                found[table] = sorted(json.dumps(row, default=_plain, sort_keys=True) for row in rows)
    return found


def _plain(value: object) -> str:
    return bytes(value).hex() if isinstance(value, memoryview) else str(value)


def checksum(tables: Dump) -> str:
    """One number for a dump."""
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()


def differences(got: Dump, want: Dump, limit: int = 3) -> list[str]:
    """What distinguishes two dumps, in words; empty when nothing does."""
    lines = []
    for table in sorted(got.keys() | want.keys()):
        g, w = set(got.get(table, ())), set(want.get(table, ()))
        lines += [f"{table}: missing {row}" for row in sorted(w - g)[:limit]]
        lines += [f"{table}: too much {row}" for row in sorted(g - w)[:limit]]
        if g == w and len(got[table]) != len(want[table]):
            lines.append(f"{table}: {len(got[table])} rows instead of {len(want[table])}, some of them twice")
    return lines


def assert_equal(got: Dump, want: Dump) -> None:
    """Fails with the differences."""
    assert not (found := differences(got, want)), "\n".join(found)
    assert checksum(got) == checksum(want)


def rows(url: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a query (or of a statement without any, which is committed)."""
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        found = cursor.fetchall() if cursor.description is not None else []
        connection.commit()
        return found


def one(url: str, statement: str, *parameters: Any) -> Any:
    """The only value of a query."""
    ((value,),) = rows(url, statement, *parameters)
    return value


def all_gaps(database: Database) -> list[tuple[Any, ...]]:
    """Kind, DID and both ends of every gap; none is there twice."""
    found = rows(database.url, "SELECT kind, did, from_text, to_text FROM pipeline.gap ORDER BY kind, from_text")
    assert one(database.url, "SELECT count(*) FROM pipeline.gap") == len(set(found))
    return found


def record_keys(database: Database, table: str = "record") -> set[str]:
    """The record keys of a table of schema bsky."""
    return {uri.rpartition("/")[2] for (uri,) in rows(database.url, f'SELECT uri FROM bsky."{table}"')}


@contextmanager
def fresh_database(server: EmbeddedPostgres, template: str, **settings: Any) -> Iterator[Database]:
    """A database of its own, for tests that need many; cloned in some 20 ms. Its sessions end with the block."""
    name = f"appview_fresh_{next(_numbers)}"
    run_sql(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    database = Database(server.url(name), Settings(database_url=server.url(name), **settings))
    try:
        yield database
    finally:
        database.close()
        run_sql(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
        left = _left.setdefault(server, deque())
        left.append(name)
        if len(left) > MAX_LEFT:
            run_sql(server, f'DROP DATABASE "{left.popleft()}" WITH (FORCE)')


def replayed(database: Database, path: Path, batch_size: int, **settings: Any) -> ReplaySummary:
    """Replays a file into a database."""
    return replay(Settings(database_url=database.url, **settings), database, path, batch_size=batch_size)


def replayed_frames(
    database: Database, folder: Path, frames: Sequence[bytes], batch_size: int = 5_000, **settings: Any
) -> ReplaySummary:
    """Replays frames, by way of a file in `folder`, and checks that each was read."""
    path = folder / f"{next(_numbers)}.frames"
    write_corpus(path, frames)
    summary = replayed(database, path, batch_size, **settings)
    assert summary.frames == len(frames)
    return summary
