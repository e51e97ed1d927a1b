"""Excluded accounts: nothing new of them is stored, because they forbid it or because they were deleted.

`pipeline.repo.excluded` says so (sql/schema/0018_privacy.sql). A batch looks at it once it holds the locks that whoever
excludes an account waits for, so nothing that anybody remembers can be outdated.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import BatchToApply, ExclusionChanged
from appview_pipeline.store.sql import sections

CHANNEL = "appview_privacy"
"""Channel that is notified of an account's DID when its setting changes, for processes that remember accounts."""


def check_excluded(cursor: Cursor, batch: BatchToApply, excluded: Set[str]) -> frozenset[str]:
    """Returns the excluded accounts of the batch; `excluded`: those among them whose repositories it has locked.

    What it finds holds until the commit. Raises `ExclusionChanged` where the batch has content of one of them, or where
    content was taken out of it (`batch.withheld`) that may be stored.
    """
    locked = {row[0] for row in batch.rows.get("stage_repo", ())} if batch.withheld else frozenset[str]()
    if unlocked := (batch.others | batch.withheld) - locked:
        hold_exclusions(cursor)
        cursor.execute(sections("apply/excluded.sql")["find"], {"dids": list(unlocked)})
        excluded = excluded | {did for (did,) in cursor.fetchall()}
    refused = batch.content_of(excluded) if excluded else frozenset[str]()
    allowed = batch.withheld - excluded
    if refused or allowed:
        raise ExclusionChanged(refused, allowed)
    return frozenset(excluded)


def hold_exclusions(cursor: Cursor) -> None:
    """Makes whoever opts an account out wait until this transaction has ended, for writers that lock no repositories.

    What the next statement reads of exclusions holds until the commit.
    """
    cursor.execute(sections("apply/excluded.sql")["lock"])


def forget_deletes(cursor: Cursor, batch: BatchToApply) -> None:
    """Removes what the batch has stored of deletions by excluded accounts of records that were never known."""
    if batch.rows.get("stage_delete") or batch.rows.get("stage_superseded"):
        cursor.execute(sections("apply/excluded.sql")["forget"])


def drop_gaps(cursor: Cursor) -> None:
    """Drops the gaps that the batch found in excluded accounts' repositories."""
    cursor.execute(sections("apply/excluded.sql")["gaps"])


def drop_notifications(cursor: Cursor) -> None:
    """Drops the notifications that excluded accounts would cause and that are not stored yet."""
    cursor.execute(sections("apply/excluded.sql")["notifications"])


def excluded_of(connection: Connection, dids: Collection[str]) -> frozenset[str]:
    """Those of these accounts that are excluded now."""
    with connection.cursor() as cursor:
        possible = [did for did in dids if "\0" not in did]  # PostgreSQL holds no others
        cursor.execute(sections("apply/excluded.sql")["find"], {"dids": possible})
        return frozenset(did for (did,) in cursor.fetchall())


@dataclass(frozen=True)
class OptedOut:
    """An account that forbids the collection of its data. `purge`: None where none was asked for, else "requested",
    "running" or "finished"; `handle`: the verified one, where one is known."""

    did: str
    handle: str | None
    since: datetime
    purge: str | None


def forbid(connection: Connection, did: str, *, purge: bool = False) -> bool:
    """Forbids the collection of an account's data; with `purge` what is stored is removed as well. Commits.

    Returns whether anything has changed. Once it returns, nothing new of the account is stored.
    """
    return _switch(connection, "forbid", did, purge)


def allow(connection: Connection, did: str) -> bool:
    """Allows it again, and queues the repository to be fetched whole. Commits. Returns whether anything has changed."""
    return _switch(connection, "allow", did, False)


def _switch(connection: Connection, statement: str, did: str, purge: bool) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(sections("privacy/setting.sql")[statement], {"did": did, "purge": purge})
        ((changed,),) = cursor.fetchall()
    connection.commit()
    return bool(changed)


def opted_out(connection: Connection) -> list[OptedOut]:
    """The accounts that forbid the collection of their data, the longest first."""
    with connection.cursor() as cursor:
        cursor.execute(sections("privacy/setting.sql")["list"])
        return [OptedOut(*row) for row in cursor.fetchall()]


def settings_of(connection: Connection, dids: Sequence[str]) -> dict[str, bool]:
    """What accounts have asked for here: True where they forbid the collection of their data, False where they have
    allowed it again; the others have asked for nothing."""
    with connection.cursor() as cursor:
        cursor.execute(sections("privacy/setting.sql")["known"], {"dids": list(dids)})
        return dict(cursor.fetchall())


def holders_of_handle(connection: Connection, handle: str) -> Sequence[str]:
    """The DIDs of accounts that have this handle, verified in both directions: one, or none."""
    with connection.cursor() as cursor:
        cursor.execute(sections("privacy/setting.sql")["holders"], {"handle": handle.lower()})
        return [did for (did,) in cursor.fetchall()]
