"""Records that are older than they are kept, and what goes with them (sql/sweep/retention.sql)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import BatchToApply
from appview_pipeline.store.placeholders import filled
from appview_pipeline.store.sql import sections
from appview_pipeline.store.statements import run

_FILE = "sweep/retention.sql"
RETENTION = "retention"
"""`source` of the `Writer` that deletes old records, and name of the sweep in `pipeline.sweep`."""
MAX_LEVELS = 1_000
"""Levels of a thread that are looked at for states that nothing needs any more."""

OUTCOMES = {
    "deleted": "deleted",
    "protected": "kept: the account is protected",
    "followed": "kept: a protected account follows the account",
    "said again": "kept: a newer record says the same",
}
"""What becomes of old records, in words."""


@dataclass(frozen=True)
class OldRows:
    """Old rows of a table, and what becomes of them: a key of `OUTCOMES`."""

    kind: str
    outcome: str
    rows: int


def followed_accounts(connection: Connection, protected: Collection[str]) -> frozenset[str]:
    """The accounts that these follow."""
    if not protected:
        return frozenset()
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["protected"], {"protected": list(protected)})
        return frozenset(did for (did,) in cursor.fetchall())


def accounts_not_known(connection: Connection, protected: Collection[str]) -> list[str]:
    """Those of these accounts of which it is not known whom they follow, because they are not indexed whole."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["unknown"], {"protected": list(protected)})
        return [did for (did,) in cursor.fetchall()]


def accounts_with_old_records(
    connection: Connection, after: str, limit: int, *, protected: Collection[str], before: str
) -> tuple[str | None, list[str]]:
    """Looks at `limit` repositories after the DID `after`. Returns the last of them (None: there are no more), and
    those with records from before `before` (ISO 8601, UTC, milliseconds) whose accounts are not protected."""
    with connection.cursor() as cursor:
        cursor.execute(
            sections(_FILE)["accounts"],
            {"after": after, "limit": limit, "protected": list(protected), "before": before},
        )
        ((last, dids),) = cursor.fetchall()
    return last, dids


def old_records(connection: Connection, did: str, limit: int, before: str) -> list[str]:
    """The URIs of about `limit` old records of an account, with those that go with them."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["records"], {"did": did, "limit": limit, "before": before})
        return [uri for (uri,) in cursor.fetchall()]


def count_old(connection: Connection, *, protected: Collection[str], before: str) -> list[OldRows]:
    """Counts old rows by table and outcome. Reads the tables whole."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["count"], {"protected": list(protected), "before": before})
        return [OldRows(*row) for row in cursor.fetchall()]


def lock_batch(cursor: Cursor) -> None:
    """In a batch of deletions by retention: locks the repositories, as every writer does first."""
    cursor.execute(sections(_FILE)["lock"])


def forget_batch(cursor: Cursor, batch: BatchToApply) -> None:
    """In a batch of deletions by retention, after everything else: removes what no record covers."""
    statements = filled(batch.effects, _FILE)
    run(cursor, statements, "thread_places", "dependencies")
    uris: Sequence[str] = [str(row[0]) for row in batch.rows["stage_delete"]]
    for _ in range(MAX_LEVELS):
        if not uris:
            break
        cursor.execute(statements["states"], {"uris": list(uris)})
        uris = [uri for (uri,) in cursor.fetchall()]
    run(cursor, statements, "deletions", "post_counters")
