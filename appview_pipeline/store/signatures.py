"""What the database knows of signatures: keys, commits that are applied and not checked yet, dead letters to decide.

All functions are part of the caller's transaction, which is the caller's to commit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline import backoff
from appview_pipeline.store.batch import BatchToApply
from appview_pipeline.store.repo_states import lock_repositories
from appview_pipeline.store.sql import sections
from appview_pipeline.store.statements import run

_FILE = "signatures/check.sql"


@dataclass(frozen=True)
class Unchecked:
    """A commit that was applied unchecked. `block` is the signed commit object; `key` (did:key) is None where the
    account's key is still not known; `is_exported`: a whole export that is as new was applied since, which proves more
    than the signature."""

    did: str
    rev: str
    seq: int | None
    block: bytes
    key: str | None
    is_exported: bool


@dataclass(frozen=True)
class Unsettled:
    """The dead letter `id` of a commit that did not fit the account's key. `key` is the one that was resolved since,
    None where the account has none; `is_exported` as in `Unchecked`."""

    id: int
    key: str | None
    is_exported: bool


def keep_unchecked(cursor: Cursor, batch: BatchToApply) -> None:
    """Keeps the commits of the batch whose signatures are not checked yet, and queues their accounts.

    After the queue of resolution, whose rows it may add to: the order of locks.
    """
    if batch.rows.get("stage_unchecked"):
        run(cursor, sections("apply/unchecked.sql"), "queue", "keep")


def signing_keys(connection: Connection, dids: Collection[str]) -> dict[str, str]:
    """The signing keys (did:key) of those of `dids` whose key is known."""
    possible = [did for did in dids if "\0" not in did]  # PostgreSQL holds no others
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["keys"], {"dids": possible})
        return dict(cursor.fetchall())


def due_unchecked(connection: Connection, limit: int) -> list[Unchecked]:
    """At most `limit` unchecked commits whose time has come, with what is known of their accounts now."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["due"], {"limit": limit})
        return [
            Unchecked(did=did, rev=rev, seq=seq, block=bytes(block), key=key, is_exported=is_exported)
            for did, rev, seq, block, key, is_exported in cursor.fetchall()
        ]


def finish_unchecked(connection: Connection, decided: Sequence[Unchecked], undecided: Sequence[Unchecked]) -> None:
    """Removes commits that were `decided` about, and puts the `undecided` off, whose accounts have no known key."""
    with connection.cursor() as cursor:
        if decided:
            parameters = {"dids": [it.did for it in decided], "revs": [it.rev for it in decided]}
            cursor.execute(sections(_FILE)["done"], parameters)
        if undecided:
            cursor.execute(
                sections(_FILE)["later"],
                {
                    "dids": [it.did for it in undecided],
                    "shortest": backoff.SIGNATURE_CHECK_SECONDS[0],
                    "longest": backoff.SIGNATURE_CHECK_SECONDS[1],
                },
            )


def break_chains(connection: Connection, dids: Collection[str]) -> None:
    """Notes that commits which were applied in these repositories are not their accounts': their chains of commits
    prove nothing any more."""
    lock_repositories(connection, dids)
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["break_chains"], {"dids": list(dids)})


def disown(connection: Connection, letters: Sequence[int]) -> None:
    """Of those of these dead letters (ids) that are decided about and still dead: notes that their commits are not
    their accounts'. Any export that is fetched from now on closes their gaps, whatever its rev."""
    statements = sections(_FILE)
    with connection.cursor() as cursor:
        cursor.execute(statements["letters_of"], {"ids": list(letters)})
        lock_repositories(connection, [did for (did,) in cursor.fetchall()])
        cursor.execute(statements["disown"], {"ids": list(letters)})


def unsettled_letters(connection: Connection, limit: int) -> list[Unsettled]:
    """At most `limit` dead letters (kind `commit-signature`) that can be decided now, in the order of their revs."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["letters"], {"limit": limit})
        return [Unsettled(id=number, key=key, is_exported=exported) for number, key, exported in cursor.fetchall()]
