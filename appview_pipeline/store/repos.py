"""What a batch does to repositories and accounts: their states, their chains of commits, and the gaps in those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2.extensions import cursor as Cursor

from appview_pipeline import backoff
from appview_pipeline.store.batch import LINK_COLUMNS, SHARED_STAGES, BatchToApply, StoredRecord
from appview_pipeline.store.sql import sections
from appview_pipeline.store.staging import copy_rows
from appview_pipeline.store.statements import run, run_for_number


@dataclass(frozen=True)
class RepoChanges:
    """`late`: commits of the batch that are older than what is known of their repositories, and exports. `has_gaps`:
    something is missing before the batch's commits. `new`: repositories without a commit before the batch. `inactive`:
    repositories of accounts that are not active. `overtaken`: exports have overtaken events of the batch."""

    late: int = 0
    has_gaps: bool = False
    new: int = 0
    inactive: int = 0
    overtaken: bool = False


@dataclass(frozen=True)
class LockedRepos:
    """What was stored of the batch's repositories before it: how many had a commit (`known`), how many of those have
    one that is newer than something in the batch (`late`), an export that is (`exported`), or commits that are late
    while they are fetched (`fetched`); how many accounts are `inactive`, and which are excluded."""

    late: int = 0
    exported: int = 0
    fetched: int = 0
    known: int = 0
    inactive: int = 0
    excluded: frozenset[str] = frozenset()


def lock_repos(cursor: Cursor, batch: BatchToApply) -> LockedRepos:
    """Locks the batch's repositories in the order of their DIDs, then the accounts that it has events of."""
    repo, rows = sections("apply/repo.sql"), batch.rows
    has_states = bool(rows.get("stage_repo") or rows.get("stage_export"))
    if has_states or rows.get("stage_gap"):
        cursor.execute(repo["lock"])
        if run_for_number(cursor, repo["make"]):
            cursor.execute(repo["lock_others"])
    if rows.get("stage_account"):
        cursor.execute(sections("apply/account.sql")["lock"])
    if not has_states:
        return LockedRepos()
    cursor.execute(repo["count"])
    ((late, exported, fetched, known, inactive, excluded),) = cursor.fetchall()
    return LockedRepos(
        late=late,
        exported=exported,
        fetched=fetched,
        known=known,
        inactive=inactive,
        excluded=frozenset(excluded or ()),
    )


def advance_repos(cursor: Cursor, batch: BatchToApply, locked: LockedRepos) -> RepoChanges:
    """Updates the states of the batch's repositories, and marks what something newer has overtaken."""
    commits, exports = len(batch.rows.get("stage_repo", ())), len(batch.rows.get("stage_export", ()))
    if not commits + exports:
        return RepoChanges()
    repo = sections("apply/repo.sql")
    late = locked.late + exports
    if late:
        cursor.execute(sections("apply/late.sql")["mark"])
    overtaken = locked.exported > 0 and _overtake(cursor, batch)
    if locked.fetched:
        cursor.execute(repo["late_while_fetched"])
    has_gaps = False
    if commits:
        cursor.execute(repo["gaps"])
        has_gaps = cursor.rowcount > 0
        cursor.execute(repo["advance"])
        cursor.execute(repo["last_seen_but_excluded" if locked.excluded else "last_seen"])
        batch.report.add_written("actor_sync", cursor.rowcount)
    new = commits + exports - locked.known
    return RepoChanges(late=late, has_gaps=has_gaps, new=new, inactive=locked.inactive, overtaken=overtaken)


def _overtake(cursor: Cursor, batch: BatchToApply) -> bool:
    """Makes past states of the batch's events that are not newer than an export of their repository. A record that the
    export holds in another state is staged again, with the rev of the export: its own rev may have been guessed.
    Returns whether there are such events."""
    late = sections("apply/late.sql")
    if not run_for_number(cursor, late["find_exported"]):
        return False
    run(cursor, late, "set_aside", "forget_same", "gone", "past")
    cursor.execute(late["restate"])
    restated: dict[str, list[StoredRecord]] = {}
    for collection, *row in cursor.fetchall():
        restated.setdefault(collection, []).append(StoredRecord(*row))
    for collection, records in restated.items():
        rows = batch.restage(collection, records)
        for stage in next((it.stages for it in batch.effects.in_order if it.nsid == collection), ()):
            uris = [record.uri for record in records]
            cursor.execute(f"DELETE FROM {stage.table} WHERE {stage.columns[0]} = ANY (%s)", (uris,))
            copy_rows(cursor, stage.table, stage.columns, rows.get(stage.table, ()))
    return True


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


def note_missed(cursor: Cursor, batch: BatchToApply) -> bool:
    """Stages gaps of repositories whose accounts are active, by the batch's events, and of which the stream may have
    missed something while they were not. Returns whether there are any."""
    if not batch.rows.get("stage_account"):
        return False
    cursor.execute(sections("apply/account.sql")["missed"])
    return cursor.rowcount > 0


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


def end_exports(cursor: Cursor, batch: BatchToApply) -> bool:
    """Writes down what the last parts of exports prove. Returns whether there are any."""
    if not any(row[SHARED_STAGES["stage_export"].index("is_end")] for row in batch.rows.get("stage_export", ())):
        return False
    export = sections("apply/export.sql")
    run(cursor, export, "refuse", "advance", "last_seen")
    batch.report.add_written("actor_sync", cursor.rowcount)
    run(cursor, export, "close_gaps", "missing")
    return True


def note_gaps(cursor: Cursor) -> None:
    """Writes down what is missing. Refused commits first: they may explain why a chain is broken."""
    gap = sections("apply/gap.sql")
    run(cursor, gap, "unreachable", "begin", "known")
    cursor.execute(gap["note"], {"chains": False})
    cursor.execute(gap["explained"])
    cursor.execute(gap["note"], {"chains": True})
    cursor.execute(gap["again"])


def close_gaps(cursor: Cursor, batch: BatchToApply) -> list[str]:
    """Closes the gaps that commits which arrived late prove to be complete. Returns the repositories of such commits
    that had gaps."""
    gap = sections("apply/gap_closing.sql")
    cursor.execute(gap["find_repos"])
    if dids := {did for (did,) in cursor.fetchall()}:
        copy_rows(cursor, "stage_link", LINK_COLUMNS, batch.links_of(dids))
        run(cursor, gap, "link", "close_chains", "close_commits", "close_records")
    return sorted(dids)


def note_states(cursor: Cursor, *, has_gaps: bool, ended: bool, closed: Sequence[str]) -> None:
    """Notes which repositories are complete, and queues those that are not.

    `has_gaps`: gaps were staged. `ended`: exports have ended. `closed`: repositories of which gaps may be closed now.
    """
    states = sections("apply/sync_state.sql")
    broken = has_gaps and run_for_number(cursor, states["incomplete"]) > 0
    if ended:
        cursor.execute(states["ended"])
    if closed:
        cursor.execute(states["closed"], {"dids": list(closed)})
    if broken or ended:
        cursor.execute(states["queue"])
