"""Giving the database back to the reference's own indexer, and knowing that it was given back (sql/serve/leave.sql)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from psycopg2 import sql as names
from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

log = logging.getLogger(__name__)

THEIR_INDEXES = ("notification_record_idx", "record_did_idx", "post_replyparent_idx")
"""Indexes of the reference's migrations that this project does without; also their sections in the file."""
OUR_UNIQUE_INDEX = "notification_record_did_reason_idx"
"""The index that the reference's indexer must not find: it would refuse rows of its own."""


@dataclass(frozen=True)
class Unfinished:
    """What the reference's indexer does not do, in rows: open gaps, removals of accounts that have not ended, opt-outs,
    labelers, and take-downs of records that are deleted at present."""

    gaps: int
    removals: int
    opt_outs: int
    labelers: int
    takedowns: int


def at_work(connection: Connection) -> dict[str, int]:
    """This project's other connections to the database: their number by the name that they state."""
    with connection.cursor() as cursor:
        cursor.execute(sections("serve/leave.sql")["at_work"], ())
        return dict(cursor.fetchall())


def is_left(connection: Connection) -> bool:
    """Whether the database was given back to the reference's indexer; False where it has no schema `bsky`."""
    with connection.cursor() as cursor:
        cursor.execute(sections("serve/leave.sql")["is_left"])
        (left,) = cursor.fetchone() or (None,)
        return bool(left)


def unfinished(connection: Connection) -> Unfinished:
    """What this project would still do; nothing where an adoption has not yet made its tables."""
    with connection.cursor() as cursor:
        cursor.execute(sections("serve/leave.sql")["has_tables"])
        if cursor.fetchone() != (True,):
            return Unfinished(0, 0, 0, 0, 0)
        cursor.execute(sections("serve/leave.sql")["unfinished"])
        row = cursor.fetchone()
        assert row is not None
        return Unfinished(*row)


def give_back(connection: Connection, progress: Callable[[str], None] = lambda step: None) -> None:
    """Builds the reference's indexes, then drops our unique one. `progress` is told the name of each index.

    `connection` is in autocommit, for each statement runs by itself; an index that an interrupted call has left
    unfinished is built again. Raises psycopg2's errors; it may be called again after any of them.
    """
    statements, building = sections("serve/leave.sql"), sections("report/migration.sql")
    with connection.cursor() as cursor:
        cursor.execute(building["unlimited_wait"])
        for index in THEIR_INDEXES:
            progress(index)
            cursor.execute(building["invalid_index"], {"schema": "bsky", "index": index})
            if cursor.fetchone() is not None:
                log.info("An interrupted call has left %s unfinished; it is built again", index)
                cursor.execute(names.SQL(building["drop_index"]).format(index=names.Identifier("bsky", index)))
            cursor.execute(statements[index])
        progress(OUR_UNIQUE_INDEX)
        cursor.execute(statements["drop_unique"])
