"""What the index holds of one repository, in the order of an export (sql/backfill/compare.sql)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.database import Database
from appview_pipeline.store.sql import sections

PAGE_ROWS = 10_000
"""Rows read in one statement; a row is some 200 bytes."""
PAGE_ROWS_WITH_JSON = 500
"""The same with the records' JSON, which may be a megabyte each."""


class IndexedState(NamedTuple):
    """What is known of a record: its state, or with `cid` None that it was deleted, as of `rev` (None: not known)."""

    path: str
    cid: str | None
    rev: str | None
    json: str | None = None


def indexed_states(
    database: Database, did: str, *, with_json: bool = False, page_rows: int | None = None
) -> Iterator[IndexedState]:
    """Yields what is known of the records of a repository, each path once, in the order of paths as bytes.

    Reads a page at a time, each in a transaction of its own: however long the caller takes between two pages, no
    snapshot is held open meanwhile. What is written to paths that were read before is not seen.
    """
    prefix, end = f"at://{did}/", f"at://{did}0"
    limit = page_rows or (PAGE_ROWS_WITH_JSON if with_json else PAGE_ROWS)
    assert limit > 2, "a path has up to two rows, and the next page begins with the last path of this one"
    first = prefix
    while True:
        with database.connect("reader") as connection:
            found = _page(connection, first, end, limit, with_json=with_json)
        is_full = len(found) == limit
        at = 0
        while at < len(found):
            uri = found[at][0]
            if is_full and uri == found[-1][0]:
                break  # its other row may be on the next page
            state = IndexedState(uri[len(prefix) :], *found[at][1:])
            at += 1
            if at < len(found) and found[at][0] == uri:
                other = IndexedState(uri[len(prefix) :], *found[at][1:])
                state = state if state.cid is not None else other  # a stored record is newer than its tombstone
                at += 1
            yield state
        if not is_full:
            return
        first = found[-1][0]


def indexed_state(connection: Connection, did: str, path: str) -> IndexedState | None:
    """What is known of one record; None: nothing."""
    uri = f"at://{did}/{path}"
    found = sorted(_page(connection, uri, f"{uri}\x01", 2, with_json=False), key=lambda row: row[1] is None)
    return IndexedState(path, *found[0][1:]) if found else None


def _page(
    connection: Connection, first: str, end: str, limit: int, *, with_json: bool
) -> list[tuple[str, str | None, str | None]]:
    statement = sections("backfill/compare.sql")["states_with_json" if with_json else "states"]
    with connection.cursor() as cursor:
        cursor.execute(statement, {"first": first, "end": end, "limit": limit})
        return cursor.fetchall()
