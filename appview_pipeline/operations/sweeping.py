"""Sweeps: what nothing needs any more is deleted, in short transactions beside the live writer (docs/sweeps.md).

All tables take turns, a step each, so a large backlog of one holds up no other. Half of the time is left to others. A
run ends after `APPVIEW_SWEEP_SECONDS`, and the next one goes on where it was.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import Busy, Cancelled, DatabaseError
from appview_pipeline.store.session_lock import session_lock
from appview_pipeline.store.sweeps import (
    BY_NAME,
    MAX_COUNTED,
    SWEEPS,
    Sweep,
    SweepState,
    begin_sweep,
    note_failure,
    read_sweeps,
    take_step,
)

log = logging.getLogger(__name__)

LOCK = "appview-pipeline: sweep"
SHARE = 0.5
"""How much of its time a run works; for the rest others have the disk to themselves."""


@dataclass
class Swept:
    """What a run did to one table. `rows`: deleted; `steps`: transactions; `longest`: seconds of the longest one.
    `is_over`: nothing more is left; `waits`: it was swept lately, and is not due. `failure`: why the run left it, in
    words; `is_ours`: that is a defect, and not that others were in the way."""

    sweep: Sweep
    rows: int = 0
    steps: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    is_over: bool = False
    waits: bool = False
    failure: str | None = None
    is_ours: bool = False


@dataclass
class SweepSummary:
    """What a run did, by name of the sweep. `ended`: why the run ended."""

    swept: dict[str, Swept] = field(default_factory=dict)
    seconds: float = 0.0
    ended: str = ""

    @property
    def rows(self) -> int:
        """Rows deleted, of all tables."""
        return sum(it.rows for it in self.swept.values())

    @property
    def longest(self) -> float:
        """Seconds of the longest transaction."""
        return max((it.longest for it in self.swept.values()), default=0.0)

    @property
    def failures(self) -> dict[str, str]:
        """Tables at which something of ours failed, and why."""
        return {name: it.failure for name, it in self.swept.items() if it.failure is not None and it.is_ours}

    def lines(self) -> list[str]:
        """The run as a table for people."""
        rows = [("sweep", "table", "rows", "longest", "")]
        for name, it in self.swept.items():
            state = it.failure or ("not due" if it.waits else "" if it.is_over else "more is left")
            rows.append((name, it.sweep.table, f"{it.rows:,}", f"{it.longest:.3f} s", state))
        return _table(rows)


@dataclass(frozen=True)
class Due:
    """What a sweep would delete now. `rows`: counted up to `store.sweeps.MAX_COUNTED`."""

    sweep: Sweep
    before: datetime
    rows: int


Progress = Callable[[SweepSummary], object]


def chosen(names: Collection[str]) -> list[Sweep]:
    """The sweeps of these names; without any, all. Raises `OperatorError` for a name that is none."""
    for name in names:
        if name not in BY_NAME:
            raise OperatorError(f"there is no sweep {name!r}: there are {', '.join(BY_NAME)}.")
    return [sweep for sweep in SWEEPS if not names or sweep.name in names]


def count_due(settings: Settings, database: Database, names: Collection[str] = ()) -> list[Due]:
    """Counts what the sweeps would delete now, and deletes nothing."""
    now = datetime.now(timezone.utc)
    found = []
    for sweep in chosen(names):
        before = sweep.before(settings, now)
        with database.connect("maintenance") as connection:
            found.append(Due(sweep, before, sweep.count_due(connection, before)))
    return found


def due_lines(found: Collection[Due]) -> list[str]:
    """What would be deleted, as a table for people."""
    rows = [("sweep", "table", "rows", "older than", "")]
    for it in found:
        number = f"{it.rows:,}" if it.rows < MAX_COUNTED else f"{it.rows:,} or more"
        # A sweep without a lifetime has no use for the column.
        before = "" if it.sweep.setting is None else f"{it.before:%Y-%m-%d %H:%M}"
        note = it.sweep.removes + ("; of these rows only some" if it.sweep.due_is_limit else "")
        rows.append((it.sweep.name, it.sweep.table, number, before, note))
    return _table(rows)


def run_sweeps(
    settings: Settings,
    database: Database,
    names: Collection[str] = (),
    *,
    seconds: float | None = None,
    every_walk: bool = False,
    progress: Progress = lambda so_far: None,
    stopped: Callable[[], bool] = lambda: False,
) -> SweepSummary:
    """Sweeps all tables, or those of `names`, until nothing is left or the time is over.

    `seconds`: limit of the time; None: `APPVIEW_SWEEP_SECONDS`. `every_walk`: also tables that are read from beginning
    to end and were so lately. `progress` is called after each transaction. A table whose rows others hold is left for
    the next run; so is one at which a statement fails, and the others go on.

    Raises `session_lock.LockTaken` where another run is at work, and `OperatorError` where the database can't be
    reached.
    """
    started = time.monotonic()
    until = started + (settings.sweep_seconds if seconds is None else seconds)
    summary = SweepSummary(swept={sweep.name: Swept(sweep) for sweep in chosen(names)})
    with session_lock(database, LOCK, taken="another run sweeps", patience=0.0):
        now = datetime.now(timezone.utc)
        with database.connect("reader") as connection:
            states = read_sweeps(connection)
        turns: deque[_Turn] = deque()
        for swept in summary.swept.values():
            state = states.get(swept.sweep.name)
            if not every_walk and _rests(swept.sweep, state, settings, now):
                swept.waits = True
                continue
            position = state.position if state is not None else None
            turns.append(_Turn(swept, swept.sweep.before(settings, now), position))
        while turns:
            if stopped():
                summary.ended = "it was asked to stop"
                break
            if time.monotonic() >= until:
                summary.ended = "its time is over"
                break
            turn = turns.popleft()
            took = turn.take(database, settings.sweep_rows)
            summary.seconds = time.monotonic() - started
            progress(summary)
            if not turn.is_over:
                turns.append(turn)
            if turns:
                time.sleep(min(took * (1 / SHARE - 1), max(0.0, until - time.monotonic())))
        else:
            summary.ended = "nothing more is left"
    summary.seconds = time.monotonic() - started
    return summary


def _rests(sweep: Sweep, state: SweepState | None, settings: Settings, now: datetime) -> bool:
    """Whether the table was read to its end a short while ago."""
    if not sweep.walks or state is None or state.position is not None or state.ended_at is None:
        return False
    return state.ended_at > now - timedelta(hours=settings.sweep_walk_hours)


@dataclass
class _Turn:
    """One table's part of a run: what is left to be done of it."""

    swept: Swept
    before: datetime
    position: str | None

    @property
    def is_over(self) -> bool:
        return self.swept.is_over or self.swept.failure is not None

    def take(self, database: Database, limit: int) -> float:
        """Does a step. Returns how many seconds it took."""
        swept, began = self.swept, time.monotonic()
        try:
            with database.connect("sweeper") as connection:
                if swept.steps == 0:
                    if swept.sweep.prepare is not None:
                        swept.sweep.prepare(connection)
                    begin_sweep(connection, swept.sweep.name)
                step = take_step(connection, swept.sweep, self.before, limit, self.position)
        except DatabaseError as error:
            # Steps are small: one that takes longer than a statement may would do so the next time, too.
            if isinstance(error, Busy) and not isinstance(error, Cancelled):
                self._leave(database, f"others are in the way: {error}")
            else:
                log.error("The sweep of %s failed: %s: %s", swept.sweep.table, error.statement, error)
                swept.is_ours = True
                self._leave(database, f"{error.statement}: {error}")
        else:
            swept.rows += step.rows
            swept.steps += 1
            self.position = step.position
            swept.is_over = step.position is None
        took = time.monotonic() - began
        swept.seconds += took
        swept.longest = max(swept.longest, took)
        return took

    def _leave(self, database: Database, why: str) -> None:
        self.swept.failure = why
        with database.connect("sweeper") as connection:
            begin_sweep(connection, self.swept.sweep.name)
            note_failure(connection, self.swept.sweep.name, why)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
