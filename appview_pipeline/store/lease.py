"""The lock that makes a consumer the only one of its stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

import psycopg2
from psycopg2.extensions import connection as Connection

from appview_pipeline.store.database import Database

log = logging.getLogger(__name__)

PATIENCE = 12.0
"""Seconds to wait for a lock that another holds: as long as an outgoing consumer may take to end."""
_POLL = 0.25
_CHECK_EVERY = 1.0


class LockTaken(Exception):
    """Another consumer holds the stream's lock."""


def _key(relay: str, shard: str) -> int:
    """The advisory lock's number: the same for everybody who names the same stream."""
    digest = blake2b(f"consumer {relay} {shard}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class StreamLock:
    """A held session lock. It lives as long as its connection; `ensure` notices when that has gone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._checked = time.monotonic()

    def ensure(self) -> None:
        """Raises `LockTaken` when the lock is no longer ours (the server restarted, say). Cheap to call often."""
        if time.monotonic() - self._checked < _CHECK_EVERY:
            return
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error as error:
            raise LockTaken("the connection that held the stream's lock is gone") from error
        self._checked = time.monotonic()


@contextmanager
def stream_lock(
    database: Database, relay: str, shard: str, stopped: Callable[[], bool] = lambda: False, patience: float = PATIENCE
) -> Iterator[StreamLock]:
    """Holds the advisory lock of (relay, shard) for the block, on a connection of its own.

    Waits up to `patience` seconds for whoever holds it. Raises `LockTaken`, also when `stopped` says to give up, and
    `OperatorError` when the database can't be reached.
    """
    with database.dedicated("writer") as connection:
        deadline = time.monotonic() + patience
        waiting = False
        while not _try(connection, relay, shard):
            if stopped() or time.monotonic() >= deadline:
                raise LockTaken(f"another consumer is at work on {relay} ({shard})")
            if not waiting:
                log.info("Another consumer is at work on %s; waiting for it to end", relay)
                waiting = True
            time.sleep(_POLL)
        yield StreamLock(connection)


def _try(connection: Connection, relay: str, shard: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (_key(relay, shard),))
        return cursor.fetchone() == (True,)
