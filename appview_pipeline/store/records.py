"""bsky.record and the past states of records: what a batch writes before any effect runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import SHARED_STAGES, BatchToApply, StoredRecord
from appview_pipeline.store.placeholders import filled
from appview_pipeline.store.sql import sections
from appview_pipeline.store.statements import count_rows, run_for_number

_QUIET = SHARED_STAGES["stage_write"].index("quiet")

Changes = Mapping[str, frozenset[str]]
"""What happened to stored records, other than creations, by collection: the values of `touched.change`."""


def write_records(cursor: Cursor, batch: BatchToApply, *, overtaken: bool = False) -> Changes:
    """Applies writes and deletes to bsky.record; keeps the states that they replace for `keep_versions`.

    `overtaken`: an export has overtaken events of the batch, which are superseded now.
    """
    record = sections("apply/record.sql")
    version = filled(batch.effects, "apply/version.sql")
    if batch.rows.get("stage_write"):
        cursor.execute(version["replaced"])
        batch.report.add_written("record", run_for_number(cursor, record["write"]))
        # Only exports bring quiet records: the stream does not pay for them.
        if any(row[_QUIET] is not None for row in batch.rows["stage_write"]):
            cursor.execute(record["quiet"])
    if batch.rows.get("stage_delete"):
        cursor.execute(version["deleted"])
        cursor.execute(record["delete"])
        batch.report.add_written("record", cursor.rowcount)
    if batch.rows.get("stage_delete") or batch.rows.get("stage_superseded") or overtaken:
        cursor.execute(record["tombstones"])
    cursor.execute(
        "SELECT collection, array_agg(DISTINCT change), count(*) FILTER (WHERE change = 'stale') "
        "FROM touched GROUP BY collection"
    )
    changes = {}
    for collection, kinds, stale in cursor.fetchall():
        changes[collection] = frozenset(kinds)
        batch.report.stale += stale
    return changes


@dataclass(frozen=True)
class KeptVersions:
    """What `keep_versions` has kept: whether anything, and whether posts may be evaluated by any of it."""

    any: bool = False
    deciding: bool = False


def keep_versions(cursor: Cursor, batch: BatchToApply, changes: Changes, *, overtaken: bool = False) -> KeptVersions:
    """Remembers the events that have been superseded."""
    version = filled(batch.effects, "apply/version.sql")
    if batch.rows.get("stage_superseded") or overtaken or any("stale" in kinds for kinds in changes.values()):
        cursor.execute(version["overtaken"])
    if not count_rows(cursor, "new_version"):
        return KeptVersions()
    if batch.seen & batch.effects.timed:
        _time_duplicates(cursor, batch)
    cursor.execute(version["keep"])
    return KeptVersions(any=True, deciding=run_for_number(cursor, version["deciding"]) > 0)


def keep_places(cursor: Cursor, batch: BatchToApply, kept: KeptVersions) -> None:
    """Gives superseded replies of authors in their own threads their places there. Comes after the rows of posts: those
    that the batch ends are marked as deleted by then."""
    if kept.any:
        cursor.execute(filled(batch.effects, "apply/version.sql")["op_thread"])


def _time_duplicates(cursor: Cursor, batch: BatchToApply) -> None:
    """Finds the times of duplicates, which no table has, in their records."""
    version = filled(batch.effects, "apply/version.sql")
    cursor.execute(version["untimed"])
    untimed: dict[str, list[StoredRecord]] = {}
    for collection, *row in cursor.fetchall():
        untimed.setdefault(collection, []).append(StoredRecord(*row))
    for collection, records in untimed.items():
        ((table, staged),) = batch.stage_again(collection, records).items()
        rows = [dict(zip(batch.effects.columns[table], values, strict=True)) for values in staged]
        sort_ats = [min(str(row["created_at"]), str(row["indexed_at"])) for row in rows]
        times = {"uris": [row["uri"] for row in rows], "revs": [row["rev"] for row in rows], "sort_ats": sort_ats}
        cursor.execute(version["time"], times)
