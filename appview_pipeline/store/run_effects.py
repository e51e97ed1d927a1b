"""Running the effects of collections on what a batch has staged, natural keys included."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import Batch, StoredRecord
from appview_pipeline.store.effects import EFFECTS, WRITES, Effect
from appview_pipeline.store.records import Changes
from appview_pipeline.store.sql import named, sections
from appview_pipeline.store.staging import copy_rows
from appview_pipeline.store.statements import count_rows, fill_placeholders, run_for_number

REMOVING = frozenset(("updated", "recreated", "deleted", "repaired"))
"""What happened to records whose rows are removed, and added again where they are still there."""


def drop_stale(cursor: Cursor, batch: Batch, changes: Changes) -> None:
    """Takes the rows of records that are overtaken out of the staging tables, so that no effect sees them."""
    if not any("stale" in kinds for kinds in changes.values()):
        return
    for effect in EFFECTS:
        for table in effect.stages:
            if batch.rows.get(table):
                uri = batch.columns[table][0]
                cursor.execute(f"DELETE FROM {table} s USING touched t WHERE s.{uri} = t.uri AND t.change = 'stale'")


def run_effects(cursor: Cursor, batch: Batch, changes: Changes, *, evaluated: bool) -> None:
    """Runs the effects that are `evaluated`, or all others, in lock order."""
    for effect in EFFECTS:
        if effect.is_evaluated == evaluated:
            run_effect(cursor, effect, batch, changes.get(effect.collection, frozenset()))


def run_effect(cursor: Cursor, effect: Effect, batch: Batch, changes: frozenset[str]) -> None:
    """Runs one collection's effect. `changes`: what `touched` holds of the collection."""
    if effect.collection not in batch.seen:
        return
    staged = sum(len(batch.rows.get(table, ())) for table in effect.stages)
    changed = bool(changes & REMOVING)
    statements = sections(f"apply/{effect.file}.sql")
    key = effect.natural_key
    duplicates = duplicates_of(effect) if key else {}
    contested = False
    if changed:
        if key:
            cursor.execute(duplicates["vacate"])
        cursor.execute(statements["remove"])
        batch.report.add_written(effect.table, cursor.rowcount)
        if key:
            cursor.execute(duplicates["removed"])
            cursor.execute(duplicates["leave"])
            cursor.execute(duplicates["heirs"])
            if candidates := [StoredRecord(*row) for row in cursor.fetchall()]:
                for table, rows in batch.stage_again(effect.collection, candidates).items():
                    copy_rows(cursor, table, batch.columns[table], rows)
                staged += len(candidates)
    if staged:
        cursor.execute(statements["add"])
        added = cursor.rowcount
        contested = key is not None and added < count_rows(cursor, effect.stages[0])
        if contested:
            _settle_duplicates(cursor, statements, duplicates)
        batch.report.add_written(effect.table, added)
    if key and (changed or contested):
        cursor.execute(duplicates["succeed"])
        cursor.execute(duplicates["forget"])
    for name in (*(effect.follows if staged else ()), *effect.always):
        cursor.execute(statements[name])
        if (written := WRITES.get((effect.file, name))) is not None:
            batch.report.add_written(written, cursor.rowcount)


def _settle_duplicates(cursor: Cursor, statements: Mapping[str, str], duplicates: Mapping[str, str]) -> None:
    """Some staged record's natural key is taken: the first by rev gets it, the others are duplicates."""
    if run_for_number(cursor, duplicates["challenge"]):
        cursor.execute(duplicates["vacate"])
        cursor.execute(statements["remove"])
        cursor.execute(duplicates["removed"])
        cursor.execute(statements["add"])
    cursor.execute(duplicates["lose"])


@cache
def duplicates_of(effect: Effect, file: str = "apply/duplicates.sql") -> dict[str, str]:
    """The statements of duplicates.sql (or of another file with its placeholders) for one collection."""
    assert effect.natural_key is not None
    names = {
        "{table}": f'"{effect.table}"',
        "{stage}": effect.stages[0],
        "{key_1}": f'"{effect.natural_key.columns[0]}"',
        "{key_2}": f'"{effect.natural_key.columns[1]}"',
        "{stage_key_1}": effect.natural_key.stage_columns[0],
        "{stage_key_2}": effect.natural_key.stage_columns[1],
        "{collection}": f"'{effect.collection}'",
    }
    return {
        name: named(fill_placeholders(text, names), f"duplicates.{name} of {effect.file}")
        for name, text in sections(file).items()
    }
