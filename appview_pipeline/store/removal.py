"""Removals of accounts as they are stored, and the rows that no record covers (sql/account/remove.sql)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.effects import Effects
from appview_pipeline.store.placeholders import filled
from appview_pipeline.store.sql import sections
from appview_pipeline.store.statements import run_for_number

REMOVAL = "removal"
"""The source of the batches that remove records (`Report.source`)."""
REMOVAL_REV = "z" * 13
"""The rev of their deletions, `pipeline.removal_rev()`: later than any TID."""

_FILE = "account/remove.sql"

LEFT_OVER = (
    *("tombstones", "pending", "dead_letters", "gaps"),
    *("notifications_received", "notifications_sent", "muted_notifications", "thread_places"),
    *("post_counters", "label_definitions", "labeler"),
)
"""Statements that remove what no record covers, a bounded number of rows each time."""


@dataclass(frozen=True)
class Removal:
    """An account to be removed, and why: "deleted" or "opt-out"."""

    did: str
    reason: str

    @property
    def _parameters(self) -> dict[str, Any]:
        # "0" is the character after "/".
        return {"did": self.did, "start": f"at://{self.did}/", "end": f"at://{self.did}0"}


def open_removals(connection: Connection) -> int:
    """The number of removals to be done."""
    with connection.cursor() as cursor:
        return run_for_number(cursor, sections(_FILE)["queue"])


def next_removal(connection: Connection, tried: Sequence[str]) -> Removal | None:
    """The oldest removal to be done, without those of the accounts `tried`."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["open"], {"tried": list(tried)})
        row = cursor.fetchone()
    return None if row is None else Removal(*row)


def start_removal(connection: Connection, removal: Removal) -> bool:
    """Notes that it has begun. Returns False where it was taken back."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["start"], {"did": removal.did})
        return cursor.rowcount == 1


def note_failure(connection: Connection, removal: Removal, error: str) -> None:
    """Keeps why it does not go on, in words."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["failed"], {"did": removal.did, "error": error})


def records_to_remove(connection: Connection, removal: Removal, limit: int) -> list[str]:
    """The URIs of up to `limit` records of the account, duplicates first; none where the removal was taken back."""
    with connection.cursor() as cursor:
        for statement in ("next_duplicates", "next_records"):
            cursor.execute(sections(_FILE)[statement], {**removal._parameters, "limit": limit})
            if uris := [uri for (uri,) in cursor.fetchall()]:
                return uris
    return []


def begin_batch(cursor: Cursor) -> None:
    """In a batch of deletions: locks the repositories, and drops the deletions of removals that were taken back."""
    cursor.execute(sections(_FILE)["begin"])
    cursor.execute(sections(_FILE)["cancelled"])


def count_batch(cursor: Cursor) -> None:
    """In a batch of deletions: counts the records that it removed."""
    cursor.execute(sections(_FILE)["count"])


def hold_removal(connection: Connection, removal: Removal) -> bool:
    """Locks the account's repository, so that nobody takes the removal back, or brings a record, before this
    transaction has ended. Returns False where that has happened already."""
    statements = sections(_FILE)
    with connection.cursor() as cursor:
        cursor.execute(statements["lock"], removal._parameters)
        cursor.execute(statements["is_removed"], removal._parameters)
        return cursor.fetchone() == (True,)


def states_before(connection: Connection, removal: Removal, before: str | None, limit: int) -> str | None:
    """Where the next `limit` past states of the account begin, from the newest on: a URI. None: there are no more.

    `before`: where those before them began; None: from the newest.
    """
    parameters = removal._parameters
    with connection.cursor() as cursor:
        cursor.execute(
            sections(_FILE)["states_from"], {**parameters, "before": before or parameters["end"], "limit": limit}
        )
        row = cursor.fetchone()
    return None if row is None else row[0]


def remove_states(connection: Connection, removal: Removal, *, first: str, before: str | None, effects: Effects) -> int:
    """Removes past states from `first` up to, not including, `before` (None: to the newest), but for those by which
    posts of others are evaluated. Returns how many; 0: all that are left have to stay."""
    statements = filled(effects, _FILE)
    parameters = removal._parameters
    parameters |= {"from": first, "before": before or parameters["end"]}
    with connection.cursor() as cursor:
        cursor.execute(statements["dependencies"], parameters)
        cursor.execute(statements["states"], parameters)
        return cursor.rowcount


def remove_left_over(connection: Connection, removal: Removal, statement: str, limit: int) -> int:
    """Runs one of `LEFT_OVER` once. Returns the number of rows removed: as long as there are any, run it again."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)[statement], {**removal._parameters, "limit": limit})
        return cursor.rowcount


def finish_removal(connection: Connection, removal: Removal) -> bool:
    """Removes the account itself, and notes that the removal is done.

    Returns False, and does nothing, where records have come meanwhile or the removal was taken back.
    """
    if not hold_removal(connection, removal):
        return False
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["finish"], removal._parameters)
    return True
