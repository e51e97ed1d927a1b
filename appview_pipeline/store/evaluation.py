"""Evaluating replies and quotes: the statements of affected.sql, evaluation.sql and quote_evaluation.sql, in order."""

from __future__ import annotations

from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import BatchToApply
from appview_pipeline.store.effects import Effects
from appview_pipeline.store.pending import fetch_parents
from appview_pipeline.store.placeholders import filled
from appview_pipeline.store.sql import sections
from appview_pipeline.store.statements import count_rows, run

AFFECTED = ("affected_below", "affected_in_thread", "affected_by_relationships")
"""Statements of affected.sql that find the posts that events affect."""


def lock_cross_repository(cursor: Cursor) -> None:
    """Takes the lock under which one batch at a time reads or writes rows of other repositories, until its commit."""
    cursor.execute(sections("apply/lock.sql")["cross_repository"])


def evaluate_posts(cursor: Cursor, batch: BatchToApply, *, versions: bool) -> bool:
    """Evaluates replies and quotes, those of the batch and those that it affects, and finds whom they notify.

    `versions`: past states are kept that posts may be evaluated by. Returns False where nothing was to be evaluated.
    """
    rows = batch.rows
    affected = filled(batch.effects, "apply/affected.sql")
    evaluation = filled(batch.effects, "apply/evaluation.sql")
    answered = 0
    if batch.seen - batch.effects.evaluated:
        cursor.execute(affected["events_of_others"])
        answered = cursor.rowcount
    if not versions and not answered and not any(rows.get(table) for table in batch.effects.deciding_stages):
        return False
    run(cursor, affected, "events", *AFFECTED)
    run(cursor, evaluation, "collect_new", "collect_affected")
    # These statements join staging tables with one another, of which the planner expects a row where there may be
    # thousands. Look-ups in the index's own tables are LATERAL, and stay what they are.
    cursor.execute("SET LOCAL enable_nestloop = off")
    if count_rows(cursor, "evaluation"):
        evaluate_replies(cursor, batch.effects)
        run(cursor, evaluation, "flag", "pend")
        fetch_parents(cursor, batch)
    if versions or rows.get("stage_post_record") or rows.get("stage_postgate"):
        cursor.execute(filled(batch.effects, "apply/quote_evaluation.sql")["evaluate"])
    run(cursor, filled(batch.effects, "apply/post_notification.sql"), "collect", "notify")
    subscription = filled(batch.effects, "apply/subscription.sql")
    cursor.execute(subscription["find"])
    if cursor.rowcount:
        cursor.execute(evaluation["find_relationships"])
        cursor.execute(subscription["notify"])
    cursor.execute(filled(batch.effects, "apply/muted_thread.sql")["correct"])
    cursor.execute("SET LOCAL enable_nestloop = on")
    return True


def evaluate_replies(cursor: Cursor, effects: Effects) -> None:
    """Evaluates the replies in `evaluation`: their roots, and what the gates of their threads say as of their revs."""
    evaluation = filled(effects, "apply/evaluation.sql")
    run(cursor, evaluation, "evaluate_roots", "gates")
    if not cursor.rowcount:
        return
    cursor.execute(evaluation["rules"])
    if not cursor.rowcount:
        return
    cursor.execute(evaluation["ask_relationships"])
    if cursor.rowcount:
        cursor.execute(evaluation["find_relationships"])
    cursor.execute(evaluation["evaluate_gates"])
