"""One chunk of a rerun: its records compared with their derived rows, and repaired (store/repair.py)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store import counters
from appview_pipeline.store.batch import SHARED_STAGES, BatchToApply, StoredRecord
from appview_pipeline.store.derived_rows import POST_TABLES, derived_rows, for_table
from appview_pipeline.store.effects import Effect
from appview_pipeline.store.evaluation import AFFECTED, evaluate_replies, lock_cross_repository
from appview_pipeline.store.placeholders import fill_placeholders, filled, filled_for
from appview_pipeline.store.repairs import MAX_EXAMPLES, Listed, Look, Repairs, Stage
from appview_pipeline.store.run_effects import run_effect
from appview_pipeline.store.sql import sections
from appview_pipeline.store.staging import copy_rows
from appview_pipeline.store.statements import count_rows, run, run_for_number


class Chunk:
    """One chunk: a transaction, which takes the locks of the write path or none of them (`locking`)."""

    def __init__(self, cursor: Cursor, stage: Stage, *, locking: bool) -> None:
        self._locking = locking
        self._cursor = cursor
        self._stage = stage
        self.locked_at = 0.0

    def look(self, listed: Listed) -> Look:
        """Finds the entries for which `repair` would write to a permanent table: all where it can't see which."""
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
            # Rows of others may hang on these: they are compared when these are right.
            return Look({uri: did for uri, did in listed.items() if uri in wrong} or listed, len(records), False)
        evaluated = self._evaluate(batch)
        self._notify(batch, evaluated=evaluated, moved=False)
        cursor.execute(look["changed"])
        changed = {key for (key,) in cursor.fetchall()}
        cursor.execute(look["written"])
        after = cursor.fetchone()
        assert before is not None and after is not None
        if changed or after != before:
            of_others, of_ours = (now - then for now, then in zip(after, before, strict=True))
            own: list[str] = []
            if of_ours:
                cursor.execute(look["own"])
                own = [uri for (uri,) in cursor.fetchall()]
            wrong = changed.union(own)
            explained = len(own) == of_ours and (bool(changed) or not of_others)
            if wrong and explained and wrong <= listed.keys():
                return Look({uri: did for uri, did in listed.items() if uri in wrong}, len(records))
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
        candidates = self._compare(batch)
        if gone or count_rows(cursor, "differing"):
            self._restore(records, candidates, gone)
            self._copy(batch)
        evaluated = self._evaluate(batch)
        self._notify(batch, evaluated=evaluated, moved=bool(gone or candidates))
        cursor.execute(filled(batch.effects, "repair/post.sql")["subjects"])
        repairs = Repairs(len(records))
        for table in counters.TABLES:
            changes = counters.recount_moved(cursor, table)
            repairs.add(table, len(changes), (change.key for change in changes))
        cursor.execute(chunk["result"], {"shown": MAX_EXAMPLES})
        for table, rows, examples in cursor.fetchall():
            repairs.add(table, rows, examples)
        return repairs

    def _read(self, listed: Listed) -> dict[str, StoredRecord]:
        self._cursor.execute(sections("repair/chunk.sql")["read"], {"uris": list(listed)})
        return {row[0]: StoredRecord(*row) for row in self._cursor.fetchall()}

    def _copy(self, batch: BatchToApply) -> None:
        """Makes the staging tables hold the rows of `batch`, and nothing else."""
        tables = {"stage_write": SHARED_STAGES["stage_write"], **batch.effects.columns}
        self._cursor.execute("; ".join(f"DELETE FROM {table}" for table in tables))
        with_rows = [table for table in tables if batch.rows.get(table)]
        for table in with_rows:
            copy_rows(self._cursor, table, tables[table], batch.rows[table])
        if with_rows:
            # Temporary tables are never analyzed by themselves, and their joins are with the largest tables there are.
            self._cursor.execute(f"ANALYZE {', '.join(with_rows)}")

    def _compare(self, batch: BatchToApply) -> list[StoredRecord]:
        """Fills `differing`. Returns the records that compete with those that differ."""
        candidates: list[StoredRecord] = []
        for effect in _staged(batch):
            self._cursor.execute(filled(batch.effects, f"apply/{effect.name}.sql")["differs"])
            if effect.natural_key is not None:
                statements = filled_for(batch.effects, effect, "repair/duplicates.sql")
                for name in ("rightful", "wrongful", "candidates"):
                    self._cursor.execute(statements[name], {"table": effect.table})
                found = [StoredRecord(*row) for row in self._cursor.fetchall()]
                for candidate in found:
                    self._cursor.execute(
                        "INSERT INTO differing (uri, table_name) VALUES (%s, %s)", (candidate.uri, effect.table)
                    )
                candidates += found
        return candidates

    def _restore(
        self, records: dict[str, StoredRecord], candidates: Sequence[StoredRecord], gone: Sequence[str]
    ) -> None:
        """Repairs what is in `differing`, and removes rows without a record. Leaves the staging tables in any state."""
        cursor, chunk = self._cursor, sections("repair/chunk.sql")
        cursor.execute("SELECT DISTINCT uri FROM differing")
        again = {uri: records[uri] for (uri,) in cursor.fetchall() if uri in records}
        again |= {candidate.uri: candidate for candidate in candidates}
        batch = self._stage(list(again.values()))
        posts = filled(batch.effects, "repair/post.sql")
        self._copy(batch)
        cursor.execute(chunk["hold"])
        # Another writer may delete what a restored record quotes or reposts: one of the two waits for the other (`hide`
        # in sql/apply/repost.sql).
        lock_cross_repository(cursor)
        gone_collections = {uri.split("/")[3] for uri in gone}
        if gone:
            for rows in derived_rows(batch.effects):
                if gone_collections.intersection(rows.collections):
                    cursor.execute(for_table(chunk["note_gone"], rows), {"table": rows.table})
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
                    cursor.execute(statements["report"], {"table": effect.table})
                for step in effect.follows:
                    if step.writes == "feed_item":
                        cursor.execute(fill_placeholders(posts["lacking_feed_item"], {"{table}": f'"{effect.table}"'}))
                        run(cursor, filled(batch.effects, f"apply/{effect.name}.sql"), step.statement)
        if gone:
            cursor.execute(posts["remains"])
            cursor.execute(posts["gone_events"])
        cursor.execute(chunk["note"])
        # What the restored records affect: replies below posts, and those that a gate, follow or list item decides on.
        run(cursor, filled(batch.effects, "apply/affected.sql"), "events", *AFFECTED)

    def _restore_posts(self, batch: BatchToApply) -> None:
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

    def _evaluate(self, batch: BatchToApply) -> bool:
        """Repairs the flags of posts, and finds whom posts notify. Returns False where no post was to be evaluated."""
        cursor, posts = self._cursor, filled(batch.effects, "repair/post.sql")
        rows = batch.rows
        if any(rows.get(table) for table in ("stage_post", "stage_threadgate", "stage_postgate")):
            cursor.execute(posts["gates"])
        if not rows.get("stage_post") and not count_rows(cursor, "affected"):
            return False
        affected = filled(batch.effects, "apply/affected.sql")
        evaluation = filled(batch.effects, "apply/evaluation.sql")
        if self._locking:
            lock_cross_repository(cursor)
        cursor.execute(posts["unflag"])
        if cursor.rowcount:
            cursor.execute(affected["affected_below"])
        cursor.execute(posts["collect"])
        cursor.execute(evaluation["collect_affected"])
        if count_rows(cursor, "evaluation"):
            evaluate_replies(cursor, batch.effects)
            cursor.execute(posts["flags_differ"])
            if cursor.rowcount:
                cursor.execute(posts["below_changed"])
                cursor.execute(affected["affected_below"])
                cursor.execute(evaluation["collect_affected"])
                evaluate_replies(cursor, batch.effects)
                cursor.execute(posts["forget_flags"])
                cursor.execute(posts["flags_differ"])
            run(cursor, evaluation, "flag", "pend")
        cursor.execute(posts["quotes_before"])
        if rows.get("stage_post_record"):
            run(cursor, filled(batch.effects, "apply/quote_evaluation.sql"), "evaluate")
        cursor.execute(posts["note_flags"])
        run(cursor, filled(batch.effects, "apply/post_notification.sql"), "collect", "notify")
        return True

    def _notify(self, batch: BatchToApply, *, evaluated: bool, moved: bool) -> None:
        """Deletes notifications that are superfluous, and writes those that are missing."""
        cursor, statements = self._cursor, filled(batch.effects, "repair/notification.sql")
        notification = filled(batch.effects, "apply/notification.sql")
        notifying = [effect for effect in _staged(batch) if effect.nsid in batch.effects.notified_once]
        for effect in notifying:
            names = {"{stage}": effect.stages[0].table, "{table}": f'"{effect.table}"'}
            cursor.execute(fill_placeholders(statements["live"], names))
            run(cursor, filled(batch.effects, f"apply/{effect.name}.sql"), "notify")
        if moved or count_rows(cursor, "touched"):
            pairs = filled(batch.effects, "apply/pair_notification.sql")
            if run_for_number(cursor, pairs["find_keys"]):
                run(cursor, pairs, "find_records", "find_further_keys", "derive", "move")
            run(cursor, notification, "withdraw", "keep")
        if not notifying and not evaluated:
            return
        for name in ("examine", "leave_alone", "distinct", "superfluous", "amended", "not_missing"):
            cursor.execute(statements[name])
        run(cursor, filled(batch.effects, "apply/muted_thread.sql"), "mute")
        if run_for_number(cursor, notification["insert"]):
            cursor.execute(statements["note"])


class _Seen:
    """A batch of which only one collection is seen."""

    def __init__(self, batch: BatchToApply, collection: str) -> None:
        self.rows = batch.rows
        self.effects = batch.effects
        self.seen = frozenset((collection,))
        self.report = batch.report
        self.texts: dict[str, bytes] = {}
        self.stage_again, self.restage = batch.stage_again, batch.restage
        self.links_of = batch.links_of
        self.withheld, self.others, self.content_of = batch.withheld, batch.others, batch.content_of


def _staged(batch: BatchToApply) -> list[Effect]:
    """The effects that have rows in a batch."""
    return [effect for effect in batch.effects.in_order if any(batch.rows.get(stage.table) for stage in effect.stages)]
