"""Dead letters as they are stored: listed, read for a retry, marked, swept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.repo_states import lock_repositories, note_closed_gaps
from appview_pipeline.store.sql import sections

FROM_LABELERS = LABEL, LABEL_FRAME = "label", "label-frame"
"""Forms of dead letters from labelers: one label as DAG-CBOR, and a whole frame of a labeler's stream."""


@dataclass(frozen=True)
class ListedLetter:
    """A dead letter without its bytes, of which `kept_length` of `byte_length` are stored (None: none)."""

    id: int
    source: str
    seq: int | None
    did: str | None
    path: str | None
    kind: str
    reason: str
    form: str | None
    rev: str | None
    byte_length: int | None
    kept_length: int | None
    first_seen: datetime
    retried_at: datetime | None
    resolved_at: datetime | None


@dataclass(frozen=True)
class KindOfLetter:
    """Dead letters of one kind: stored and not resolved, resolved, and beyond the limit only counted."""

    kind: str
    open: int
    resolved: int
    only_counted: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class StoredLetter:
    """A dead letter with all that a retry needs, as in `indexing.changes.DeadLetter`; `content` are its bytes."""

    content: bytes | None
    id: int
    source: str
    seq: int | None
    did: str | None
    path: str | None
    kind: str
    reason: str
    form: str | None
    rev: str | None
    cid: str | None
    action: str | None
    event_time: str | None
    byte_length: int | None
    quiet: bool | None
    """The record that it holds notifies nobody; None: it does."""


class KnownRepo(NamedTuple):
    """The newest state of a repository that is applied. `export_rev`: rev of its newest export that was applied whole;
    None: none was."""

    rev: str
    commit: str
    data: str
    export_rev: str | None


def list_letters(
    connection: Connection, kind: str | None = None, limit: int = 50, *, resolved: bool = False
) -> list[ListedLetter]:
    """The newest dead letters, newest first, of `kind` (None: of all); with `resolved` those too."""
    with connection.cursor() as cursor:
        cursor.execute(
            sections("report/dead_letters.sql")["list"], {"kind": kind, "limit": limit, "resolved": resolved}
        )
        return [ListedLetter(*row) for row in cursor.fetchall()]


def kinds_of_letters(connection: Connection) -> list[KindOfLetter]:
    """All dead letters by kind."""
    with connection.cursor() as cursor:
        cursor.execute(sections("report/dead_letters.sql")["kinds"])
        return [KindOfLetter(*row) for row in cursor.fetchall()]


def letters_to_retry(
    connection: Connection, *, ids: Sequence[int] | None, kind: str | None, after: int, limit: int
) -> list[StoredLetter]:
    """Unresolved letters with an id beyond `after`, in order of id: of `ids` (None: any) and `kind` (None: any)."""
    parameters = {"ids": None if ids is None else list(ids), "kind": kind, "after": after, "limit": limit}
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/dead_letter.sql")["next"], parameters)
        return [
            StoredLetter(None if content is None else bytes(content), *others) for content, *others in cursor.fetchall()
        ]


def known_repo(connection: Connection, did: str) -> KnownRepo | None:
    """What is applied of a repository, None when nothing is."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/dead_letter.sql")["repo"], {"did": did})
        row = cursor.fetchone()
        return None if row is None else KnownRepo(*row)


def mark_resolved(connection: Connection, letter: StoredLetter) -> None:
    """Notes that a retry succeeded, and closes the gap that the letter had left."""
    statements = sections("repair/dead_letter.sql")
    if letter.did is not None:
        lock_repositories(connection, [letter.did])
    with connection.cursor() as cursor:
        cursor.execute(statements["resolved"], {"id": letter.id})
        if letter.did is not None:
            cursor.execute(statements["close_gap"], {"did": letter.did, "path": letter.path, "rev": letter.rev})
            if cursor.rowcount:
                note_closed_gaps(connection, [letter.did])


def mark_label_resolved(connection: Connection, letter: StoredLetter) -> None:
    """Notes that the retry of a labeler's dead letter succeeded. It is no matter of the labeler's repository."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/dead_letter.sql")["resolved"], {"id": letter.id})


def mark_covered(connection: Connection, letters: Sequence[int]) -> None:
    """Notes that whole exports of their repositories, which are as new, were applied: nothing is to be retried."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/dead_letter.sql")["covered"], {"ids": list(letters)})


def mark_failed(connection: Connection, letter: int, kind: str, reason: str) -> None:
    """Notes that a retry failed, and why."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/dead_letter.sql")["failed"], {"id": letter, "kind": kind, "reason": reason})
