"""The states of repositories (`pipeline.repo`), for those who fetch them.

docs/gaps.md has every state and what changes it. The write path changes most of them (`sql/apply/sync_state.sql`); here
are the beginning of a resync and its failure. Its success is the last part of an export (`sql/apply/export.sql`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

_FILE = "backfill/repo_state.sql"
MAX_REASON = 500
"""Characters of a reason that are kept."""


@dataclass(frozen=True)
class RepoState:
    """What is stored of a repository. Revs and CIDs are text; None: unknown.

    Commits are applied without a break from `chain_since`, not included, up to `rev`; where `chain_since` is None, from
    `chain_from` on. `export_rev`: rev of the newest export that was applied whole. `sync_state`, `sync_reason`: as the
    columns of `pipeline.repo`. `is_partial`: only its newest records were fetched. `active`: readers see the account.
    `excluded`: nothing new of it is stored. `asked_at` names the fetching that is under way (None: none is): its export
    has it in `ExportState.asked_at`.
    """

    did: str
    rev: str | None
    data_cid: str | None
    chain_from: str | None
    chain_since: str | None
    export_rev: str | None
    sync_state: str
    sync_reason: str | None
    is_partial: bool
    active: bool
    excluded: bool
    asked_at: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether everything up to `rev` is indexed, however old."""
        return self.sync_state == "synchronized" and not self.is_partial


def read_repos(connection: Connection, dids: Collection[str]) -> dict[str, RepoState]:
    """The states of those of `dids` that are known."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["read"], {"dids": list(dids)})
        return {row[0]: RepoState(*row) for row in cursor.fetchall()}


def begin_resync(connection: Connection, did: str) -> RepoState | None:
    """Notes that a repository is being fetched, and returns what is stored of it. Commits.

    To be called before the export is asked for, and again before the same export is compared once more. The repository
    is `resyncing` from now on, unless it is `synchronized`: that it stays. What the stream brings of it from now on is
    watched: see `ExportState.asked_at`.

    Returns None where the account is excluded or deleted: nothing of it is to be fetched.
    """
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["make"], {"did": did})
        cursor.execute(sections(_FILE)["begin"], {"did": did})
        row = cursor.fetchone()
    connection.commit()
    return None if row is None else RepoState(*row)


def fail_resync(connection: Connection, did: str, reason: str, *, parked: bool) -> None:
    """Notes why fetching a repository failed: it is `desynchronized`, or `error` where fetching was given up for now
    (`parked`). Commits. A repository that is `synchronized` stays so: nothing of it is known to be missing."""
    reason = reason.replace("\0", "")[:MAX_REASON]
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["fail"], {"did": did, "reason": reason, "parked": parked})
        cursor.execute(sections(_FILE)["end"], {"did": did})
    connection.commit()


def lock_repositories(connection: Connection, dids: Collection[str]) -> None:
    """Locks the rows of repositories until the end of the transaction, in the order of their DIDs and before anything
    else of them is locked, as batches do."""
    with connection.cursor() as cursor:
        cursor.execute(sections("apply/sync_state.sql")["lock"], {"dids": list(dids)})


def note_closed_gaps(connection: Connection, dids: Collection[str]) -> None:
    """Notes of those of these repositories whose gaps are all closed now that they are complete again. The caller has
    locked them."""
    with connection.cursor() as cursor:
        cursor.execute(sections("apply/sync_state.sql")["closed"], {"dids": list(dids)})
