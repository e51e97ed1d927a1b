"""Running the statements of sql/: several in turn, and those that return one number."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg2.extensions import cursor as Cursor


def run(cursor: Cursor, statements: Mapping[str, str], *names: str) -> None:
    """Runs statements of a file, by name, in this order."""
    for name in names:
        cursor.execute(statements[name])


def run_for_number(cursor: Cursor, statement: str) -> int:
    """Runs a statement, which may well write, and returns the one number that it returns."""
    cursor.execute(statement)
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def count_rows(cursor: Cursor, table: str) -> int:
    """The number of rows of a temporary table."""
    return run_for_number(cursor, f"SELECT count(*) FROM {table}")
