"""The locks that make a consumer the only one of its stream, and its layout of shards the only one of its relay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

from psycopg2.extensions import connection as Connection

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.shards import Shard
from appview_pipeline.store.database import Database
from appview_pipeline.store.session_lock import LockTaken, SessionLock, lock_key, session_lock


def stream_lock_name(relay: str, shard: str) -> str:
    """The name of the lock of a stream, or of one shard of it."""
    return f"consumer {relay} {shard}"


class StreamLock(SessionLock):
    """The held lock of a stream."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, "the consumer", "the stream's lock")

    def keep_to_layout(
        self,
        relay: str,
        shard: Shard,
        *,
        stopped: Callable[[], bool] = lambda: False,
        patience: float = backoff.SESSION_LOCK.longest,
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
            time.sleep(backoff.SESSION_LOCK.every)


@contextmanager
def stream_lock(
    database: Database,
    relay: str,
    shard: str,
    *,
    stopped: Callable[[], bool] = lambda: False,
    patience: float = backoff.SESSION_LOCK.longest,
) -> Iterator[StreamLock]:
    """Holds the advisory lock of (relay, shard) for the block, on a connection of its own.

    Waits up to `patience` seconds for another consumer that holds it. Raises `LockTaken`, also when `stopped` says to
    give up, and `OperatorError` when the database can't be reached.
    """
    taken = f"another consumer is at work on {relay} ({shard})"
    name = stream_lock_name(relay, shard)
    with session_lock(database, name, taken=taken, stopped=stopped, patience=patience) as connection:
        yield StreamLock(connection)


def _join_layout(connection: Connection, relay: str, count: int) -> list[int]:
    """Takes part in the layout of `count` shards, unless others are alive: returns their counts, empty for success.

    Consumers of a layout share a lock named by (relay, count); pg_locks shows the holders for the same relay. A third
    lock makes looking and taking one step.
    """
    layouts = int.from_bytes(blake2b(f"layouts {relay}".encode(), digest_size=4).digest(), "big", signed=True)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(stream_lock_name(relay, "layouts")),))
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
