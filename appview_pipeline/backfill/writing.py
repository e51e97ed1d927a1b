"""The writing side of a backfill: parts of repositories, those of small ones together, one transaction after the other.

A thread writes, so that fetching and comparing go on meanwhile. Whoever brings more than fits waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from appview_pipeline import backoff
from appview_pipeline.errors import Stopped
from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.writer import Writer

FIRST_ROWS, SMALLEST_ROWS = 5_000, 1_000
"""Records of the first transaction, and of any, however long it holds its locks."""
MAX_REPOSITORIES = 1_000
"""Repositories whose parts one transaction writes."""


@dataclass(frozen=True)
class Part:
    """A part of a repository's difference: what one transaction has to write together. `is_last`: nothing follows."""

    did: str
    changes: list[Change]
    is_last: bool

    @property
    def rows(self) -> int:
        """Records that it writes or deletes."""
        return sum(len(change.writes) + len(change.deletes) for change in self.changes)


class Abandoned(Exception):
    """Nothing more is written: the writing thread has ended."""


class WritingThread:
    """Writes parts in the order in which they were brought, as many together as `rows` allows, and as the live writer
    can wait for (`backoff.BACKFILL_LOCK_SECONDS`).

    `written` is called on the writing thread once the last part of a repository is committed. Parts that wait hold at
    most twice as many rows as one transaction, or one part.
    """

    def __init__(self, writer: Writer, rows: int, written: Callable[[str], object]) -> None:
        self._writer = writer
        self._rows = rows
        self._most = min(rows, FIRST_ROWS)
        self._written = written
        self._condition = threading.Condition()
        self._parts: deque[tuple[Part, int]] = deque()
        self._waiting_rows = 0
        self._since = 0.0
        self._is_ending = False
        self._is_abandoned = False
        self._is_writing = False
        self.hurries = False
        """Nothing more is fetched now: what was brought need not wait for others."""
        self.failure: BaseException | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="backfill writer", daemon=True)
        self._thread.start()

    def put(self, part: Part) -> None:
        """Brings a part; waits while there is no room for it. Raises `Abandoned`."""
        rows = part.rows
        with self._condition:
            while self._parts and self._waiting_rows + rows > 2 * self._most and not self._is_abandoned:
                self._condition.wait(backoff.STOP_POLL_SECONDS)
            if self._is_abandoned or self.failure is not None:
                raise Abandoned
            if not self._parts:
                self._since = time.monotonic()
            self._parts.append((part, rows))
            self._waiting_rows += rows
            self._condition.notify_all()

    @property
    def rows(self) -> int:
        """Records that one transaction should write now."""
        return self._most

    def _took(self, count: int, locked: float) -> None:
        """Notes how long a transaction held its locks: the next ones shrink at once, or grow slowly."""
        if locked > backoff.BACKFILL_LOCK_SECONDS:
            self._most = min(self._rows, max(SMALLEST_ROWS, int(count * backoff.BACKFILL_LOCK_SECONDS / locked)))
        elif count >= 0.8 * self._most:
            self._most = min(self._rows, int(self._most * 1.2) + 1)

    @property
    def is_idle(self) -> bool:
        """Whether everything that was brought is written."""
        with self._condition:
            return not self._parts and not self._is_writing

    def check(self) -> None:
        """Raises what ended the thread, if anything did."""
        if self.failure is not None and not isinstance(self.failure, Stopped):
            raise self.failure

    def end(self, seconds: float) -> None:
        """Writes what was brought, and ends the thread; what is not written after `seconds` is left out."""
        with self._condition:
            self._is_ending = True
            self._condition.notify_all()
        self._thread.join(seconds)
        self.abandon()

    def abandon(self) -> None:
        """Nothing more is written."""
        with self._condition:
            self._is_abandoned = True
            self._parts.clear()
            self._condition.notify_all()

    def _run(self) -> None:
        try:
            while (some := self._next()) is not None:
                began = time.monotonic()
                changes = [change for part in some for change in part.changes]
                reports = self._writer.write(changes, time.time())
                self._took(sum(part.rows for part in some), max((it.locked_seconds for it in reports), default=0.0))
                self.seconds += time.monotonic() - began
                with self._condition:
                    self._is_writing = False
                for part in some:
                    if part.is_last:
                        self._written(part.did)
        except BaseException as error:  # for `check`, on the thread that can do something about it
            self.failure = error
            self.abandon()
        finally:
            with self._condition:
                self._is_writing = False
                self._condition.notify_all()

    def _next(self) -> list[Part] | None:
        """The parts of the next transaction; None at the end. Small ones wait a moment for others."""
        with self._condition:
            while True:
                if self._is_abandoned or (self._is_ending and not self._parts):
                    return None
                if self._parts:
                    left = self._since + backoff.BACKFILL_FILL_SECONDS - time.monotonic()
                    is_full = self._waiting_rows >= self._most or len(self._parts) >= MAX_REPOSITORIES
                    if is_full or left <= 0 or self._is_ending or self.hurries:
                        break
                    self._condition.wait(min(left, backoff.POLL_SECONDS))
                else:
                    self._condition.wait(backoff.STOP_POLL_SECONDS)
            some: list[Part] = []
            count = 0
            while self._parts and len(some) < MAX_REPOSITORIES:
                part, rows = self._parts[0]
                if some and count + rows > self._most:
                    break
                some.append(part)
                count += rows
                self._parts.popleft()
            self._waiting_rows -= count
            self._since = time.monotonic()
            self._is_writing = True
            self._condition.notify_all()
            return some
