"""Accounts that a process took to resolve them (`identities.take`), and gives back to their queues."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

RELEASED_AT_ONCE = 5_000


def release(connection: Connection, dids: Sequence[str]) -> int:
    """Gives these accounts back: they may be taken again at once. Returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(sections("identity/claims.sql")["release"], {"dids": list(dids)})
        return cursor.rowcount


def release_queues(connection: Connection, queues: Sequence[str]) -> int:
    """Gives all accounts of these queues back, committing every `RELEASED_AT_ONCE` of them. Returns how many.

    For the only process that takes from them, before it takes any: those that are taken belonged to a process that is
    gone.
    """
    released = 0
    while True:
        with connection.cursor() as cursor:
            values = {"queues": list(queues), "limit": RELEASED_AT_ONCE}
            cursor.execute(sections("identity/claims.sql")["release_queues"], values)
            some = cursor.rowcount
        connection.commit()
        released += some
        if some < RELEASED_AT_ONCE:
            return released
