"""The one write path: a batch's effects, in order, in one transaction.

`apply` copies a batch into temporary tables and runs the SQL files of `sql/apply/` on them. Whatever produced the batch
(the live stream, a replay, a repository, a rerun), its records mean the same.
"""

from __future__ import annotations

import time

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import (
    DEAD_LETTER_LIMITS,
    SHARED_STAGES,
    BatchToApply,
    CursorMove,
    DeadLetterLimits,
    Report,
)
from appview_pipeline.store.bookkeeping import count_ignored, move_cursor, write_dead_letters, write_report
from appview_pipeline.store.effects import Effects
from appview_pipeline.store.evaluation import evaluate_posts, lock_cross_repository
from appview_pipeline.store.exclusion import check_excluded, drop_gaps, forget_deletes
from appview_pipeline.store.notifications import write_notifications
from appview_pipeline.store.pending import note_missing
from appview_pipeline.store.prepared import preparing_cursor
from appview_pipeline.store.records import keep_places, keep_versions, write_records
from appview_pipeline.store.removal import REMOVAL, begin_batch, count_batch
from appview_pipeline.store.repos import (
    advance_repos,
    close_gaps,
    end_exports,
    lock_repos,
    note_gaps,
    note_missed,
    note_states,
    queue_identities,
    update_accounts,
    write_actors,
)
from appview_pipeline.store.retention import RETENTION, forget_batch, lock_batch
from appview_pipeline.store.run_effects import drop_stale, run_effects, run_under_lock
from appview_pipeline.store.signatures import keep_unchecked
from appview_pipeline.store.sql import sections
from appview_pipeline.store.staging import copy_encoded, copy_rows, make_tables


def _write(cursor: Cursor, batch: BatchToApply, limits: DeadLetterLimits, *, dry_run: bool) -> None:
    """The steps of a batch, in the order in which every writer takes its locks."""
    plan_for_batches(cursor)
    _stage(cursor, batch)  # by COPY, into temporary tables that all later statements read

    is_retention = batch.report.source == RETENTION
    removes = batch.report.source == REMOVAL or is_retention
    if is_retention:
        lock_batch(cursor)
    elif removes:
        begin_batch(cursor)

    # What the batch's own repositories bring. Only writers of the same repositories wait for each other here.
    locked = lock_repos(cursor, batch)  # the first lock: repositories by DID; finds commits that come late
    # What this finds holds until the commit. A dry run stores nothing, so it does not matter whose content it has.
    excluded = locked.excluded if dry_run else check_excluded(cursor, batch, locked.excluded)
    repos = advance_repos(cursor, batch, locked)
    accounts = update_accounts(cursor, batch, repos)
    missed = note_missed(cursor, batch)
    queue_identities(cursor, batch, repos, accounts)
    keep_unchecked(cursor, batch)  # commits whose signatures will be checked once their accounts are resolved
    write_actors(cursor, batch, repos, accounts)
    # The newest rev of each record wins; this finds what is stale.
    changes = write_records(cursor, batch, overtaken=repos.overtaken)
    if removes and not is_retention:
        count_batch(cursor)
    # Posts are evaluated as of their own rev: past states are needed.
    versions = keep_versions(cursor, batch, changes, overtaken=repos.overtaken)
    drop_stale(cursor, batch, changes)  # no effect sees a record that something newer has overtaken
    note_missing(cursor, batch)  # what staged records show and nobody has brought yet
    run_effects(cursor, batch, changes, evaluated=False)  # the tables of all collections but posts, and what follows

    # From here to the commit the batch holds a global advisory lock, because these steps read or write rows that other
    # repositories bring. By then each of two concurrent writers has written its own rows; the one that gets the lock
    # second sees those of the first.
    _begin_cross_repository_work(cursor, batch)
    run_effects(cursor, batch, changes, evaluated=True)  # posts: evaluating others changes their rows too
    keep_places(cursor, batch, versions)
    run_under_lock(cursor, batch)  # reposts and quotes of posts that this batch, or another meanwhile, has deleted
    # Roots, gates, flags, and whom posts notify. A removal is later than any post, so it affects none of that.
    evaluated = not removes and evaluate_posts(cursor, batch, versions=versions.deciding)
    _move_counters(cursor, batch)  # after all that counts: one merged statement for each counter table
    write_notifications(
        cursor,
        batch,
        changed=bool(changes),
        late=bool(repos.late),
        evaluated=evaluated,
        excluded=bool(excluded),
    )

    if is_retention:
        forget_batch(cursor, batch)  # past states that nothing needs any more, and what else no record covers
    write_dead_letters(cursor, batch, limits)
    if excluded:
        forget_deletes(cursor, batch)
        drop_gaps(cursor)
    ended = end_exports(cursor, batch)
    has_gaps = repos.has_gaps or missed or bool(batch.rows.get("stage_gap")) or ended
    if has_gaps:
        note_gaps(cursor)  # after the dead letters, which explain some of them
    closed = close_gaps(cursor, batch) if repos.late else []
    if has_gaps or closed:
        note_states(cursor, has_gaps=has_gaps, ended=ended, closed=closed)
    count_ignored(cursor, batch)


