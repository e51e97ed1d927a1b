"""Evaluating replies and quotes: the order of the statements of sql/apply/thread.sql."""

from __future__ import annotations

from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import Batch
from appview_pipeline.store.effects import Effects
from appview_pipeline.store.placeholders import filled
from appview_pipeline.store.sql import sections
from appview_pipeline.store.statements import count_rows, run

AFFECTED = ("affected_below", "affected_in_thread", "affected_by_facts")
"""Statements of thread.sql that find the posts that events affect."""


def lock_cross_repository(cursor: Cursor) -> None:
    """Takes the lock under which one batch at a time reads or writes rows of other repositories, until its commit."""
    cursor.execute(sections("apply/thread.sql")["lock"])


def evaluate_posts(cursor: Cursor, batch: Batch, *, versions: bool) -> bool:
    """Evaluates replies and quotes, those of the batch and those that it affects, and finds whom they notify.

    `versions`: past states are kept that posts may be evaluated by. Returns False where nothing was to be evaluated.
    """
    rows = batch.rows
    thread = filled(batch.effects, "apply/thread.sql")
    answered = 0
    if batch.seen - batch.effects.evaluated:
        cursor.execute(thread["events_of_others"])
        answered = cursor.rowcount
    if not versions and not answered and not any(rows.get(table) for table in batch.effects.deciding_stages):
        return False
    run(cursor, thread, "events", "collect_new", *AFFECTED, "collect_affected")
    # These statements join staging tables with one another, of which the planner expects a row where there may be
    # thousands. Look-ups in the index's own tables are LATERAL, and stay what they are.
    cursor.execute("SET LOCAL enable_nestloop = off")
    if count_rows(cursor, "judgement"):
        evaluate_replies(cursor, batch.effects)
        run(cursor, thread, "flag", "pend")
    if versions or rows.get("stage_post_record") or rows.get("stage_postgate"):
        cursor.execute(thread["judge_quotes"])
    notification = filled(batch.effects, "apply/post_notification.sql")
    run(cursor, notification, "collect", "tell", "subscriptions")
    if cursor.rowcount:
        cursor.execute(thread["facts"])
        cursor.execute(notification["subscribers"])
    cursor.execute(notification["muted_threads"])
    cursor.execute("SET LOCAL enable_nestloop = on")
    return True


def evaluate_replies(cursor: Cursor, effects: Effects) -> None:
    """Evaluates the replies in `judgement`: their roots, and what the gates of their threads say as of their revs."""
    thread = filled(effects, "apply/thread.sql")
    run(cursor, thread, "judge_roots", "gates")
    if not cursor.rowcount:
        return
    cursor.execute(thread["rules"])
    if not cursor.rowcount:
        return
    cursor.execute(thread["ask_facts"])
    if cursor.rowcount:
        cursor.execute(thread["facts"])
    cursor.execute(thread["judge_gates"])
