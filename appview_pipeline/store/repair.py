"""Reruns: derived rows compared with their records, and what differs repaired (docs/architecture.md).

A rerun lists what it will look at (`list_work`) and goes through the list chunk by chunk, a transaction each. It first
looks at a chunk (`look_at`): as of one snapshot, so that the live stream, whose batches are transactions too, can't
make anything look wrong, and without a lock that the live writer could wait for. Where nothing is wrong, which is the
usual case, that is all. What is wrong is repaired under locks (`repair_records`).

Under locks, a chunk stages its records as a batch is staged, locks its repositories as the live writer does,
stages its records anew if they have changed before it had the locks, and compares the derived rows with what the write
path's statements would write. What differs is taken out and added again by the very same statements of sql/apply/; what
is right is not touched. Counters are recounted (store/counters.py), never moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import NamedTuple

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store import counters
from appview_pipeline.store.apply import prepare
from appview_pipeline.store.batch import SHARED_STAGES, Batch, StoredRecord
from appview_pipeline.store.effects import Effect, Effects
from appview_pipeline.store.evaluation import AFFECTED, evaluate_replies, lock_cross_repository
from appview_pipeline.store.placeholders import fill_placeholders, filled, filled_for, quoted_list
from appview_pipeline.store.run_effects import run_effect
from appview_pipeline.store.sql import sections
from appview_pipeline.store.staging import copy_rows
from appview_pipeline.store.statements import count_rows, run, run_for_number

UNTOLD = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.QueryCanceled,
    psycopg2.IntegrityError,
)
"""Somebody else writes to the same rows, so that one snapshot can't tell whether they are right."""

SHOWN = 10
"""Examples kept for each table."""

PRIVATE_REASONS = ("subscribed-post", "contact-match")
"""Reasons of notifications that follow from private state when they were made, and not from records."""

POST_TABLES = (
    ("post", "add"),
    ("feed_item", "feed"),
    ("op_thread_reply", "op_thread"),
    ("post_embed_image", "add_embeds"),
    ("post_embed_gallery_image", "add_embeds"),
    ("post_embed_external", "add_embeds"),
    ("post_embed_video", "add_embeds"),
    ("post_embed_record", "add_embeds"),
    ("quote", "add_quotes"),
)
"""The tables of a post's rows, and the statement of sql/apply/post.sql that adds what is missing in each."""


class _Rows(NamedTuple):
    """Where a table's rows that have no record can be found: by account, or by URI where `creator` is None."""

    table: str
    collections: tuple[str, ...]
    uri: str = "uri"
    creator: str | None = "creator"
    order: str = '"sortAt" DESC'
    key: str = "uri"
    condition: str = "true"


@cache
def _derived_rows(effects: Effects) -> tuple[_Rows, ...]:
    """How rows without a record are found, for every table that rows are derived for."""
    posts = tuple(effects.evaluated)
    own = [
        _Rows(effect.table, (effect.nsid,), creator=None)
        if effect.account_rows is None
        else _Rows(effect.table, (effect.nsid,), creator=effect.account_rows.column, order=effect.account_rows.order)
        for effect in effects.in_order
    ]
    embeds = [
        _Rows(table, posts, uri="postUri", creator=None, key="postUri")
        for table, _ in POST_TABLES
        if table.startswith("post_embed_")
    ]
    stay = [
        reason
        for effect in effects.declared
        if effect.notifies and effect.notifies.stays
        for reason in effect.notifies.reasons
    ]
    return (
        *own,
        _Rows("feed_item", effects.derive(("feed_item",)), creator="originatorDid"),
        _Rows(
            "duplicate_record",
            tuple(effect.nsid for effect in effects.in_order if effect.natural_key is not None),
            creator=None,
        ),
        _Rows("quote", posts, creator=None),
        *embeds,
        _Rows("op_thread_reply", posts, creator=None, key="rootUri", condition='l."deletedAt" IS NULL'),
        _Rows(
            "notification",
            effects.derive(("notification",)),
            uri="recordUri",
            creator=None,
            key="recordUri",
            condition=f"l.reason NOT IN ({quoted_list((*stay, *PRIVATE_REASONS))})",
        ),
    )


