"""Two writers at once, a statement of one at a time: they meet where a test says, and each time in the same way.

A writer has the turn until it comes to its next meeting point, inside of its transaction or between two; then the other
has it. When who has the turn waits for a lock of the other's, the turn goes to the other, as it must; when both wait
PostgreSQL finds the deadlock.
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

Meeting = str | int
"""Where the turn passes: before the statement of that name, or before the n-th statement from now."""

PATIENCE = 0.002
"""Seconds after which a statement that is not done may be waiting for a lock."""
TOO_LONG = 60.0


@dataclass
class Met:
    """What happened, to show that the tests are not idle."""

    meetings: Counter[str] = field(default_factory=Counter)
    """By the statement before which a writer gave way, both of them in the midst of a transaction."""
    waits: Counter[str] = field(default_factory=Counter)
    """By the statement that had to wait for a lock of the other writer's."""
    deadlocks: Counter[str] = field(default_factory=Counter)

    def add(self, other: Met) -> None:
        self.meetings += other.meetings
        self.waits += other.waits
        self.deadlocks += other.deadlocks


class Turns:
    """Whose turn it is. The first slice is writer 0's; after the last meeting each runs to its end."""

    def __init__(self, meetings: Sequence[Meeting], monitor: Connection) -> None:
        self._condition = threading.Condition()
        self._monitor = monitor
        self._meetings = list(reversed(meetings))
        self._next: Meeting | None = self._meetings.pop() if self._meetings else None
        self._turn = 0
        self._pids = [0, 0]
        self._in_statement = [False, False]
        self._in_transaction = [False, False]
        self._done = [False, False]
        self.met = Met()
        self.trace: list[str] = []

    @contextmanager
    def statement(self, me: int, name: str, connection: Connection) -> Iterator[None]:
        """Around a statement of writer `me`."""
        with self._condition:
            self._pids[me] = connection.info.backend_pid
            self._await_turn(me)
            if self._is_met(name):
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
                self.met.deadlocks[name] += isinstance(error, errors.DeadlockDetected)
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

    def _is_met(self, name: str) -> bool:
        if isinstance(self._next, int):
            self._next -= 1
            met = self._next <= 0
        else:
            met = self._next == name
        if met:
            self._next = self._meetings.pop() if self._meetings else None
        return met

    def _give_way(self, me: int, name: str) -> None:
        other = 1 - me
        if self._done[other]:
            return
        # It waits for a lock; once it has got it it comes to its turn by itself.
        while self._in_statement[other]:
            if self._is_blocked(other):
                return
            self._condition.wait(0.0005)
        if self._in_transaction[me] and self._in_transaction[other]:
            self.met.meetings[name] += 1
        self._turn = other
        self._condition.notify_all()

    def _await_turn(self, me: int) -> None:
        until = time.monotonic() + TOO_LONG
        while self._turn != me:
            notified = self._condition.wait(PATIENCE)
            assert time.monotonic() < until, f"writer {'AB'[me]} waits for ever after {self.trace[-5:]}"
            other = 1 - me
            if not notified and self._turn == other and self._in_statement[other] and self._is_blocked(other):
                self.met.waits[self.trace[-1].partition(" ")[2]] += 1
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
        self, batches: Sequence[Sequence[Sequence[Change]]], meetings: Sequence[Meeting]
    ) -> tuple[list[tuple[int, int]], Turns]:
        """Writes the `batches` of each. Returns (writer, batch number) in the order of COMMITs, and the turns."""
        self._turns = turns = Turns(meetings, self._monitor)
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
