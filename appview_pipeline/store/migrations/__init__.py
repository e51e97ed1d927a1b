"""Alembic's script folder. Each revision in `versions/` runs one readable file of `sql/schema`.

To add one: write `sql/schema/NNNN_what.sql`, copy the newest file of `versions/`, and set its three names. Migrations
only go forward; what was released is never edited. Each runs in its own transaction.
"""

from __future__ import annotations

from alembic import op

from appview_pipeline.store import sql


def run(name: str) -> None:
    """Runs a whole SQL file on the migration's connection, as it stands (no parameters, `%` and `:` mean nothing)."""
    cursor = op.get_bind().connection.cursor()
    cursor.execute(sql.read(name))
    cursor.close()