Stage = Callable[[Sequence[StoredRecord]], Batch]
"""Stages stored records as a batch; records that can't be read are left out."""


@dataclass
class Repairs:
    """What was read and what was changed: rows by table of schema bsky, and some of their URIs or DIDs.

    `locked_seconds`: the longest that a transaction held locks which the live writer may wait for.
    """

    records: int = 0
    locked_seconds: float = 0.0
    changed: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, table: str, rows: int, examples: Iterable[str]) -> None:
        """Counts `rows` changed rows of a table."""
        if rows:
            self.changed[table] = self.changed.get(table, 0) + rows
            kept = self.examples.setdefault(table, [])
            kept.extend([example for example in examples if example not in kept][: SHOWN - len(kept)])

    def merge(self, other: Repairs) -> None:
        """Adds what another chunk did."""
        self.records += other.records
        self.locked_seconds = max(self.locked_seconds, other.locked_seconds)
        for table, rows in other.changed.items():
            self.add(table, rows, other.examples[table])


def prepare_repair(connection: Connection, effects: Effects) -> None:
    """Makes the temporary tables of a rerun on a connection, which all of the rerun then uses."""
    prepare(connection, effects)
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/staging.sql")[""])
    connection.commit()


def list_work(
    connection: Connection,
    effects: Effects,
    collections: Collection[str],
    *,
    since: datetime | None,
    until: datetime | None,
    orphans: int | None,
) -> int:
    """Lists the records of `collections` applied in [since, until) (None: without bound), and rows without a record.

    `orphans`: how many rows an account and table are searched for ones without a record, newest first; None: all.
    Returns the length of the list.
    """
    statements = sections("repair/worklist.sql")
    span = {"since": since, "until": until, "collections": list(collections)}
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL jit = off")
        cursor.execute(statements["clear"])
        cursor.execute(statements["records"], span)
        cursor.execute("ANALYZE rerun")
        for rows in _derived_rows(effects):
            if wanted := sorted(set(rows.collections) & set(collections)):
                name = "orphans_by_creator" if rows.creator is not None else "orphans_by_uri"
                cursor.execute(_of_table(statements[name], rows), {"collections": wanted, "orphans": orphans})
        if count_rows(cursor, "orphan"):
            cursor.execute(statements["merge"])
        length = count_rows(cursor, "rerun")
    connection.commit()
    return length


