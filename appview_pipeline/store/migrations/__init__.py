"""Alembic's script folder. Each revision in `versions/` runs one readable file of `sql/schema`.

To add one: write `sql/schema/NNNN_what.sql`, copy the newest file of `versions/`, and set its three names. Migrations
only go forward; the effect of a released one never changes. Each runs in its own transaction, in which the version
changes, too.

What takes long on a large table has no place in that transaction, because it would lock others out until the end. It
is in a file of the same name in `sql/schema/online`, which runs first and may be repeated (CONTRIBUTING.md).
"""

from __future__ import annotations

import logging
import re
from typing import cast

from alembic import op
from psycopg2 import sql as names
from psycopg2.extensions import connection as PsycopgConnection

from appview_pipeline.store import sql

log = logging.getLogger(__name__)

_INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS (\w+) ON (\w+)\.")


def run(name: str) -> None:
    """Runs a whole SQL file on the migration's connection, as it stands (no parameters, `%` and `:` mean nothing)."""
    _execute(_connection(), name, sql.read(name))


def run_online(name: str) -> None:
    """Runs the statements of a SQL file one by one, each by itself, while others read and write the tables.

    They are repeated when the migration is interrupted before its transaction commits, so each has to end in the same
    state when it runs again. An index that an interrupted build has left invalid is dropped and built again.
    """
    with op.get_context().autocommit_block():
        connection = _connection()
        for section, text in sql.sections(name).items():
            if not text:  # of the file's head
                continue
            if index := _INDEX.match(text):
                _build_index(connection, f"{name} {section}", text, schema=index[2], index=index[1])
            else:
                _execute(connection, f"{name} {section}", text)


def _build_index(connection: PsycopgConnection, name: str, text: str, *, schema: str, index: str) -> None:
    """Builds an index beside others' work. It waits for transactions that are older than itself, however long these
    take, for nobody waits for it meanwhile."""
    statements = sql.sections("report/migration.sql")
    with connection.cursor() as cursor:
        cursor.execute(statements["short_wait"])
        (short_wait,) = cursor.fetchone() or ("",)
        cursor.execute(statements["unlimited_wait"])
        try:
            cursor.execute(statements["invalid_index"], {"schema": schema, "index": index})
            if cursor.fetchone() is not None:
                log.info("%s: an interrupted migration has left %s unfinished; it is built again", name, index)
                cursor.execute(names.SQL(statements["drop_index"]).format(index=names.Identifier(schema, index)))
            _execute(connection, name, text)
        finally:
            if not connection.closed:
                cursor.execute(statements["wait"], {"wait": short_wait})


def _execute(connection: PsycopgConnection, name: str, text: str) -> None:
    connection.notices.clear()
    with connection.cursor() as cursor:
        cursor.execute(text)
    for notice in connection.notices:
        log.info("%s: %s", name, notice.strip())


def _connection() -> PsycopgConnection:
    return cast(PsycopgConnection, op.get_bind().connection.driver_connection)
