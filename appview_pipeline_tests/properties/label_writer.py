"""A process that applies a labeler's stream from its cursor on, and may kill itself at any statement."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from psycopg2.extensions import connection as Connection

from appview_pipeline.settings import Settings
from appview_pipeline.store.labels import LabelBatch, LabelerProgress, LabelRow, apply_labels
from appview_pipeline_tests.support.statement_hooks import HookedDatabase


def write_from_cursor(url: str, said: Sequence[LabelRow], size: int, die_at: int) -> None:
    """Applies the label events of `said`, of one labeler with the numbers 1, 2, ..., `size` in a batch, from its cursor
    on. Kills itself after the statement `die_at` of the second batch; the COMMIT is one too."""
    batches = statements = 0

    @contextmanager
    def around(name: str, connection: Connection) -> Iterator[None]:
        nonlocal statements
        yield
        statements += 1
        if batches == 2 and statements == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    database = HookedDatabase(url, Settings(database_url=url), around)
    src = said[0].src
    with database.connect("reader") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT endpoint, cursor FROM pipeline.labeler WHERE did = %s", (src,))
        ((endpoint, at),) = cursor.fetchall()
    while at < len(said):
        rows = said[at : at + size]
        batches, statements = batches + 1, 0
        progress = LabelerProgress(src, endpoint, at, at + len(rows), frames=len(rows), labels=len(rows))
        with database.connect("writer") as connection:
            report = apply_labels(connection, LabelBatch(rows, [progress]))
        assert not report.moved
        at += len(rows)
    database.close()
