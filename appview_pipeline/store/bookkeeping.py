"""What a batch writes about itself: its report, its dead letters, the collections it left out, its stream's cursor."""

from __future__ import annotations

from typing import Any

import orjson
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import BatchToApply, CursorMove, CursorMoved, DeadLetterLimits, Report
from appview_pipeline.store.sql import sections


def write_dead_letters(cursor: Cursor, batch: BatchToApply, limits: DeadLetterLimits) -> None:
    """Stores the batch's dead letters, and only counts those that exceed the limits."""
    if batch.rows.get("stage_dead_letter"):
        cursor.execute(
            sections("apply/dead_letter.sql")["insert"],
            {"per_minute": limits.per_minute, "bytes_per_day": limits.bytes_per_day},
        )


def count_ignored(cursor: Cursor, batch: BatchToApply) -> None:
    """Counts the operations on collections that are not indexed."""
    if batch.rows.get("stage_ignored"):
        cursor.execute(sections("apply/bookkeeping.sql")["ignored"])


def write_report(cursor: Cursor, report: Report) -> None:
    """Writes the batch's row of `pipeline.batch`."""
    cursor.execute(
        sections("apply/bookkeeping.sql")["report"],
        {
            "source": report.source,
            "shard": report.shard,
            "first_seq": report.first_seq,
            "last_seq": report.last_seq,
            "frames": report.frames,
            "events": report.events,
            "ops": orjson.dumps(report.ops).decode(),
            "written": orjson.dumps(report.written).decode(),
            "rejected": report.rejected,
            "rejected_by_kind": orjson.dumps(report.rejected_by_kind).decode(),
            "ignored": orjson.dumps(report.ignored).decode(),
            "accounts": report.accounts,
            "unresolved": report.unresolved,
            "stale": report.stale,
            "skipped": report.skipped,
            "doubtful": report.doubtful,
            "withheld": report.withheld,
            "bytes": report.bytes,
            "relay_time": report.relay_time,
            "received_at": report.received_at,
            "decode_ms": report.decode_ms,
            "apply_ms": report.apply_ms,
        },
    )


def move_cursor(cursor: Cursor, move: CursorMove) -> None:
    """Moves the stream's cursor on. Raises `CursorMoved` when it is not where the batch began."""
    statements = sections("apply/bookkeeping.sql")
    place: dict[str, Any] = {"relay": move.relay, "shard": move.shard}
    if move.from_seq is None:
        cursor.execute(statements["open_cursor"], {**place, "seq": move.to_seq})
    else:
        cursor.execute(statements["advance_cursor"], {**place, "from": move.from_seq, "to": move.to_seq})
    if cursor.rowcount != 1:
        raise CursorMoved(f"the cursor of {move.relay} ({move.shard}) is not at {move.from_seq}: another consumer runs")
