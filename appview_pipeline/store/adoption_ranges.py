"""The ranges of a step of an adoption, each with its own position (`pipeline.adoption_range`, docs/serve.md).

Several processes go through them, in any order. No range ends within an account, so what decides between records of
one account (which of several likes counts) is never in two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.database import Database
from appview_pipeline.store.session_lock import LockTaken, lock_key, session_lock
from appview_pipeline.store.sql import sections

_FILE = "adopt/ranges.sql"
_AT_WORK = "adoption processes"

MAX_RANGES = 256
"""Ranges of a large table: enough for many processes to end at about the same time."""
RECORDS_OF_RANGE = 20_000
"""A smaller database has fewer ranges: of about so many records each."""


class Range(NamedTuple):
    """A range of URIs: those after `after` up to `until` (None: to the end) of a step's part; `position`: the last that
    was gone through."""

    step: str
    part: str
    after: str
    until: str | None
    position: str


def note_work(connection: Connection) -> None:
    """Makes `wait_for_others` wait until this session has ended. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["note_work"], {"key": lock_key(_AT_WORK)})
    connection.commit()


def wait_for_others(database: Database) -> None:
    """Waits until what an adoption that was killed has left in PostgreSQL has ended: sessions that still commit.

    Raises `OperatorError` when they don't end."""
    try:
        with session_lock(database, _AT_WORK, taken="Processes of an earlier `appview-pipeline adopt` are at work"):
            pass
    except LockTaken as error:
        raise OperatorError(f"{error}: wait for them to end, then run it again.") from None


def make_ranges(connection: Connection, step: str, parts: Sequence[str]) -> None:
    """Divides each part of a step into ranges, unless that was done. Commits."""
    statements = sections(_FILE)
    with connection.cursor() as cursor:
        cursor.execute(statements["exist"], {"step": step})
        if cursor.fetchone() == (True,):
            return
        cursor.execute(statements["size"])
        (records,) = cursor.fetchone() or (0,)
        bounds: list[str] = []
        if (ranges := min(records // RECORDS_OF_RANGE, MAX_RANGES)) > 1:
            cursor.execute(statements["bounds"], {"ranges": ranges})
            bounds = [uri for (uri,) in cursor.fetchall()]
        for part in parts:
            spans = {"after": ["", *bounds], "until": [*bounds, None]}
            cursor.execute(statements["make"], {"step": step, "part": part, **spans})
    connection.commit()


def open_ranges(connection: Connection, step: str) -> list[Range]:
    """The ranges of a step that have not ended. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["open"], {"step": step})
        found = [Range(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def move_range(cursor: Cursor, of: Range, position: str, reached: str | None, counts: Mapping[str, int]) -> None:
    """Notes that a range has come from `position` to `reached` (None: it has ended), and what was done meanwhile.

    Part of the caller's transaction. Raises `OperatorError` where another process has moved it."""
    given = orjson.dumps({key: number for key, number in counts.items() if number}).decode()
    place = {"step": of.step, "part": of.part, "after": of.after}
    cursor.execute(sections(_FILE)["move"], {**place, "position": position, "reached": reached, "counts": given})
    if cursor.rowcount != 1:
        raise OperatorError(
            "Another process of an earlier `appview-pipeline adopt` was still at work: run it again to go on."
        )


def end_ranges(cursor: Cursor, step: str) -> dict[str, int]:
    """Forgets the ranges of a step. Returns what was done in all of them; part of the caller's transaction."""
    cursor.execute(sections(_FILE)["end"], {"step": step})
    (counts,) = cursor.fetchone() or ({},)
    return {key: int(number) for key, number in counts.items()}
