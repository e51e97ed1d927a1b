"""The locks that make a consumer the only one of its stream, and its layout of shards the only one of its relay."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

import psycopg2
from psycopg2.extensions import connection as Connection

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.shards import Shard
from appview_pipeline.store import database_url
from appview_pipeline.store.database import Database
from appview_pipeline.store.operator_errors import first_line

log = logging.getLogger(__name__)


class LockTaken(Exception):
    """Another consumer holds the stream's lock."""


class LockLost(Exception):
    """The connection that held the stream's lock has ended; another consumer need not be at work."""


def _key(relay: str, shard: str) -> int:
    """The advisory lock's number: the same for all who name the same stream."""
    digest = blake2b(f"consumer {relay} {shard}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class StreamLock:
    """A held session lock. It lives as long as its connection; `ensure` notices when that has gone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._checked = time.monotonic()

    def keep_to_layout(
        self,
        relay: str,
        shard: Shard,
        *,
        stopped: Callable[[], bool] = lambda: False,
        patience: float = backoff.STREAM_LOCK.longest,
    ) -> None:
        """Makes sure that no consumer of another layout (another n of i/n) is at work on `relay`, nor will be.

        Waits up to `patience` seconds for those that are. Raises `OperatorError`, or `LockTaken` when `stopped`.
        """
        deadline = time.monotonic() + patience
        while others := _join_layout(self._connection, relay, shard.count):
            if stopped():
                raise LockTaken(f"asked to end while another layout was at work on {relay}")
            if time.monotonic() >= deadline:
                named = " and ".join(f"i/{count}" for count in others)
                raise OperatorError(
                    f"Consumers of another layout (APPVIEW_SHARD={named}) are at work on {relay}: stop them all before "
                    f"you start {shard}, or set APPVIEW_SHARD to one of theirs."
                )
            time.sleep(backoff.STREAM_LOCK.every)

    def ensure(self) -> None:
        """Raises `LockLost` when the lock is no longer ours (the server restarted, say). Cheap to call often."""
        if time.monotonic() - self._checked < backoff.STREAM_LOCK_CHECK_SECONDS:
            return
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error as error:
            raise LockLost(
                f"The database connection that held the stream's lock is gone ({first_line(error)}); the "
                "consumer ends, since its place is free for another, and is started again"
            ) from error
        self._checked = time.monotonic()


@contextmanager
def stream_lock(
    database: Database,
    relay: str,
    shard: str,
    *,
    stopped: Callable[[], bool] = lambda: False,
    patience: float = backoff.STREAM_LOCK.longest,
) -> Iterator[StreamLock]:
    """Holds the advisory lock of (relay, shard) for the block, on a connection of its own.

    Waits up to `patience` seconds for another consumer that holds it. Raises `LockTaken`, also when `stopped` says to
    give up, and `OperatorError` when the database can't be reached.
    """
    with database.dedicated("writer") as connection:
        _refuse_standby(connection, database)
        deadline = time.monotonic() + patience
        waiting = False
        while not _try(connection, relay, shard):
            if stopped() or time.monotonic() >= deadline:
                raise LockTaken(f"another consumer is at work on {relay} ({shard})")
            if not waiting:
                log.info("Another consumer is at work on %s (%s); waiting for it to end", relay, shard)
                waiting = True
            time.sleep(backoff.STREAM_LOCK.every)
        yield StreamLock(connection)


def _refuse_standby(connection: Connection, database: Database) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        if cursor.fetchone() == (True,):
            raise OperatorError(
                f"{database_url.describe(database.url)} is a standby, which can't be written to: name the primary in "
                "APPVIEW_DATABASE_URL, or let libpq find it among several hosts (?target_session_attrs=read-write)."
            )


def _try(connection: Connection, relay: str, shard: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (_key(relay, shard),))
        return cursor.fetchone() == (True,)


def _join_layout(connection: Connection, relay: str, count: int) -> list[int]:
    """Takes part in the layout of `count` shards, unless others are alive: returns their counts, empty for success.

    Consumers of a layout share a lock named by (relay, count); pg_locks shows the holders for the same relay. A third
    lock makes looking and taking one step.
    """
    layouts = int.from_bytes(blake2b(f"layouts {relay}".encode(), digest_size=4).digest(), "big", signed=True)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_key(relay, "layouts"),))
            cursor.execute(
                "SELECT DISTINCT objid::int FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
                "AND classid = %s AND objid::int <> %s ORDER BY 1",
                (layouts % 2**32, count),
            )
            others = [found for (found,) in cursor.fetchall()]
            if not others:
                cursor.execute("SELECT pg_advisory_lock_shared(%s, %s)", (layouts, count))
        finally:
            cursor.execute("COMMIT")
    return others
