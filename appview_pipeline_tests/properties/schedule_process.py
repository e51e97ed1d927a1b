"""What Dagster's schedules do about gaps, repositories and deleted accounts, as a process that may be killed.

`python -m appview_pipeline_tests.properties.schedule_process` calls the same functions as the jobs `close_gaps`,
`backfill` and `remove_accounts`, one after the other, again and again. It ends when its standard input does.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone

from appview_pipeline.backfill.listing import list_network
from appview_pipeline.backfill.survey import close_stream_gaps
from appview_pipeline.backfill.worker import work
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.logs import configure
from appview_pipeline.settings import load
from appview_pipeline.store.database import open_database
from appview_pipeline.store.gaps import sweep_gaps
from appview_pipeline.store.session_lock import LockTaken

LIST_SECONDS = 10.0
"""Between two listings of the network; the job `backfill` does it every half hour."""
PAUSE_SECONDS = 0.5
BUDGET_SECONDS = 20.0


def _wait_for_the_end(over: threading.Event) -> None:
    sys.stdin.buffer.read()
    over.set()


def main() -> None:
    settings = load()
    configure(settings, "schedules")
    over = threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(over,), daemon=True).start()
    database = open_database(settings)
    listed = -LIST_SECONDS
    try:
        while not over.is_set():
            # A lock is held a little longer by the session of a process that was killed.
            with suppress(LockTaken):
                close_stream_gaps(settings, database, stopped=over.is_set)
            with database.connect("maintenance") as connection:
                sweep_gaps(connection, datetime.now(timezone.utc) - timedelta(days=30))
            if time.monotonic() - listed >= LIST_SECONDS:
                listed = time.monotonic()
                with suppress(LockTaken):
                    list_network(settings, database, max_seconds=BUDGET_SECONDS, stopped=over.is_set)
            for urgent in (True, False):
                work(settings, database, urgent=urgent, max_seconds=BUDGET_SECONDS, stopped=over.is_set)
            with suppress(LockTaken):
                remove_accounts(settings, database, stopped=over.is_set)
            over.wait(PAUSE_SECONDS)
    finally:
        database.close()


if __name__ == "__main__":
    main()
