"""What a batch does to repositories and accounts: their states, their chains of commits, and the gaps in those."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2.extensions import cursor as Cursor

from appview_pipeline import backoff
from appview_pipeline.store.batch import LINK_COLUMNS, BatchToApply
from appview_pipeline.store.sql import sections
from appview_pipeline.store.staging import copy_rows
from appview_pipeline.store.statements import run, run_for_number


@dataclass(frozen=True)
class RepoChanges:
    """`late`: commits of the batch that are older than what is known of their repositories. `has_gaps`: something is
    missing before the batch's commits. `new`: repositories without a commit before the batch. `inactive`: repositories
    of accounts that are not active."""

    late: int = 0
    has_gaps: bool = False
    new: int = 0
    inactive: int = 0


@dataclass(frozen=True)
class LockedRepos:
    """What was stored of the batch's repositories before it: how many had a commit (`known`), how many of those have
    one that is newer than something in the batch (`late`), how many accounts are `inactive`, and which are excluded."""

    late: int = 0
    known: int = 0
    inactive: int = 0
    excluded: frozenset[str] = frozenset()


def lock_repos(cursor: Cursor, batch: BatchToApply) -> LockedRepos:
    """Locks the batch's repositories in the order of their DIDs, then the accounts that it has events of."""
    repo, has_commits = sections("apply/repo.sql"), bool(batch.rows.get("stage_repo"))
    if has_commits:
        cursor.execute(repo["lock"])
        if run_for_number(cursor, repo["make"]):
            cursor.execute(repo["lock_others"])
    if batch.rows.get("stage_account"):
        cursor.execute(sections("apply/account.sql")["lock"])
    if not has_commits:
        return LockedRepos()
    cursor.execute(repo["count"])
    ((late, known, inactive, excluded),) = cursor.fetchall()
    return LockedRepos(late=late, known=known, inactive=inactive, excluded=frozenset(excluded or ()))


def advance_repos(cursor: Cursor, batch: BatchToApply, locked: LockedRepos) -> RepoChanges:
    """Updates the states of the batch's repositories."""
    if not batch.rows.get("stage_repo"):
        return RepoChanges()
    repo = sections("apply/repo.sql")
    if locked.late:
        cursor.execute(sections("apply/late.sql")["mark"])
    cursor.execute(repo["gaps"])
    has_gaps = cursor.rowcount > 0
    cursor.execute(repo["advance"])
    cursor.execute(repo["last_seen_but_excluded" if locked.excluded else "last_seen"])
    batch.report.add_written("actor_sync", cursor.rowcount)
    new = len(batch.rows["stage_repo"]) - locked.known
    return RepoChanges(late=locked.late, has_gaps=has_gaps, new=new, inactive=locked.inactive)


def update_accounts(cursor: Cursor, batch: BatchToApply, repos: RepoChanges) -> bool:
    """Updates the hosting status of accounts in `pipeline.repo`: of those that the batch has events of, and of inactive
    ones whose commits contradict their status. Returns whether there are any."""
    account = sections("apply/account.sql")
    contradicted = 0
    if repos.inactive:
        cursor.execute(account["contradicted"])
        contradicted = cursor.rowcount
    if batch.rows.get("stage_account"):
        cursor.execute(account["apply"])
        return True
    return contradicted > 0


def queue_identities(cursor: Cursor, batch: BatchToApply, repos: RepoChanges, accounts: bool) -> None:
    """Queues the resolution of accounts that are met for the first time, and of those whose events ask for it.

    After `pipeline.repo` and before `bsky.actor`: resolution locks its rows in the same order.
    """
    if repos.new or accounts or batch.rows.get("stage_identity"):
        cursor.execute(sections("apply/identity.sql")["queue"], {"tries": backoff.RESOLUTION_QUICK_TRIES})
        batch.report.unresolved = cursor.rowcount


def write_actors(cursor: Cursor, batch: BatchToApply, repos: RepoChanges, accounts: bool) -> None:
    """Adds the accounts that are new, and shows readers the statuses that changed."""
    if repos.new:
        cursor.execute(sections("apply/repo.sql")["actors"])
        batch.report.add_written("actor", cursor.rowcount)
    if accounts:
        cursor.execute(sections("apply/account.sql")["actors"])
        batch.report.add_written("actor", cursor.rowcount)


def note_gaps(cursor: Cursor) -> None:
    """Writes down what is missing. Refused commits first: they may explain why a chain is broken."""
    gap = sections("apply/gap.sql")
    run(cursor, gap, "begin", "known")
    cursor.execute(gap["note"], {"chains": False})
    cursor.execute(gap["explained"])
    cursor.execute(gap["note"], {"chains": True})
    cursor.execute(gap["again"])


def close_gaps(cursor: Cursor, batch: BatchToApply) -> None:
    """Closes the gaps that commits which arrived late prove to be complete."""
    gap = sections("apply/gap_closing.sql")
    cursor.execute(gap["find_repos"])
    if dids := {did for (did,) in cursor.fetchall()}:
        copy_rows(cursor, "stage_link", LINK_COLUMNS, batch.links_of(dids))
        run(cursor, gap, "link", "close_chains", "close_commits", "close_records")
