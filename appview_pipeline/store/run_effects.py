"""Running the effects of collections on what a batch has staged, natural keys included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import BatchToApply, StoredRecord
from appview_pipeline.store.effects import Effect, Step
from appview_pipeline.store.placeholders import filled, filled_for
from appview_pipeline.store.records import Changes
from appview_pipeline.store.staging import copy_rows
from appview_pipeline.store.statements import count_rows, run_for_number

REMOVING = frozenset(("updated", "recreated", "deleted", "repaired"))
"""What happened to records whose rows are removed, and added again where they are still there."""


def drop_stale(cursor: Cursor, batch: BatchToApply, changes: Changes) -> None:
    """Takes the rows of records that are overtaken out of the staging tables, so that no effect sees them."""
    if not any("stale" in kinds for kinds in changes.values()):
        return
    for table, columns in batch.effects.columns.items():
        if batch.rows.get(table):
            uri = columns[0]
            cursor.execute(f"DELETE FROM {table} s USING touched t WHERE s.{uri} = t.uri AND t.change = 'stale'")


def run_effects(cursor: Cursor, batch: BatchToApply, changes: Changes, *, evaluated: bool) -> None:
    """Runs the effects that are `evaluated`, or all others, in lock order."""
    for effect in batch.effects.in_order:
        if effect.is_evaluated == evaluated:
            run_effect(cursor, effect, batch, changes.get(effect.nsid, frozenset()))


def run_under_lock(cursor: Cursor, batch: BatchToApply) -> None:
    """Runs what effects have to do under the cross-repository lock, in lock order."""
    for effect in batch.effects.in_order:
        if effect.under_lock and effect.nsid in batch.seen:
            _run_steps(cursor, effect, batch, effect.under_lock)


def run_effect(cursor: Cursor, effect: Effect, batch: BatchToApply, changes: frozenset[str]) -> None:
    """Runs one collection's effect. `changes`: what `touched` holds of the collection."""
    if effect.nsid not in batch.seen:
        return
    staged = sum(len(batch.rows.get(stage.table, ())) for stage in effect.stages)
    changed = bool(changes & REMOVING)
    statements = filled(batch.effects, f"apply/{effect.name}.sql")
    key = effect.natural_key
    duplicates = filled_for(batch.effects, effect, "apply/duplicates.sql") if key else {}
    contested = False
    if changed:
        if key:
            cursor.execute(duplicates["free_keys"])
        cursor.execute(statements["remove"])
        batch.report.add_written(effect.table, cursor.rowcount)
        if key:
            cursor.execute(duplicates["mark"])
            cursor.execute(duplicates["unlist"])
            cursor.execute(duplicates["candidates"])
            if candidates := [StoredRecord(*row) for row in cursor.fetchall()]:
                for table, rows in batch.stage_again(effect.nsid, candidates).items():
                    copy_rows(cursor, table, batch.effects.columns[table], rows)
                staged += len(candidates)
    if staged:
        cursor.execute(statements["add"])
        added = cursor.rowcount
        contested = key is not None and added < count_rows(cursor, effect.stages[0].table)
        if contested:
            _settle_duplicates(cursor, statements, duplicates)
        batch.report.add_written(effect.table, added)
    if key and (changed or contested):
        cursor.execute(duplicates["promote"])
        cursor.execute(duplicates["clear_keys"])
    _run_steps(cursor, effect, batch, (*(effect.follows if staged else ()), *effect.always))


def _run_steps(cursor: Cursor, effect: Effect, batch: BatchToApply, steps: Sequence[Step]) -> None:
    statements = filled(batch.effects, f"apply/{effect.name}.sql")
    for step in steps:
        cursor.execute(statements[step.statement])
        if step.writes is not None:
            batch.report.add_written(step.writes, cursor.rowcount)


def _settle_duplicates(cursor: Cursor, statements: Mapping[str, str], duplicates: Mapping[str, str]) -> None:
    """Some staged record's natural key is taken: the first by rev gets it, the others are duplicates."""
    if run_for_number(cursor, duplicates["demote"]):
        cursor.execute(duplicates["free_keys"])
        cursor.execute(statements["remove"])
        cursor.execute(duplicates["mark"])
        cursor.execute(statements["add"])
    cursor.execute(duplicates["list"])
