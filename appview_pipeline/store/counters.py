"""Counters recounted: `post_agg` and `profile_agg` against the rows that they count (sql/repair/counters.sql)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.sql import sections

TABLES: dict[str, tuple[str, ...]] = {
    "post_agg": ("likes", "replies", "reposts", "quotes", "bookmarks"),
    "profile_agg": ("followers", "follows", "posts"),
}
"""The counter tables of schema bsky, and what each counts, in the order of `RewrittenCounter.had` and `.has`."""

_SECTIONS = {"post_agg": "posts", "profile_agg": "profiles"}


class RewrittenCounter(NamedTuple):
    """A counter row that differed: its URI or DID, its counters before, and what they are now."""

    key: str
    had: tuple[int, ...]
    has: tuple[int, ...]


@dataclass
class Recount:
    """Keys compared, and the rows that differed. `reached`: the last key compared; None: it was the table's last."""

    compared: int = 0
    changes: list[RewrittenCounter] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    reached: str | None = None


def prepare_recount(connection: Connection) -> None:
    """Makes the temporary tables that recounting needs on a connection."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/staging.sql")[""])
    connection.commit()


def recount_next(connection: Connection, table: str, after: str, limit: int, *, rewrite: bool) -> Recount:
    """Recounts the counters of the next keys after `after`, some `limit` of them, in one transaction.

    With `rewrite` those that differ are set right; without, nothing is written or locked. Keys without a counter row
    count as zeros.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL jit = off")
        until = _execute(cursor, table, "next", {"after": after, "limit": limit})[0][0]
        _execute(cursor, table, "from", {"after": after, "until": until})
        recount = Recount(cursor.rowcount, reached=until)
        _execute(cursor, table, "that_differ")
        cursor.execute("SELECT key FROM recount ORDER BY key")
        recount.differing = [key for (key,) in cursor.fetchall()]
        if rewrite and recount.differing:
            recount.changes = _rewrite(cursor, table)
        cursor.execute(sections("repair/counters.sql")["clear"])
    connection.commit()
    return recount


def recount_moved(cursor: Cursor, table: str) -> list[RewrittenCounter]:
    """Sets the counters right that the transaction's `delta_*` rows name. Part of a rerun's chunk."""
    _execute(cursor, table, "moved")
    changes: list[RewrittenCounter] = []
    if cursor.rowcount:
        _execute(cursor, table, "that_differ")
        cursor.execute("SELECT count(*) FROM recount")
        row = cursor.fetchone()
        if row is not None and row[0]:
            changes = _rewrite(cursor, table)
        cursor.execute(sections("repair/counters.sql")["clear"])
    return changes


def recount_subjects(connection: Connection, table: str, limit: int) -> Recount:
    """Sets the counters of the next `limit` subjects of a rerun right, in one transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL jit = off")
        _execute(cursor, table, "subjects", {"limit": limit})
        recount = Recount(cursor.rowcount)
        if recount.compared:
            _execute(cursor, table, "that_differ")
            cursor.execute("SELECT count(*) FROM recount")
            row = cursor.fetchone()
            if row is not None and row[0]:
                recount.changes = _rewrite(cursor, table)
            cursor.execute(sections("repair/counters.sql")["clear"])
    connection.commit()
    return recount


def position(connection: Connection, table: str) -> str:
    """Where the rotating recount of a table goes on: after this key."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/counters.sql")["position"], {"name": table})
        row = cursor.fetchone()
    connection.commit()
    return str(row[0]) if row is not None else ""


def advance(connection: Connection, table: str, until: str | None) -> None:
    """Remembers that the rotating recount has come to the key `until`; None: a round is complete."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/counters.sql")["advance"], {"name": table, "until": until})
    connection.commit()


def _rewrite(cursor: Cursor, table: str) -> list[RewrittenCounter]:
    """Locks and rewrites the rows of the keys in `recount`."""
    _execute(cursor, table, "lock")
    return [RewrittenCounter(key, tuple(had), tuple(has)) for key, had, has in _execute(cursor, table, "rewrite")]


def _execute(cursor: Cursor, table: str, name: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    cursor.execute(sections("repair/counters.sql")[f"{_SECTIONS[table]}_{name}"], parameters)
    return cursor.fetchall() if cursor.description else []
