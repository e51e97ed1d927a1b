"""Advisory locks that a process holds for as long as it works, on a connection of their own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b

import psycopg2
from psycopg2.extensions import connection as Connection

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.store import database_url
from appview_pipeline.store.database import Database
from appview_pipeline.store.operator_errors import first_line

log = logging.getLogger(__name__)


class LockTaken(Exception):
    """Another process holds the lock."""


class LockLost(Exception):
    """The connection that held the lock has ended; another process need not be at work."""


def lock_key(name: str) -> int:
    """The advisory lock's number: the same for all who give the same name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


class SessionLock:
    """A held session lock. It lives as long as its connection; `ensure` notices when that has gone."""

    def __init__(self, connection: Connection, holder: str, lock: str) -> None:
        """`holder` and `lock` are words for a sentence: "the consumer" holds "the stream's lock"."""
        self._connection = connection
        self._holder = holder
        self._lock = lock
        self._checked = time.monotonic()

    def ensure(self) -> None:
        """Raises `LockLost` when the lock is no longer ours (the server restarted, say). Cheap to call often."""
        if time.monotonic() - self._checked < backoff.SESSION_LOCK_CHECK_SECONDS:
            return
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error as error:
            raise LockLost(
                f"The database connection that held {self._lock} is gone ({first_line(error)}); {self._holder} ends, "
                "since its place is free for another, and is started again"
            ) from error
        self._checked = time.monotonic()


@contextmanager
def session_lock(
    database: Database,
    name: str,
    *,
    taken: str,
    stopped: Callable[[], bool] = lambda: False,
    patience: float = backoff.SESSION_LOCK.longest,
) -> Iterator[Connection]:
    """Holds the advisory lock `name` for the block; gives the connection that holds it, which has no other use.

    Waits up to `patience` seconds for another process that holds it. `taken`: the sentence (without its end) that says
    so. Raises `LockTaken`, also when `stopped` says to give up, and `OperatorError` when the database can't be reached
    or can't be written to.
    """
    with database.dedicated("writer") as connection:
        refuse_standby(connection, database)
        deadline = time.monotonic() + patience
        waiting = False
        while not _try(connection, name):
            if stopped() or time.monotonic() >= deadline:
                raise LockTaken(taken)
            if not waiting:
                log.info("%s; waiting for it to end", taken[:1].upper() + taken[1:])
                waiting = True
            time.sleep(backoff.SESSION_LOCK.every)
        try:
            yield connection
        finally:
            # The end of the connection frees the lock too, but the server may notice that a moment later.
            with suppress(psycopg2.Error), connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", (lock_key(name),))


def refuse_standby(connection: Connection, database: Database) -> None:
    """Raises `OperatorError` where the server can't be written to."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        if cursor.fetchone() == (True,):
            raise OperatorError(
                f"{database_url.describe(database.url)} is a standby, which can't be written to: name the primary in "
                "APPVIEW_DATABASE_URL, or let libpq find it among several hosts (?target_session_attrs=read-write)."
            )


def _try(connection: Connection, name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (lock_key(name),))
        return cursor.fetchone() == (True,)