def forget_work(connection: Connection) -> None:
    """Empties the list."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/worklist.sql")["clear"])
    connection.commit()


def _of_table(statement: str, rows: _Rows) -> str:
    names = {
        "{table}": f'"{rows.table}"',
        "{uri}": f'"{rows.uri}"',
        "{creator}": f'"{rows.creator}"',
        "{order}": f"l.{rows.order}",
        "{key}": f'"{rows.key}"',
        "{condition}": rows.condition,
    }
    return fill_placeholders(statement, names)


@dataclass(frozen=True)
class Look:
    """`wrong`: the entries to be repaired; `records`: of how many there was a record (None: it can't be told)."""

    wrong: Listed
    records: int | None


Listed = Mapping[str, str]
"""Entries of the list: DIDs by URI."""


def entries(connection: Connection, after: int, until: int) -> Listed:
    """The entries of the list from `after` (exclusive) to `until`."""
    with connection.cursor() as cursor:
        cursor.execute(sections("repair/worklist.sql")["chunk"], {"after": after, "until": until})
        listed = dict(cursor.fetchall())
    connection.commit()
    return listed


def look_at(connection: Connection, listed: Listed, stage: Stage) -> Look:
    """Compares entries of the list without locks, and writes nothing. Finds those that have to be repaired: all of them
    where it can't be told which."""
    look = Look(listed, None)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SET LOCAL jit = off")
            look = _Chunk(cursor, stage, locking=False).look(listed)
        if look.wrong:
            connection.rollback()
        else:
            connection.commit()
    except UNTOLD:
        connection.rollback()
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise
    return look


def repair_records(connection: Connection, listed: Listed, stage: Stage) -> Repairs:
    """Compares and repairs entries of the list, and commits.

    On an error nothing of the chunk is written; the errors are those of `store.apply.apply`.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL jit = off")
            chunk = _Chunk(cursor, stage, locking=True)
            repairs = chunk.repair(listed)
        connection.commit()
        repairs.locked_seconds = time.monotonic() - chunk.locked_at
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise
    return repairs


def recount_subjects(connection: Connection, most: int) -> Repairs | None:
    """Recounts the counters of the next `most` subjects of the rerun's records and commits. None when all are done."""
    repairs = Repairs()
    for counted in counters.TABLES:
        began = time.monotonic()
        recounted = counters.recount_subjects(connection, counted, most)
        repairs.records += recounted.compared
        repairs.locked_seconds = max(repairs.locked_seconds, time.monotonic() - began)
        repairs.add(counted, len(recounted.changes), (change.key for change in recounted.changes))
    return repairs if repairs.records else None


class _Chunk:
    """One chunk: a transaction, which takes the locks of the write path or none of them (`locking`)."""

    def __init__(self, cursor: Cursor, stage: Stage, *, locking: bool) -> None:
        self._locking = locking
        self._cursor = cursor
        self._stage = stage
        self.locked_at = 0.0

    def look(self, listed: Listed) -> Look:
        """Finds the entries for which `repair` would write to a permanent table, all where that can't be told."""
        cursor = self._cursor
        records = self._read(listed)
        gone = listed.keys() - records.keys()
        batch = self._stage(list(records.values()))
        self._copy(batch)
        cursor.execute(filled(batch.effects, "repair/post.sql")["subjects"])
        cursor.execute("SAVEPOINT look")
        look = sections("repair/look.sql")
        cursor.execute(look["written"])
        before = cursor.fetchone()
        self._compare(batch)
        cursor.execute("SELECT DISTINCT uri FROM differing")
        if wrong := gone | {uri for (uri,) in cursor.fetchall()}:
            return Look({uri: did for uri, did in listed.items() if uri in wrong} or listed, len(records))
        told = self._judge(batch)
        self._notify(batch, told, False)
        cursor.execute(look["changed"])
        changed = {key for (key,) in cursor.fetchall()}
        cursor.execute(look["written"])
        after = cursor.fetchone()
        assert before is not None and after is not None
        if changed or after != before:
            if changed and changed <= listed.keys() and after[1] == before[1]:
                return Look({uri: did for uri, did in listed.items() if uri in changed}, len(records))
            return Look(listed, len(records))
        cursor.execute("ROLLBACK TO SAVEPOINT look")
        return Look({}, len(records))

    def repair(self, listed: Listed) -> Repairs:
        """Compares and repairs `listed`."""
        cursor, chunk = self._cursor, sections("repair/chunk.sql")
        records = self._read(listed)
        batch = self._stage(list(records.values()))
        self._copy(batch)
        cursor.execute(chunk["lock"], {"dids": sorted(set(listed.values()))})
        self.locked_at = time.monotonic()
        if (now := self._read(listed)) != records:
            records = now
            batch = self._stage(list(records.values()))
            self._copy(batch)
        gone = sorted(listed.keys() - records.keys())
        if gone:
            cursor.execute(chunk["gone"], {"uris": gone})
        relatives = self._compare(batch)
        if gone or count_rows(cursor, "differing"):
            self._restore(records, relatives, gone)
            self._copy(batch)
        told = self._judge(batch)
        self._notify(batch, told, bool(gone or relatives))
        cursor.execute(filled(batch.effects, "repair/post.sql")["subjects"])
        repairs = Repairs(len(records))
        for table in counters.TABLES:
            changes = counters.recount_moved(cursor, table)
            repairs.add(table, len(changes), (change.key for change in changes))
        cursor.execute(chunk["result"], {"shown": SHOWN})
        for table, rows, examples in cursor.fetchall():
            repairs.add(table, rows, examples)
        return repairs

    def _read(self, listed: Listed) -> dict[str, StoredRecord]:
        self._cursor.execute(sections("repair/chunk.sql")["read"], {"uris": list(listed)})
        return {row[0]: StoredRecord(*row) for row in self._cursor.fetchall()}

    def _copy(self, batch: Batch) -> None:
        """Makes the staging tables hold the rows of `batch`, and nothing else."""
        tables = {"stage_write": SHARED_STAGES["stage_write"], **batch.effects.columns}
        self._cursor.execute("; ".join(f"DELETE FROM {table}" for table in tables))
        filled = [table for table in tables if batch.rows.get(table)]
        for table in filled:
            copy_rows(self._cursor, table, tables[table], batch.rows[table])
        if filled:
            # Temporary tables are never analyzed by themselves, and their joins are with the largest tables there are.
            self._cursor.execute(f"ANALYZE {', '.join(filled)}")

    def _compare(self, batch: Batch) -> list[StoredRecord]:
        """Fills `differing`. Returns the records that compete with those that differ."""
        relatives: list[StoredRecord] = []
        for effect in _staged(batch):
            self._cursor.execute(filled(batch.effects, f"apply/{effect.name}.sql")["differs"])
            if effect.natural_key is not None:
                statements, of_table = (
                    filled_for(batch.effects, effect, "repair/duplicates.sql"),
                    {"table": effect.table},
                )
                self._cursor.execute(statements["rightful"], of_table)
                self._cursor.execute(statements["wrongful"], of_table)
                self._cursor.execute(statements["relatives"], of_table)
                found = [StoredRecord(*row) for row in self._cursor.fetchall()]
                for relative in found:
                    self._cursor.execute(
                        "INSERT INTO differing (uri, table_name) VALUES (%s, %s)", (relative.uri, effect.table)
                    )
                relatives += found
        return relatives

    def _restore(
        self, records: dict[str, StoredRecord], relatives: Sequence[StoredRecord], gone: Sequence[str]
    ) -> None:
        """Repairs what is in `differing`, and takes out what has no record. Leaves the staging tables as they fall."""
        cursor, chunk = self._cursor, sections("repair/chunk.sql")
        cursor.execute("SELECT DISTINCT uri FROM differing")
        again = {uri: records[uri] for (uri,) in cursor.fetchall() if uri in records}
        again |= {relative.uri: relative for relative in relatives}
        batch = self._stage(list(again.values()))
        posts = filled(batch.effects, "repair/post.sql")
        self._copy(batch)
        cursor.execute(chunk["hold"])
        # A writer that deletes what a restored record quotes or reposts is waited for, or waits (`hide` in
        # sql/apply/repost.sql).
        lock_cross_repository(cursor)
        gone_collections = {uri.split("/")[3] for uri in gone}
        if gone:
            for rows in _derived_rows(batch.effects):
                if gone_collections.intersection(rows.collections):
                    cursor.execute(_of_table(chunk["note_gone"], rows), {"table": rows.table})
        cursor.execute(posts["feed_item"])
        for effect in batch.effects.in_order:
            staged, removed = effect in _staged(batch), effect.nsid in gone_collections
            if effect.is_evaluated:
                if removed:
                    run(cursor, filled(batch.effects, "apply/post.sql"), "remove")
                if staged:
                    self._restore_posts(batch)
            elif staged or removed:
                cursor.execute(chunk["touch"], {"collection": effect.nsid, "table": effect.table})
                run_effect(cursor, effect, _Seen(batch, effect.nsid), frozenset(("repaired",)))
                if effect.natural_key is not None:
                    statements = filled_for(batch.effects, effect, "repair/duplicates.sql")
                    cursor.execute(statements["follow_head"], {"table": effect.table})
                    cursor.execute(statements["name"], {"table": effect.table})
                if effect.derives("feed_item"):
                    cursor.execute(posts["lacking_of_reposts"])
                    run(cursor, filled(batch.effects, f"apply/{effect.name}.sql"), "feed")
        if gone:
            cursor.execute(posts["remains"])
            cursor.execute(posts["gone_events"])
        cursor.execute(chunk["note"])
        # Whom the restored records concern: replies below posts, and those that a gate, follow or list item decides on.
        thread = filled(batch.effects, "apply/thread.sql")
        for name in ("events", *AFFECTED):
            cursor.execute(thread[name])

    def _restore_posts(self, batch: Batch) -> None:
        posts, done = filled(batch.effects, "repair/post.sql"), set()
        for table, _ in POST_TABLES:
            if table in posts and table != "feed_item":
                self._cursor.execute(posts[table])
        for table, statement in POST_TABLES:
            if statement not in done:
                self._cursor.execute(posts["lacking"], {"table": table})
                run(self._cursor, filled(batch.effects, "apply/post.sql"), statement)
                done.add(statement)
            if table == "post":
                run(self._cursor, filled(batch.effects, "apply/post.sql"), "count")

    def _judge(self, batch: Batch) -> bool:
        """Sets the flags of posts right, and says whom posts notify. False: there are no posts to be judged."""
        cursor, posts = self._cursor, filled(batch.effects, "repair/post.sql")
        rows = batch.rows
        if any(rows.get(table) for table in ("stage_post", "stage_threadgate", "stage_postgate")):
            cursor.execute(posts["gates"])
        if not rows.get("stage_post") and not count_rows(cursor, "affected"):
            return False
        thread = filled(batch.effects, "apply/thread.sql")
        if self._locking:
            lock_cross_repository(cursor)
        cursor.execute(posts["unjudged"])
        if cursor.rowcount:
            cursor.execute(thread["affected_below"])
        cursor.execute(posts["judge"])
        cursor.execute(thread["collect_affected"])
        if count_rows(cursor, "judgement"):
            evaluate_replies(cursor, batch.effects)
            cursor.execute(posts["misjudged"])
            if cursor.rowcount:
                cursor.execute(posts["rejudged"])
                cursor.execute(thread["affected_below"])
                cursor.execute(thread["collect_affected"])
                evaluate_replies(cursor, batch.effects)
                cursor.execute(posts["misjudged_again"])
                cursor.execute(posts["misjudged"])
            run(cursor, filled(batch.effects, "apply/thread.sql"), "flag", "pend")
        cursor.execute(posts["quotes_before"])
        if rows.get("stage_post_record"):
            run(cursor, filled(batch.effects, "apply/thread.sql"), "judge_quotes")
        cursor.execute(posts["note_flags"])
        run(cursor, filled(batch.effects, "apply/post_notification.sql"), "collect", "tell")
        return True

    def _notify(self, batch: Batch, judged: bool, moved: bool) -> None:
        """Notifications: what is superfluous goes, what is missing is written."""
        cursor, statements = self._cursor, filled(batch.effects, "repair/notification.sql")
        told = [effect for effect in _staged(batch) if effect.nsid in batch.effects.notified_once]
        for effect in told:
            names = {"{stage}": effect.stages[0].table, "{table}": f'"{effect.table}"'}
            cursor.execute(fill_placeholders(statements["live"], names))
            run(cursor, filled(batch.effects, f"apply/{effect.name}.sql"), "notify")
        if moved or count_rows(cursor, "touched"):
            if run_for_number(cursor, filled(batch.effects, "apply/told_pair.sql")["near"]):
                run(cursor, filled(batch.effects, "apply/told_pair.sql"), "records", "further", "wanted", "pass_on")
            run(cursor, filled(batch.effects, "apply/notification.sql"), "withdraw", "remember")
        if not told and not judged:
            return
        for name in ("examine", "leave_alone", "wanted_once", "superfluous", "amended", "not_missing"):
            cursor.execute(statements[name])
        run(cursor, filled(batch.effects, "apply/notification.sql"), "silence")
        if run_for_number(cursor, filled(batch.effects, "apply/notification.sql")["insert"]):
            cursor.execute(statements["note"])


class _Seen:
    """A batch of which one collection is looked at."""

    def __init__(self, batch: Batch, collection: str) -> None:
        self.rows = batch.rows
        self.effects = batch.effects
        self.seen = frozenset((collection,))
        self.report = batch.report
        self.texts: dict[str, bytes] = {}
        self.stage_again = batch.stage_again
        self.links_of = batch.links_of


def _staged(batch: Batch) -> list[Effect]:
    """The effects that have rows in a batch."""
    return [effect for effect in batch.effects.in_order if any(batch.rows.get(stage.table) for stage in effect.stages)]
