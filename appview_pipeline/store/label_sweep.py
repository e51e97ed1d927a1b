"""Past label events that decide nothing any more are deleted by age."""

from __future__ import annotations

from datetime import datetime

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

SWEPT_AT_ONCE = 2_000
"""Label events that one transaction of a sweep looks at, with the label lock."""


def sweep_label_events(connection: Connection, before: datetime) -> int:
    """Deletes label events that were applied before `before` and decide nothing any more, committing as it goes.
    Returns how many."""
    deleted, looked_at = 0, 1
    while looked_at:
        with connection.cursor() as cursor:
            cursor.execute(sections("apply/label.sql")["lock"])
            cursor.execute(sections("sweep/label_event.sql")[""], {"before": before, "limit": SWEPT_AT_ONCE})
            ((looked_at, gone),) = cursor.fetchall()
        connection.commit()
        deleted += gone
    return deleted
