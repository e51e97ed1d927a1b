"""Alembic's script folder. Each revision in `versions/` runs one readable file of `sql/schema`.

To add one: write `sql/schema/NNNN_what.sql`, copy the newest file of `versions/`, and set its three names. Migrations
only go forward; the effect of a released one never changes. Each runs in its own transaction.
"""

from __future__ import annotations

import logging
from typing import cast

from alembic import op
from psycopg2.extensions import connection as PsycopgConnection

from appview_pipeline.store import sql

log = logging.getLogger(__name__)


def run(name: str) -> None:
    """Runs a whole SQL file on the migration's connection, as it stands (no parameters, `%` and `:` mean nothing)."""
    connection = cast(PsycopgConnection, op.get_bind().connection.driver_connection)
    connection.notices.clear()
    with connection.cursor() as cursor:
        cursor.execute(sql.read(name))
    for notice in connection.notices:
        log.info("%s: %s", name, notice.strip())
