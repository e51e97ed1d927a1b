"""Reruns: derived rows compared with their records, and what differs repaired (docs/architecture.md).

A rerun lists what it will look at (`list_work`) and goes through the list chunk by chunk, a transaction each. It first
looks at a chunk (`look_at`): as of one snapshot, so that the live stream, whose batches are transactions too, can't
make anything look wrong, and without a lock that the live writer could wait for. Where nothing is wrong, which is the
usual case, that is all. What is wrong is repaired under locks (`repair_records`).

Under locks, a chunk stages its records as a batch is staged, locks its repositories as the live writer does,
stages its records anew if they have changed before it had the locks, and compares the derived rows with what the write
path's statements would write. What differs is taken out and added again by the very same statements of sql/apply/; what
is right is not touched. Counters are recounted (store/counters.py), never moved.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import datetime

from psycopg2.extensions import connection as Connection

from appview_pipeline.store import counters
from appview_pipeline.store.apply import prepare
from appview_pipeline.store.derived_rows import derived_rows, for_table
from appview_pipeline.store.effects import Effects
from appview_pipeline.store.errors import Busy, RefusedData, translated
from appview_pipeline.store.repair_chunk import Chunk
from appview_pipeline.store.repairs import Listed, Look, Repairs, Stage
from appview_pipeline.store.sql import sections
from appview_pipeline.store.statements import count_rows

UNDECIDED = (Busy, RefusedData)
"""Others write to the same rows, so that one snapshot can't tell whether they are right."""


def prepare_repair(connection: Connection, effects: Effects) -> None:
    """Makes the temporary tables of a rerun on a connection, which all of the rerun then uses."""
    prepare(connection, effects)
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/staging.sql")[""])
    connection.commit()


def list_work(
    connection: Connection,
    effects: Effects,
    collections: Collection[str],
    *,
    since: datetime | None,
    until: datetime | None,
    orphans: int | None,
) -> int:
    """Lists the records of `collections` applied in [since, until) (None: without bound), and rows without a record.

    `orphans`: how many rows an account and table are searched for ones without a record, newest first; None: all.
    Returns the length of the list.
    """
    statements = sections("repair/worklist.sql")
    span = {"since": since, "until": until, "collections": list(collections)}
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL jit = off")
        cursor.execute(statements["clear"])
        cursor.execute(statements["records"], span)
        cursor.execute("ANALYZE rerun")
        for rows in derived_rows(effects):
            if wanted := sorted(set(rows.collections) & set(collections)):
                name = "orphans_by_creator" if rows.creator is not None else "orphans_by_uri"
                cursor.execute(for_table(statements[name], rows), {"collections": wanted, "orphans": orphans})
        if count_rows(cursor, "orphan"):
            cursor.execute(statements["merge"])
        length = count_rows(cursor, "rerun")
    connection.commit()
    return length


def forget_work(connection: Connection) -> None:
    """Empties the list."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/worklist.sql")["clear"])
    connection.commit()


def entries(connection: Connection, after: int, until: int) -> Listed:
    """The entries of the list from `after` (exclusive) to `until`."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/worklist.sql")["chunk"], {"after": after, "until": until})
        listed = dict(cursor.fetchall())
    connection.commit()
    return listed


def look_at(connection: Connection, listed: Listed, stage: Stage) -> Look:
    """Compares entries of the list without locks, and writes nothing. Finds those that have to be repaired: all of them
    where it can't see which."""
    look = Look(listed, None, is_whole=False)
    try:
        with translated():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                cursor.execute("SET LOCAL jit = off")
                look = Chunk(cursor, stage, locking=False).look(listed)
            if look.wrong:
                connection.rollback()
            else:
                connection.commit()
    except UNDECIDED:
        connection.rollback()
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise
    return look


def repair_records(connection: Connection, listed: Listed, stage: Stage) -> Repairs:
    """Compares and repairs entries of the list, and commits.

    On an error nothing of the chunk is written; the errors are those of `store.apply.apply`.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL jit = off")
            chunk = Chunk(cursor, stage, locking=True)
            repairs = chunk.repair(listed)
        connection.commit()
        repairs.locked_seconds = time.monotonic() - chunk.locked_at
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise
    return repairs


def recount_subjects(connection: Connection, limit: int) -> Repairs | None:
    """Recounts the counters of the next `limit` subjects of the rerun's records and commits. None when all are done."""
    repairs = Repairs()
    for counted in counters.TABLES:
        began = time.monotonic()
        recounted = counters.recount_subjects(connection, counted, limit)
        repairs.records += recounted.compared
        repairs.locked_seconds = max(repairs.locked_seconds, time.monotonic() - began)
        repairs.add(counted, len(recounted.changes), (change.key for change in recounted.changes))
    return repairs if repairs.records else None
