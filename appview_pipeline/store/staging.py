"""COPY into the staging tables: rows of Python values to PostgreSQL's text format."""

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
    names = ", ".join(f'"{column}"' for column in columns)
    # In one piece: between two reads psycopg2 would wait for the interpreter's lock, which the decoding thread holds.
    cursor.copy_expert(
        f"COPY pg_temp.{table} ({names}) FROM STDIN WITH (NULL E'\\x01', ENCODING 'UTF8')", io.BytesIO(text), len(text)
    )
