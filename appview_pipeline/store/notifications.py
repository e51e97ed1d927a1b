"""bsky.notification: which of the notifications that effects have collected are written, and which are withdrawn."""

from __future__ import annotations

from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import BatchToApply
from appview_pipeline.store.exclusion import drop_notifications
from appview_pipeline.store.placeholders import filled
from appview_pipeline.store.statements import count_rows, run, run_for_number


def write_notifications(
    cursor: Cursor, batch: BatchToApply, *, changed: bool, late: bool, evaluated: bool, excluded: bool
) -> None:
    """Writes what `new_notification` holds, and withdraws what is superfluous.

    `changed`: stored records were changed or deleted. `late`: commits of the batch are older than what is known of
    their repositories. `evaluated`: posts have been evaluated. `excluded`: some of its accounts are excluded.
    """
    notification = filled(batch.effects, "apply/notification.sql")
    pairs = filled(batch.effects, "apply/pair_notification.sql")
    # A record that comes late may take the place of another though the batch itself changes none.
    moved = changed or late or count_rows(cursor, "promotion") > 0
    if changed:
        cursor.execute(notification["keep_recipients"])
    has_history = False
    if batch.seen & batch.effects.notified_once and (moved or batch.rows.get("stage_superseded")):
        has_history = run_for_number(cursor, pairs["find_keys"]) > 0
        if has_history:
            run(cursor, pairs, "find_records", "find_further_keys", "derive", "replace", "move")
    if moved:
        run(cursor, notification, "renew", "withdraw", "keep")
    if has_history:
        cursor.execute(pairs["keep"])
    cursor.execute(filled(batch.effects, "apply/muted_thread.sql")["mute"])
    if evaluated:
        cursor.execute(notification["withdraw_outdated"])
    cursor.execute(notification["drop_quiet"])
    if excluded:
        drop_notifications(cursor)
    batch.report.add_written("notification", run_for_number(cursor, notification["insert"]))
