"""The staging tables, and COPY into them: rows of Python values to PostgreSQL's text format."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from psycopg2.extensions import cursor as Cursor

Value = str | int | bool | bytes | None

# A character that real text hardly ever holds stands for NULL; where text does hold it, it is escaped.
_NULL = "\x01"
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", _NULL: "\\x01", "\0": ""}
_SPECIAL = re.compile("[\\\\\t\n\r\x01\0]")


# A row of a table has 8,160 bytes of a page; in COPY's text it is shorter by what lengths and alignment take.
_MAX_IN_PAGE = 7_000


def make_tables(cursor: Cursor, statements: str) -> None:
    """Runs CREATE TEMPORARY TABLE `statements`, each column on a line of its own; values stay in the tables' own pages.

    Every commit empties all staging tables, used or not, and rebuilds the index of each one's TOAST table, which costs
    an eighth of a millisecond a table. A table without a TOAST table does not cost that. `copy_encoded` adds one when a
    row does not fit into a page. Tables marked `-- long rows` are filled by SQL and have one from the beginning.
    """

    def in_pages(table: re.Match[str]) -> str:
        return re.sub(r"^(  \w+ (?:text|jsonb|bytea))\b", r"\1 STORAGE PLAIN", table[0], flags=re.MULTILINE)

    # STORAGE in CREATE TABLE is new in PostgreSQL 16; without it a commit takes some milliseconds longer.
    if cursor.connection.server_version >= 160_000:
        statements = re.sub(
            r"^CREATE TEMPORARY TABLE (?:IF NOT EXISTS )?\w+ \((?! *-- long rows).*?;$",
            in_pages,
            statements,
            flags=re.MULTILINE | re.DOTALL,
        )
    cursor.execute(statements)


def _make_room(cursor: Cursor, table: str) -> None:
    """Gives a temporary table that holds its values in its pages a TOAST table, for as long as the session lives."""
    cursor.execute(
        "SELECT attname FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attlen = -1 AND attstorage = 'p' AND attnum > 0",
        (f"pg_temp.{table}",),
    )
    if columns := [name for (name,) in cursor.fetchall()]:
        storage = ", ".join(f'ALTER COLUMN "{name}" SET STORAGE EXTENDED' for name in columns)
        cursor.execute(f"ALTER TABLE pg_temp.{table} {storage}")


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES[match[0]]


def _field(value: Value) -> str:
    if value is None:
        return _NULL
    if type(value) is str:
        return _SPECIAL.sub(_escape, value) if _SPECIAL.search(value) else value
    if value is True:
        return "t"
    if value is False:
        return "f"
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    return str(value)


def copy_text(rows: Sequence[Sequence[Value]]) -> bytes:
    """Rows in COPY's text format with the NULL marker of `copy_rows`.

    Any text comes back as it was, but for U+0000, which PostgreSQL can't hold and which is dropped.
    """
    columns = len(rows[0])
    try:
        text = "\n".join(["\t".join([_NULL if value is None else value for value in row]) for row in rows])  # type: ignore[misc]
    except TypeError:
        pass  # a value that is no text: each field on its own
    else:
        # Nearly all batches of likes, reposts and follows hold nothing to escape; seeing that takes one pass each.
        plain = (
            "\\" not in text
            and "\0" not in text
            and "\r" not in text
            and text.count("\t") == len(rows) * (columns - 1)
            and text.count("\n") == len(rows) - 1
            and text.count(_NULL) == sum(row.count(None) for row in rows)
        )
        if plain:
            return text.encode() + b"\n"
    return "".join(["\t".join([_field(value) for value in row]) + "\n" for row in rows]).encode()


def copy_rows(cursor: Cursor, table: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
    """Copies `rows` into the temporary `table`; the values stand in the order of `columns`."""
    if rows:
        copy_encoded(cursor, table, columns, copy_text(rows))


def copy_encoded(cursor: Cursor, table: str, columns: Sequence[str], text: bytes) -> None:
    """Copies what `copy_text` made of rows into the temporary `table`."""
    if len(text) > _MAX_IN_PAGE and max(map(len, text.split(b"\n"))) > _MAX_IN_PAGE:
        _make_room(cursor, table)
    names = ", ".join(f'"{column}"' for column in columns)
    # In one piece: between two reads psycopg2 would wait for the interpreter's lock, which the decoding thread holds.
    cursor.copy_expert(
        f"COPY pg_temp.{table} ({names}) FROM STDIN WITH (NULL E'\\x01', ENCODING 'UTF8')", io.BytesIO(text), len(text)
    )
