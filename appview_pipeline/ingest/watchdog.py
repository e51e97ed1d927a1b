"""A warning while a batch takes long: how long, at which statement, and which sessions hold the lock it waits for.

A thread looks at the writer every second or two. It asks PostgreSQL only about a batch that is slow already, on a
connection of its own, because all of the pool's connections may be in use.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.transactions import AtWork
from appview_pipeline.store.activity import statement_of
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0


class AtWorkWriter(Protocol):
    """A writer of whatever kind, as it is watched."""

    @property
    def at_work(self) -> AtWork | None:
        """The write under way."""
        ...


class Watchdog:
    """Watches `writer` for the block. A batch that takes `slow_seconds` is a warning, and another one each time that
    its time has doubled."""

    def __init__(self, database: Database, writer: AtWorkWriter, slow_seconds: float) -> None:
        self._database = database
        self._writer = writer
        self._slow_seconds = slow_seconds
        self._ended = threading.Event()
        self._since = 0.0
        self._due = slow_seconds
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(1.0)  # it may be waiting for PostgreSQL, and is no reason to wait for it

    def _watch(self) -> None:
        while not self._ended.wait(min(_LOOK_SECONDS, self._slow_seconds / 4)):
            if (sentence := self.look()) is not None and not self._ended.is_set():
                log.warning("%s", sentence)

    def look(self) -> str | None:
        """The warning that is due now, if any."""
        at_work = self._writer.at_work
        if at_work is None:
            return None
        if at_work.since != self._since:
            self._since, self._due = at_work.since, self._slow_seconds
        seconds = time.monotonic() - at_work.since
        if seconds < self._due:
            return None
        self._due = 2 * seconds
        changes = "1 change" if at_work.changes == 1 else f"{at_work.changes:,} changes"
        return f"A batch of {changes} has been at work for {seconds:.0f} s, {self._where(at_work.backend)}"

    def _where(self, backend: int | None) -> str:
        if backend is None:
            return "now waiting to be tried again"
        try:
            with self._database.dedicated("reader") as connection:
                statement = statement_of(connection, backend)
        except (DatabaseError, OperatorError) as error:
            return f"and PostgreSQL can't be asked where it is ({error})"
        if statement is None:
            return "now between two statements"
        where = f"now at {statement.name} ({statement.seconds:.0f} s)"
        if statement.blocked_by:
            where += f", which waits for a lock of {' and '.join(statement.blocked_by)}"
        return where