def apply(
    connection: Connection,
    batch: BatchToApply,
    *,
    move: CursorMove | None = None,
    limits: DeadLetterLimits = DEAD_LETTER_LIMITS,
    dry_run: bool = False,
) -> Report:
    """Writes a batch and its cursor in one transaction and commits it; on any error nothing of it is written
    (with `dry_run` nothing is written at all).

    Returns the batch's report, completed. Raises `CursorMoved`; `ExclusionChanged` where the batch has content of
    accounts that are excluded, or lacks that of accounts that are not (a dry run does not look); and psycopg2's errors:
    SerializationFailure, DeadlockDetected and a lost connection are worth a retry; DataError, IntegrityError and
    ProgramLimitExceeded mean that PostgreSQL refuses some row of the batch.
    """
    started = time.monotonic()
    try:
        with preparing_cursor(connection, _size(batch)) as cursor:
            _write(cursor, batch, limits, dry_run=dry_run)
            batch.report.apply_ms = (time.monotonic() - started) * 1000
            write_report(cursor, batch.report)
            if move is not None:
                move_cursor(cursor, move)  # last: the row that all batches of a stream lock
        if dry_run:
            connection.rollback()
        else:
            connection.commit()
        if batch.report.locked_at is not None:
            batch.report.locked_seconds = time.monotonic() - batch.report.locked_at
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise
    return batch.report


_FILES_WITH_STAGES = (
    *("version", "affected", "evaluation", "quote_evaluation", "dead_letter"),
    *("post_notification", "subscription", "pair_notification", "unchecked"),
)
"""Files of sql/apply/ with temporary tables of their own, besides staging.sql and those of the collections."""


def prepare(connection: Connection, effects: Effects) -> None:
    """Makes the staging tables on a connection; once is enough, and again does no harm."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('pg_temp.stage_repo')")
        if cursor.fetchone() == (None,):
            files = (*(effect.name for effect in effects.in_order), *_FILES_WITH_STAGES)
            statements = [sections("apply/staging.sql")[""]]
            statements += [sections(f"apply/{file}.sql")["stage"] for file in files]
            make_tables(cursor, "\n".join(statements))
    connection.commit()


def plan_for_batches(cursor: Cursor) -> None:
    """Has the transaction's statements follow indexes, however little is staged."""
    # The planner knows of the staging tables only their size, and would rather read a whole table than follow its
    # index for what it takes for many rows. A batch is never that large. And it thinks that a record has few past
    # states, reads them all and sorts them, where the index has the newest first.
    cursor.execute(
        "SET LOCAL enable_seqscan = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_bitmapscan = off"
    )


def _stage(cursor: Cursor, batch: BatchToApply) -> None:
    rows = batch.rows
    for table, columns in {**SHARED_STAGES, **batch.effects.columns}.items():
        if (text := batch.texts.get(table)) is not None:
            copy_encoded(cursor, table, columns, text)
        else:
            copy_rows(cursor, table, columns, rows.get(table, ()))


def _size(batch: BatchToApply) -> int:
    """How much is staged, in events: an export has none, but records."""
    return max(batch.report.events, len(batch.rows.get("stage_write", ())), len(batch.rows.get("stage_delete", ())))


def _begin_cross_repository_work(cursor: Cursor, batch: BatchToApply) -> None:
    if batch.seen:
        lock_cross_repository(cursor)
        batch.report.locked_at = time.monotonic()


def _move_counters(cursor: Cursor, batch: BatchToApply) -> None:
    counters = sections("apply/counters.sql")
    cursor.execute(counters["posts"])
    batch.report.add_written("post_agg", cursor.rowcount)
    cursor.execute(counters["profiles"])
    batch.report.add_written("profile_agg", cursor.rowcount)
