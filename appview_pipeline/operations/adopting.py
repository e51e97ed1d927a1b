"""`appview-pipeline adopt`: takes over a database that the reference's own indexer has filled (docs/serve.md).

The tables stay where they are, and readers go on reading. Nothing is changed before everything has been looked at. Then
each step (`store.adoption.STEPS`) goes through its table part by part, a transaction each, and notes in it how far it
has come. So an adoption that is killed goes on where it was.

What follows from records is compared with them and repaired as by a rerun. What only the reference knows (private
state, moderation) is not touched.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from appview_pipeline.addresses import relay_name
from appview_pipeline.errors import OperatorError, Stopped
from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.ingest.adopted_records import AdoptedRecords
from appview_pipeline.ingest.rerun import retry_while_busy
from appview_pipeline.operations.adoption_processes import PARTS, RECORDS, ROWS, go_through, session
from appview_pipeline.settings import Settings
from appview_pipeline.store import adoption as state
from appview_pipeline.store import adoption_steps as steps
from appview_pipeline.store import counters, migrate
from appview_pipeline.store.adoption import Adoption, Options
from appview_pipeline.store.adoption_check import Findings, examine, find_schema
from appview_pipeline.store.adoption_ranges import end_ranges, make_ranges
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.leaving import is_left
from appview_pipeline.store.repair import prepare_repair
from appview_pipeline.store.session_lock import LockTaken, session_lock

log = logging.getLogger(__name__)

LOCK = "adoption"
"""Name of the lock that makes an adoption the only one of its database."""
FIRST_VERSION = "0001"
"""The schema version that an adopted database has once columns and indexes are added."""

Progress = Callable[[str, int], object]
"""Called with the step, or what is looked at, and how many rows more it has gone through."""


@dataclass
class AdoptionSummary:
    """What an adoption did. `counts`: by kind, those of interrupted calls included; `seconds`: of this call;
    `was_finished`: there was nothing left to do."""

    adoption: Adoption
    seconds: float = 0.0
    was_finished: bool = False
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "began_at": self.adoption.began_at.isoformat(),
            "finished_at": None if self.adoption.finished_at is None else self.adoption.finished_at.isoformat(),
            "from_schema": self.adoption.from_schema,
            "counts": dict(self.adoption.counts),
            "seconds": round(self.seconds, 3),
            "warnings": self.warnings,
        }

    def lines(self) -> list[str]:
        """All of it, for people."""
        lines = [self.adoption.sentence]
        lines += [f"{number:>13,}  {what}" for what, number in sorted(self.adoption.counts.items())]
        return lines + self.warnings


def check_adoption(
    settings: Settings,
    database: Database,
    *,
    schema: str | None = None,
    watch: bool = True,
    progress: Progress = lambda step, rows: None,
) -> Findings:
    """What an adoption of the database would find, and what keeps it from beginning. Changes nothing.

    `schema`: of the reference's tables, None: the only one that has them. Raises `OperatorError` where there is none.
    """
    with database.connect("maintenance") as connection:
        adoption = state.read_adoption(connection)
        if adoption is not None and not (adoption.finished_at is not None and is_left(connection)):
            raise OperatorError(adoption.sentence)
        found = find_schema(connection, schema)
        return examine(connection, database.url, found, watch=watch, progress=lambda what: progress(what, 0))


def adopt(
    settings: Settings,
    database: Database,
    *,
    schema: str | None = None,
    cursor: int | None = None,
    compare: bool = False,
    from_keys: bool = False,
    processes: int = 1,
    watch: bool = True,
    progress: Progress = lambda step, rows: None,
    stopped: Callable[[], bool] = lambda: False,
) -> AdoptionSummary:
    """Takes the database over, or goes on where an adoption was interrupted.

    `cursor`: the sequence number that the reference's indexer had reached in the stream of the settings' relay, None:
    unknown. `compare`: queues all repositories to be compared with the network. `from_keys`: revs follow from record
    keys, for a database that was indexed from repositories. `processes`: how many go through the largest steps, each
    with a session; another call may have another number. Raises `OperatorError` with what is in
    its way, where another process is adopting the database, and where an adoption goes on with other options than it
    began with (none given: those count); `Stopped` where `stopped` says so, between two parts.
    """
    started = time.monotonic()
    try:
        with session_lock(database, LOCK, taken="another process is adopting this database", patience=0.0):
            options = Options(cursor, compare, from_keys)
            return _Adopting(settings, database, processes, progress, stopped).run(schema, options, watch, started)
    except LockTaken as error:
        sentence = str(error)
        raise OperatorError(f"{sentence[:1].upper()}{sentence[1:]}: wait for it to end.") from None


@dataclass
class _Adopting:
    settings: Settings
    database: Database
    processes: int
    progress: Progress
    stopped: Callable[[], bool]

    def run(self, schema: str | None, options: Options, watch: bool, started: float) -> AdoptionSummary:
        with self.database.connect("maintenance") as connection:
            adoption = state.read_adoption(connection)
            if adoption is not None and adoption.finished_at is not None and not is_left(connection):
                return AdoptionSummary(adoption, was_finished=True)
        if adoption is None or adoption.finished_at is not None:
            findings = check_adoption(self.settings, self.database, schema=schema, watch=watch, progress=self.progress)
            if findings.obstacles:
                raise OperatorError("The adoption can't begin. " + " ".join(findings.obstacles))
            for what in findings.left_alone:
                log.info("left alone: %s", what)
            with self.database.connect("maintenance") as connection:
                adoption = state.make_state(connection, findings.schema, options)
        else:
            adoption.check_options(schema, options)
            with self.database.connect("maintenance") as connection:
                state.make_tables(connection)  # it may have begun with an earlier release
            log.info("%s", adoption.sentence)
        names = list(state.STEPS)
        for name in names[names.index(adoption.step) :]:
            began = time.monotonic()
            position = adoption.position if name == adoption.step else None
            log.info("step %d of %d: %s", names.index(name) + 1, len(names), state.STEPS[name])
            getattr(self, f"_{name}")(name, position, adoption)
            self._move_on(names, name)
            log.info("done in %.1f s", time.monotonic() - began)
        with self.database.connect("maintenance") as connection:
            ended = state.read_adoption(connection)
        assert ended is not None
        return AdoptionSummary(ended, seconds=time.monotonic() - started, warnings=self._warnings(ended))

    def _warnings(self, adoption: Adoption) -> list[str]:
        if not adoption.compare or self.settings.backfill_days == -1:
            return []
        return [
            "Start the pipeline with APPVIEW_BACKFILL_DAYS=-1, or the queued repositories are not compared whole: with "
            f"{self.settings.backfill_days} it fetches of them "
            + (f"the last {self.settings.backfill_days} days." if self.settings.backfill_days else "nothing.")
        ]

    def _move_on(self, names: list[str], name: str) -> None:
        if name != names[-1]:
            with self.database.connect("maintenance") as connection, connection.cursor() as cursor:
                done = end_ranges(cursor, name)
                state.move(cursor, names[names.index(name) + 1], None, done)

    # --- the steps ---

    def _schema(self, step: str, position: str | None, adoption: Adoption) -> None:
        with self.database.connect("maintenance") as connection:
            steps.rename_schema(connection, adoption.from_schema)

    def _columns(self, step: str, position: str | None, adoption: Adoption) -> None:
        with self.database.connect("maintenance") as connection:
            steps.add_columns(connection)

    def _revs(self, step: str, position: str | None, adoption: Adoption) -> None:
        with session(self.database) as connection:
            while True:
                pages = steps.pages_of_records(connection)
                page, vacuum_at = int(position or 0), max(pages // steps.VACUUMS, 1)
                while page < pages:
                    until = min(page + steps.REVS_PAGES, pages)
                    self._part(
                        connection,
                        step,
                        str(until),
                        partial(steps.fill_revs, first=page, until=until, from_keys=adoption.from_keys),
                    )
                    if until // vacuum_at > page // vacuum_at and pages > steps.REVS_PAGES:
                        steps.vacuum_records(self.database)
                    page = until
                if not self._has_records_without_rev(connection):
                    return
                # Somebody wrote records meanwhile, or a page was left out: once more from the beginning.
                position = None

    def _has_records_without_rev(self, connection: Connection) -> bool:
        pages = steps.pages_of_records(connection)
        for page in range(0, pages, steps.REVS_PAGES):
            self._stop_if_asked()
            if steps.has_records_without_rev(connection, page, page + steps.REVS_PAGES):
                return True
        return False

    def _notifications(self, step: str, position: str | None, adoption: Adoption) -> None:
        with session(self.database) as connection:
            self._walk(connection, step, position, [("repeated", "notifications", "next", steps.remove_repeated)])

    def _migrations(self, step: str, position: str | None, adoption: Adoption) -> None:
        if not steps.build_indexes(self.database):
            with self.database.connect("maintenance") as connection, connection.cursor() as cursor:
                state.move(cursor, "notifications", None)
                connection.commit()
            raise OperatorError(
                "Something has written notifications again since repeated ones were removed: stop the reference's "
                "indexer, and run `appview-pipeline adopt` again."
            )
        migrate.stamp(self.database.url, FIRST_VERSION)
        migrate.upgrade(self.database.url, adopting=True)
        steps.complete_migrations(self.database)

    def _repositories(self, step: str, position: str | None, adoption: Adoption) -> None:
        with session(self.database) as connection:
            after = position or ""
            while True:
                with connection.cursor() as cursor:
                    until = steps.next_key(cursor, "repositories", "next", after, ROWS)
                connection.rollback()
                if until is None:
                    return
                self._part(connection, step, until, partial(steps.list_accounts, after=after, until=until))
                after = until

    def _history(self, step: str, position: str | None, adoption: Adoption) -> None:
        self._go_through(step)

    def _records(self, step: str, position: str | None, adoption: Adoption) -> None:
        self._go_through(step)

    def _remains(self, step: str, position: str | None, adoption: Adoption) -> None:
        tables = steps.tables_of_rows(EFFECTS)
        with session(self.database) as connection:
            self._walk(connection, step, position, [("passed on", "notifications", "next", steps.pass_on)])
            prepare_repair(connection, EFFECTS)
            records = AdoptedRecords(self.settings, self.database, connection)
            names = list(tables)
            table, after = _place(position)
            for name in names[names.index(table) if table in names else 0 :]:
                key: str | None = after if name == table else ""
                while key is not None:
                    self._stop_if_asked()
                    with connection.cursor() as cursor:
                        key, uris = steps.rows_without_record(cursor, tables[name], key, ROWS)
                    connection.commit()
                    done = records.remove_rows(uris)
                    self._note(connection, step, _at(name, key), done)

    def _counters(self, step: str, position: str | None, adoption: Adoption) -> None:
        table, after = _place(position)
        tables = list(counters.TABLES)
        with session(self.database) as connection:
            counters.prepare_recount(connection)
            for name in tables[tables.index(table) if table in tables else 0 :]:
                key: str | None = after if name == table else ""
                while key is not None:
                    self._stop_if_asked()
                    recount = retry_while_busy(
                        connection,
                        partial(counters.recount_next, connection, name, key, RECORDS, rewrite=True),
                    )
                    key = recount.reached
                    done = Counter({f"repaired {name}": len(recount.changes)})
                    self._note(connection, step, _at(name, key), done)

    def _end(self, step: str, position: str | None, adoption: Adoption) -> None:
        with session(self.database) as connection:
            parts = {"floors": steps.raise_floors}
            if adoption.compare:
                parts["queue"] = steps.queue_repositories
            part, after = _place(position)
            names = list(parts)
            for name in names[names.index(part) if part in names else 0 :]:
                key: str | None = after if name == part else ""
                while key is not None:
                    self._stop_if_asked()
                    with connection.cursor() as cursor:
                        key, done = parts[name](cursor, key, ROWS)
                        state.move(cursor, step, _at(name, key), done)
                    connection.commit()
            with connection.cursor() as cursor:
                relay, shard = relay_name(self.settings.relay_url), str(self.settings.shard)
                steps.prepare_stream(cursor, relay, shard, adoption.cursor)
                state.end(cursor)
            connection.commit()

    # --- parts of steps ---

    def _go_through(self, step: str) -> None:
        """Goes through the ranges of a step, with all processes."""
        with self.database.connect("maintenance") as connection:
            make_ranges(connection, step, PARTS[step])
        go_through(self.settings, self.database, step, self.processes, partial(self.progress, step), self.stopped)

    def _walk(
        self,
        connection: Connection,
        step: str,
        position: str | None,
        parts: list[tuple[str, str, str, steps.OfSpan]],
    ) -> None:
        """Goes through tables in the order of their keys: name of the part, file and statement that find the end of the
        next rows, and what is done with them."""
        part, after = _place(position)
        known = [name for name, _, _, _ in parts]
        for name, file, statement, do in parts[known.index(part) if part in known else 0 :]:
            key: str | None = after if name == part else ""
            while key is not None:
                with connection.cursor() as cursor:
                    until = steps.next_key(cursor, file, statement, key, ROWS)
                connection.rollback()
                self._part(connection, step, _at(name, until), steps.of_span(do, key, until))
                key = until

    def _part(self, connection: Connection, step: str, position: str, do: steps.Part) -> None:
        """Does a part of a step and notes that, in one transaction, which is tried again while others hold the rows."""
        self._stop_if_asked()

        def attempt() -> steps.Counts:
            with connection.cursor() as cursor:
                done = do(cursor)
                state.move(cursor, step, position, done)
            connection.commit()
            return done

        done = retry_while_busy(connection, attempt)
        self.progress(step, sum(done.values()))

    def _note(self, connection: Connection, step: str, position: str, done: Counter[str]) -> None:
        with connection.cursor() as cursor:
            state.move(cursor, step, position, done)
        connection.commit()
        self.progress(step, done.get("records", 0) or sum(done.values()))

    def _stop_if_asked(self) -> None:
        if self.stopped():
            raise Stopped


LAST_KEY = "\x7f"
"""After every key: a part of a step that is done."""


def _place(position: str | None) -> tuple[str, str]:
    """The part and the key of a position."""
    part, _, key = (position or "").partition("|")
    return part, key


def _at(part: str, key: str | None) -> str:
    """The position after `key` in a part of a step; None: the part is done."""
    return f"{part}|{LAST_KEY if key is None else key}"
