"""Where in the whole database something is named: an account, a text that only it wrote."""

from __future__ import annotations

from collections import Counter

from appview_pipeline_tests.support.database import connect

Traces = Counter[tuple[str, str]]
"""Rows (`schema.table`, its columns as text) that hold one of the marks, each as often as it is there."""

_COLUMNS = """
    SELECT c.oid::regclass::text, array_agg(a.attname::text), array_agg(a.atttypid = 'bytea'::regtype)
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace IN ('bsky'::regnamespace, 'pipeline'::regnamespace) AND c.relkind IN ('r', 'm', 'p')
    GROUP BY c.oid
    ORDER BY 1
"""


def traces(url: str, *marks: str) -> Traces:
    """All rows of schemas `bsky` and `pipeline` of which any column, as text or bytes, holds one of `marks`."""
    found: Traces = Counter()
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path = pg_catalog")
        cursor.execute(_COLUMNS)
        for table, columns, are_bytes in cursor.fetchall():
            conditions, parameters = [], list[str | bytes]()
            for column, is_bytes in zip(columns, are_bytes, strict=True):
                for mark in marks:
                    name = f't."{column}"'
                    conditions.append(
                        f"position(%s::bytea IN {name}) > 0" if is_bytes else f"position(%s IN {name}::text) > 0"
                    )
                    parameters.append(mark.encode() if is_bytes else mark)
            cursor.execute(f"SELECT t::text FROM {table} t WHERE {' OR '.join(conditions)}", parameters)
            found.update((table.replace('"', ""), row) for (row,) in cursor.fetchall())
    return found


def tables_of(found: Traces) -> set[str]:
    """The tables that they are in."""
    return {table for table, _ in found}
