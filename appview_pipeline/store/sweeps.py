"""What is deleted by age, table by table: `SWEEPS` says what, after how long, and by which statement of `sql/sweep/`.

A sweep works in steps, each a short transaction that the caller commits: it deletes a limited number of rows, and
skips those that others hold. `pipeline.sweep` has how far each has come, so any step may be the last one for a while.
(operations/sweeping.py runs them; docs/sweeps.md has the table.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.settings import Settings
from appview_pipeline.store.repo_states import lock_repositories, note_closed_gaps
from appview_pipeline.store.sql import sections
from appview_pipeline.store.totals import count_reports

MAX_COUNTED = 10_000_000
"""Rows that are counted before a sweep; more are shown as this many."""


class Step(NamedTuple):
    """What a step did: rows deleted, and where the next one goes on (None: nothing more is to be done now)."""

    rows: int
    position: str | None


Parameters = dict[str, object]
"""`before`, `limit`, `position`: the parameters of a step's statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What is deleted of one table.

    `table`: its name; `asset`: key of the asset that reports it; `removes`: its rows, in words. `setting`: the field
    of `Settings` with the lifetime, in days or hours as its name says; None: no lifetime. `file`: in `sql/sweep/`, with
    `due` (counts what would be deleted; with `due_is_limit` what would be looked at) and the statement of the step.
    `walks`: the table is read from its beginning to its end, because no index finds what is old. `prepare`: runs
    before the first step, in transactions of its own.
    """

    name: str
    table: str
    asset: str
    removes: str
    setting: str | None
    file: str
    step: Callable[[Cursor, Sweep, Parameters], Step]
    due: str = "due"
    due_is_limit: bool = False
    walks: bool = False
    prepare: Callable[[Connection], None] | None = None

    def before(self, settings: Settings, now: datetime) -> datetime:
        """What is older than this may be deleted."""
        if self.setting is None:
            return now
        lifetime = getattr(settings, self.setting)
        return now - (timedelta(hours=lifetime) if self.setting.endswith("_hours") else timedelta(days=lifetime))

    def count_due(self, connection: Connection, before: datetime) -> int:
        """How many rows would be deleted now, counted up to `MAX_COUNTED`. Reads the table where no index helps."""
        with connection.cursor() as cursor:
            cursor.execute(sections(self.file)[self.due], {"before": before, "cap": MAX_COUNTED})
            ((count,),) = cursor.fetchall()
        return int(count)


def _delete(cursor: Cursor, sweep: Sweep, parameters: Parameters) -> Step:
    return _run(cursor, sweep.file, "sweep", parameters)


def _run(cursor: Cursor, file: str, section: str, parameters: Parameters) -> Step:
    cursor.execute(sections(file)[section], parameters)
    ((rows, position),) = cursor.fetchall()
    return Step(rows, position)


def _delete_overflow(cursor: Cursor, sweep: Sweep, parameters: Parameters) -> Step:
    return _run(cursor, sweep.file, "sweep_overflow", parameters)


def _delete_labels(cursor: Cursor, sweep: Sweep, parameters: Parameters) -> Step:
    """With the label lock, as all that write labels."""
    cursor.execute(sections("apply/label.sql")["lock"])
    return _delete(cursor, sweep, parameters)


def _delete_tombstones(cursor: Cursor, sweep: Sweep, parameters: Parameters) -> Step:
    """With the locks of the repositories, as batches: none of them looks for a tombstone that goes meanwhile."""
    statements = sections(sweep.file)
    cursor.execute(statements["page"], parameters)
    ((dids, position),) = cursor.fetchall()
    cursor.execute(statements["lock"], {"dids": dids})
    locked = [did for (did,) in cursor.fetchall()]
    if not locked:
        return Step(0, position)
    cursor.execute(statements["raise"], {"dids": locked})
    cursor.execute(statements["sweep"], {**parameters, "dids": locked, "last": position})
    ((rows,),) = cursor.fetchall()
    return Step(rows, position)


def _close_gaps(cursor: Cursor, sweep: Sweep, parameters: Parameters) -> Step:
    """Closes the gaps that are filled, with the locks of their repositories."""
    statements = sections(sweep.file)
    after = int(str(parameters["position"] or 0))
    cursor.execute(statements["proven"], {"after": after, "limit": parameters["limit"]})
    ((last, proven, dids),) = cursor.fetchall()
    closed = 0
    if proven:
        lock_repositories(cursor.connection, dids)
        cursor.execute(statements["close"], {"ids": proven})
        closed = cursor.rowcount
        note_closed_gaps(cursor.connection, dids)
    return Step(closed, None if last is None else str(last))


GAPS_FILLED = "filled gaps"

SWEEPS: tuple[Sweep, ...] = (
    Sweep(
        name="pending",
        table="pipeline.pending",
        asset="fetched_records",
        removes="missing records that are not fetched any more",
        setting="pending_hours",
        file="sweep/pending.sql",
        step=_delete,
        walks=True,
    ),
    Sweep(
        name="tombstones",
        table="pipeline.tombstone",
        asset="record",
        removes="tombstones below the floor of their repository",
        setting="tombstone_days",
        file="sweep/tombstone.sql",
        step=_delete_tombstones,
        walks=True,
    ),
    Sweep(
        name="dead letters",
        table="pipeline.dead_letter",
        asset="dead_letters",
        removes="dead letters, with their bytes",
        setting="dead_letter_days",
        file="sweep/dead_letter.sql",
        step=_delete,
    ),
    Sweep(
        name="counts of dead letters",
        table="pipeline.dead_letter_overflow, dead_letter_day",
        asset="dead_letters",
        removes="counts of dead letters by minute and day",
        setting="dead_letter_days",
        file="sweep/dead_letter.sql",
        step=_delete_overflow,
        due="due_overflow",
    ),
    Sweep(
        name="identities",
        table="pipeline.identity",
        asset="actors",
        removes="identities of accounts of which nothing else is known",
        setting="identity_days",
        file="sweep/identity.sql",
        step=_delete,
        walks=True,
    ),
    Sweep(
        name="label events",
        table="pipeline.label_event",
        asset="labels",
        removes="labels and negations that decide nothing any more",
        setting="label_event_days",
        file="sweep/label_event.sql",
        step=_delete_labels,
        due_is_limit=True,
    ),
    Sweep(
        name="expired labels",
        table="bsky.label",
        asset="labels",
        removes="labels that have expired",
        setting="expired_label_days",
        file="sweep/label.sql",
        step=_delete_labels,
    ),
    Sweep(
        name=GAPS_FILLED,
        table="pipeline.gap",
        asset="repositories",
        removes="closes gaps that were filled meanwhile (deletes nothing)",
        setting=None,
        file="sweep/gap.sql",
        step=_close_gaps,
        due="due_open",
        due_is_limit=True,
    ),
    Sweep(
        name="closed gaps",
        table="pipeline.gap",
        asset="repositories",
        removes="gaps that are closed",
        setting="gap_days",
        file="sweep/gap.sql",
        step=_delete,
    ),
    Sweep(
        name="fetched repositories",
        table="pipeline.backfill_queue",
        asset="repositories",
        removes="finished rows of the queue",
        setting="queue_days",
        file="sweep/backfill_queue.sql",
        step=_delete,
        walks=True,
    ),
    Sweep(
        name="hosts",
        table="pipeline.pds_host",
        asset="repositories",
        removes="hosts that were not seen for long",
        setting="host_days",
        file="sweep/host.sql",
        step=_delete,
    ),
    Sweep(
        name="batches",
        table="pipeline.batch",
        asset="firehose",
        removes="reports of micro-batches",
        setting="report_days",
        file="sweep/batch.sql",
        step=_delete,
        prepare=count_reports,
    ),
    Sweep(
        name="identity batches",
        table="pipeline.identity_batch",
        asset="actors",
        removes="reports of the identity process",
        setting="report_days",
        file="sweep/identity_batch.sql",
        step=_delete,
        prepare=count_reports,
    ),
    Sweep(
        name="fetch batches",
        table="pipeline.fetch_batch",
        asset="fetched_records",
        removes="reports of the fetch process",
        setting="report_days",
        file="sweep/fetch_batch.sql",
        step=_delete,
        prepare=count_reports,
    ),
    Sweep(
        name="backfill batches",
        table="pipeline.backfill_batch",
        asset="repositories",
        removes="reports of processes that fetch repositories",
        setting="report_days",
        file="sweep/backfill_batch.sql",
        step=_delete,
        prepare=count_reports,
    ),
    Sweep(
        name="upstreams",
        table="pipeline.upstream",
        asset="actors",
        removes="servers that did not fail lately",
        setting="report_days",
        file="sweep/upstream.sql",
        step=_delete,
    ),
    Sweep(
        name="table sizes",
        table="pipeline.table_size",
        asset="firehose",
        removes="sizes of tables",
        setting="table_size_days",
        file="sweep/table_size.sql",
        step=_delete,
    ),
)
"""All sweeps, in the order in which they take turns."""

BY_NAME: dict[str, Sweep] = {sweep.name: sweep for sweep in SWEEPS}


@dataclass(frozen=True, slots=True)
class SweepState:
    """A row of `pipeline.sweep`: `position` as of `Step`; `ended_at`: when nothing more was to be deleted."""

    name: str
    position: str | None
    ended_at: datetime | None
    rows_deleted: int


def read_sweeps(connection: Connection) -> dict[str, SweepState]:
    """What is known of the sweeps that have ever worked, by name."""
    with connection.cursor() as cursor:
        cursor.execute(sections("sweep/sweep.sql")["read"])
        return {row[0]: SweepState(*row) for row in cursor.fetchall()}


def begin_sweep(connection: Connection, name: str) -> None:
    """Notes that a run begins to work on a sweep."""
    with connection.cursor() as cursor:
        cursor.execute(sections("sweep/sweep.sql")["begin"], {"name": name})


def take_step(connection: Connection, sweep: Sweep, before: datetime, limit: int, position: str | None) -> Step:
    """Does one step of at most `limit` rows, and notes it in `pipeline.sweep`. The caller commits."""
    with connection.cursor() as cursor:
        step = sweep.step(cursor, sweep, {"before": before, "limit": limit, "position": position or None})
        cursor.execute(
            sections("sweep/sweep.sql")["note"], {"name": sweep.name, "rows": step.rows, "position": step.position}
        )
    return step


def note_steps(connection: Connection, name: str, rows: int, position: str | None) -> None:
    """Notes rows that were deleted otherwise than by `take_step`, and where to go on (None: nothing is left)."""
    with connection.cursor() as cursor:
        cursor.execute(sections("sweep/sweep.sql")["note"], {"name": name, "rows": rows, "position": position})


def note_failure(connection: Connection, name: str, error: str) -> None:
    """Notes why a run stopped working on a sweep before its time."""
    with connection.cursor() as cursor:
        cursor.execute(sections("sweep/sweep.sql")["failed"], {"name": name, "error": error[:500]})


def sweep_to_its_end(connection: Connection, name: str, before: datetime, limit: int = 5_000) -> int:
    """Sweeps one table of all that is older than `before`, committing after each step. Returns how many rows."""
    rows, position, sweep = 0, None, BY_NAME[name]
    if sweep.prepare is not None:
        sweep.prepare(connection)
    while True:
        with connection.cursor() as cursor:
            step = sweep.step(cursor, sweep, {"before": before, "limit": limit, "position": position or None})
        connection.commit()
        rows += step.rows
        position = step.position
        if position is None:
            return rows
