"""Two writers at once, one statement at a time. They switch where a test says, so a run is the same each time.

A writer has the turn until it comes to its next switch, inside its transaction or between two; then the other writer
has the turn. When the writer with the turn waits for a lock of the other one, the turn goes to the other one, as it
must. When both wait, PostgreSQL finds the deadlock.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as Connection

from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.settings import Settings
from appview_pipeline_tests.support.statement_hooks import Around, HookedDatabase

Switch = str | int
"""Where the turn passes: before the statement of that name, or before the n-th statement from now."""

PATIENCE = 0.002
"""Seconds after which a statement that is not done may be waiting for a lock."""
TOO_LONG = 60.0


@dataclass
class Outcome:
    """What happened between the writers: it shows that they met."""

    switches: Counter[str] = field(default_factory=Counter)
    """Switches by the statement before which they were, counted only while both writers were in a transaction."""
    waits: Counter[str] = field(default_factory=Counter)
    """Waits for a lock of the other writer, by the statement that waited."""
    deadlocks: Counter[str] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        self.switches += other.switches
        self.waits += other.waits
        self.deadlocks += other.deadlocks


class Turns:
    """Whose turn it is. Writer 0 begins; after the last switch each writer runs to its end."""

    def __init__(self, switches: Sequence[Switch], monitor: Connection) -> None:
        self._condition = threading.Condition()
        self._monitor = monitor
        self._switches = list(reversed(switches))
        self._next: Switch | None = self._switches.pop() if self._switches else None
        self._turn = 0
        self._pids = [0, 0]
        self._in_statement = [False, False]
        self._in_transaction = [False, False]
        self._done = [False, False]
        self.outcome = Outcome()
        self.trace: list[str] = []

    @contextmanager
    def statement(self, me: int, name: str, connection: Connection) -> Iterator[None]:
        """Around a statement of writer `me`."""
        with self._condition:
            self._pids[me] = connection.info.backend_pid
            self._await_turn(me)
            if self._is_switch(name):
                self._give_way(me, name)
                self._await_turn(me)
            self._in_statement[me] = self._in_transaction[me] = True
            self.trace.append(f"{'AB'[me]} {name}")
        try:
            yield
        except BaseException as error:
            with self._condition:
                self._in_statement[me] = self._in_transaction[me] = False
                self.trace.append(f"{'AB'[me]} {name}: {type(error).__name__}")
                self.outcome.deadlocks[name] += isinstance(error, errors.DeadlockDetected)
                if not self._done[1 - me]:
                    self._turn = 1 - me
                self._condition.notify_all()
            raise
        with self._condition:
            self._in_statement[me] = False
            self._in_transaction[me] = name != "commit"
            self._condition.notify_all()
            self._await_turn(me)

    def done(self, me: int) -> None:
        with self._condition:
            self._done[me] = True
            self._turn = 1 - me
            self._condition.notify_all()

    def _is_switch(self, name: str) -> bool:
        if isinstance(self._next, int):
            self._next -= 1
            switches = self._next <= 0
        else:
            switches = self._next == name
        if switches:
            self._next = self._switches.pop() if self._switches else None
        return switches

    def _give_way(self, me: int, name: str) -> None:
        other = 1 - me
        if self._done[other]:
            return
        # The other one waits for a lock: it takes its turn by itself once it has it.
        while self._in_statement[other]:
            if self._is_blocked(other):
                return
            self._condition.wait(0.0005)
        if self._in_transaction[me] and self._in_transaction[other]:
            self.outcome.switches[name] += 1
        self._turn = other
        self._condition.notify_all()

    def _await_turn(self, me: int) -> None:
        until = time.monotonic() + TOO_LONG
        while self._turn != me:
            notified = self._condition.wait(PATIENCE)
            assert time.monotonic() < until, f"writer {'AB'[me]} waits for ever after {self.trace[-5:]}"
            other = 1 - me
            if not notified and self._turn == other and self._in_statement[other] and self._is_blocked(other):
                self.outcome.waits[self.trace[-1].partition(" ")[2]] += 1
                self.trace.append(f"{'AB'[other]} waits")
                self._turn = me

    def _is_blocked(self, who: int) -> bool:
        """Whether a writer waits for a lock that the other one holds."""
        with self._monitor.cursor() as cursor:
            cursor.execute("SELECT %s = ANY(pg_blocking_pids(%s))", (self._pids[1 - who], self._pids[who]))
            ((blocked,),) = cursor.fetchall()
        return bool(blocked)


class TwoWriters:
    """Two writers and their connections to one database."""

    def __init__(self, url: str) -> None:
        self._monitor = psycopg2.connect(url.replace("+psycopg2", ""))
        self._monitor.autocommit = True
        self._settings = Settings(database_url=url)
        self._turns = Turns((), self._monitor)
        self._databases = [HookedDatabase(url, self._settings, self._around(me)) for me in (0, 1)]

    def _around(self, me: int) -> Around:
        return lambda name, connection: self._turns.statement(me, name, connection)

    def close(self) -> None:
        for database in self._databases:
            database.close()
        self._monitor.close()

    def write(
        self, batches: Sequence[Sequence[Sequence[Change]]], switches: Sequence[Switch]
    ) -> tuple[list[tuple[int, int]], Turns]:
        """Writes the `batches` of each. Returns (writer, batch number) in the order of COMMITs, and the turns."""
        self._turns = turns = Turns(switches, self._monitor)
        committed: list[tuple[int, int]] = []

        def write(me: int) -> None:
            try:
                writer = Writer(self._databases[me], self._settings, f"writer {me}")
                for number, batch in enumerate(batches[me]):
                    writer.write(batch, time.time())
                    committed.append((me, number))
            finally:
                turns.done(me)

        with ThreadPoolExecutor(2) as pool:
            for written in [pool.submit(write, me) for me in (0, 1)]:
                written.result()
        return committed, turns
