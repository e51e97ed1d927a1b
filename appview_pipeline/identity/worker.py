"""The loop of resolution: accounts out of their queues, questions on threads, answers back in small batches.

One thread runs the loop, and it alone uses the database. The others each resolve one account at a time, and may hang.
`slots.py` says which account is next, `attempt.py` what is done with it. The identity process (`identity_process.py`)
and the job `refresh_dids` (`refresh.py`) both run it.

While the database is away nothing is taken, and answers wait in memory. Whatever a process that is killed had taken
returns to its queue by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TypeVar

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.identity.attempt import Attempt
from appview_pipeline.identity.slots import Limits, Slots
from appview_pipeline.settings import Settings
from appview_pipeline.store import accounts, identities
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.errors import RefusedData, Transient
from appview_pipeline.store.identities import Postponed, Settled, Wanted
from appview_pipeline.store.identity_claims import release

log = logging.getLogger("appview_pipeline.identity")

MAX_SAVED_AT_ONCE = 200
"""Answers that one transaction saves."""
MAX_UNSAVED = 1_000
"""Answers in memory beyond which nothing more is taken."""

_T = TypeVar("_T")


@dataclass
class Counts:
    """What was done: the columns of the same names of `pipeline.identity_batch` have comments. `turned_away`: accounts
    whose server is left alone."""

    resolved: int = 0
    failed: int = 0
    verified: int = 0
    not_verified: int = 0
    statuses: int = 0
    turned_away: int = 0

    def add(self, found: Attempt) -> None:
        """Counts an attempt."""
        if found.turned_away:
            self.turned_away += 1
        elif found.settled is None:
            self.failed += 1
        else:
            self.resolved += 1
            self.verified += found.settled.handle is not None
            self.not_verified += found.settled.claimed_handle is not None and found.settled.handle is None
        self.statuses += found.status is not None and found.status.status is not None


@dataclass
class Worker:
    """Resolves the accounts of the queues of `limits`. For one thread.

    `attempt` resolves one account on any thread; it may block, and raises nothing. `stopped` says whether to come to an
    end. `trouble` is called with a sentence when the database goes away, and with None when it is back.
    """

    database: Database
    settings: Settings
    limits: Limits
    attempt: Callable[[Wanted], Attempt]
    stopped: Callable[[], bool] = lambda: False
    trouble: Callable[[str | None], None] = lambda _: None
    counts: Counts = field(default_factory=Counts)
    turned_away_in_a_row: int = 0

    def __post_init__(self) -> None:
        """Nothing is taken yet."""
        self._slots: Slots[Wanted] = Slots(self.limits)
        self._tasks: SimpleQueue[Wanted] = SimpleQueue()
        self._answers: SimpleQueue[Attempt] = SimpleQueue()
        self._unsaved: list[Attempt] = []
        self._unsaved_since = 0.0
        self._threads = 0
        self._look_at: dict[str, float] = dict.fromkeys(self.limits.queues, 0.0)
        self._dry: dict[str, bool] = dict.fromkeys(self.limits.queues, False)
        self._away = backoff.database_away()
        self._is_away = False
        self._database_due = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is taken: nothing waits, is being resolved, or is to be saved."""
        return self._slots.is_empty and not self._unsaved

    @property
    def ran_dry(self) -> bool:
        """Whether the last look into each queue found fewer accounts than were asked for."""
        return all(self._dry.values())

    def look_again(self) -> None:
        """Something was put into a queue: the next step looks."""
        self._look_at = dict.fromkeys(self._look_at, 0.0)
        self._dry = dict.fromkeys(self._dry, False)

    def step(self) -> None:
        """Waits for an answer or for the time to look into the queues again, at most `backoff.STOP_POLL_SECONDS`; then
        saves, takes, and hands out."""
        self._collect(self._patience())
        if self._unsaved and (
            len(self._unsaved) >= MAX_SAVED_AT_ONCE
            or time.monotonic() - self._unsaved_since >= backoff.RESOLUTION_SAVE_SECONDS
        ):
            self._save()
        self._take()
        self._hand_out()

    def end(self) -> None:
        """Waits a moment for requests under way, saves what came, and gives everything else back to its queue."""
        deadline = time.monotonic() + backoff.RESOLUTION_END_SECONDS
        given_up = {account.did: account for account in self._slots.drain()}
        while self._slots.at_work and (left := deadline - time.monotonic()) > 0:
            self._collect(left)
        for answer in self._unsaved:
            given_up.pop(answer.wanted.did, None)
        self._database_due = 0.0
        while self._unsaved and self._save():
            pass
        if given_up:
            self.with_database(lambda connection: release(connection, list(given_up)))

    def with_database(self, action: Callable[[Connection], _T]) -> _T | None:
        """What `action` gives, in a transaction of its own; None when the database is away or busy, and for a while
        after that."""
        if time.monotonic() < self._database_due:
            return None
        try:
            with self.database.connect("writer") as connection:
                found = action(connection)
        except (Transient, OperatorError) as error:
            wait = self._away.next()
            self._database_due = time.monotonic() + wait
            sentence = str(error).strip().partition("\n")[0]
            log.warning("The database did not take a statement, trying again in %.1f s: %s", wait, sentence)
            if not self._is_away:
                self._is_away = True
                self.trouble(sentence)
            return None
        if self._is_away:
            self._is_away = False
            self.trouble(None)
        self._away.failures = 0
        return found

    def _patience(self) -> float:
        """Seconds until there is something to do without an answer."""
        now = time.monotonic()
        due = [now + backoff.STOP_POLL_SECONDS]
        if self._unsaved:
            due.append(max(self._unsaved_since + backoff.RESOLUTION_SAVE_SECONDS, self._database_due))
        due += [max(at, self._database_due) for queue, at in self._look_at.items() if self._slots.wanted(queue)]
        return max(0.0, min(due) - now)

    def _collect(self, patience: float) -> None:
        """Takes the answers that have come; waits so many seconds for the first."""
        try:
            answer = self._answers.get(timeout=patience) if patience > 0 else self._answers.get_nowait()
            while True:
                if not self._unsaved:
                    self._unsaved_since = time.monotonic()
                self._slots.finish(answer.wanted.did)
                self._unsaved.append(answer)
                self.counts.add(answer)
                self.turned_away_in_a_row = self.turned_away_in_a_row + 1 if answer.turned_away else 0
                answer = self._answers.get_nowait()
        except Empty:
            return

    def _save(self) -> bool:
        """Saves the oldest answers. Says whether it could."""
        some = self._unsaved[:MAX_SAVED_AT_ONCE]
        try:
            saved = self._write(some)
        except RefusedData:
            saved = self._write_one_by_one(some)
        if not saved:
            return False
        del self._unsaved[: len(some)]
        self._unsaved_since = time.monotonic()
        for answer in some:
            self._slots.forget(answer.wanted.did)
        return True

    def _write(self, some: Sequence[Attempt]) -> bool:
        statuses = [it.status for it in some if it.status is not None and it.status.blames_account]
        # A transaction of their own: they lock rows of pipeline.repo, which come before those of bsky.actor.
        if statuses and self.with_database(lambda connection: self._write_statuses(connection, statuses)) is None:
            return False
        # One after the other, for both lock rows of pipeline.identity before those of bsky.actor.
        usable = self.settings.identity_usable_seconds
        settled = [it.settled for it in some if it.settled is not None]
        postponed = [it.postponed for it in some if it.postponed is not None]
        if settled and self.with_database(lambda connection: self._write_settled(connection, settled, usable)) is None:
            return False
        return not postponed or (
            self.with_database(lambda connection: self._write_postponed(connection, postponed, usable)) is not None
        )

    def _write_statuses(self, connection: Connection, statuses: Sequence[accounts.PdsStatus]) -> bool:
        accounts.save_statuses(connection, statuses)
        return True

    def _write_settled(self, connection: Connection, settled: Sequence[Settled], usable: float) -> bool:
        identities.save(connection, settled, usable_seconds=usable)
        return True

    def _write_postponed(self, connection: Connection, postponed: Sequence[Postponed], usable: float) -> bool:
        identities.postpone(connection, postponed, usable_seconds=usable)
        return True

    def _write_one_by_one(self, some: Sequence[Attempt]) -> bool:
        """An answer that PostgreSQL refuses is a failed attempt of its account, and holds up no other."""
        for answer in some:
            try:
                if not self._write([answer]):
                    return False
            except RefusedData as error:
                log.warning("What was found of %s can't be stored: %s", answer.wanted.did, error)
                seconds = backoff.resolution(max(answer.wanted.attempts + 1, backoff.RESOLUTION_QUICK_TRIES + 1))
                later = Postponed(answer.wanted.did, f"what was found can't be stored: {error}"[:500], seconds)
                if not self._write([Attempt(answer.wanted, postponed=later)]):
                    return False
        return True

    def _take(self) -> None:
        """Takes accounts for the slots, from the queues whose time has come."""
        now = time.monotonic()
        due = {
            queue: count
            for queue, at in self._look_at.items()
            if now >= at and (count := self._slots.wanted(queue)) and len(self._unsaved) < MAX_UNSAVED
        }
        if not due:
            return
        claim = backoff.RESOLUTION_CLAIM_SECONDS
        # One that is asked for again during its attempt is taken once that has ended, not in vain now.
        known = self._slots.known
        found = self.with_database(
            lambda connection: {
                queue: identities.take(connection, queue, count, claim, besides=known) for queue, count in due.items()
            }
        )
        if found is None:
            return
        pause = 0.0
        if self.turned_away_in_a_row >= backoff.RESOLUTION_TURNED_AWAY:
            pause = backoff.RESOLUTION_TURNED_AWAY_SECONDS
        for queue, taken in found.items():
            self._slots.add(taken)
            self._dry[queue] = len(taken) < due[queue]
            self._look_at[queue] = now + (backoff.RESOLUTION_POLL_SECONDS if self._dry[queue] else pause)

    def _hand_out(self) -> None:
        while (account := self._slots.start()) is not None:
            self._tasks.put(account)
            if self._threads < self._slots.at_work:
                self._threads += 1
                # Not joined: one that hangs must not hold up the end of the process.
                threading.Thread(target=self._resolve, name=f"resolution {self._threads}", daemon=True).start()

    def _resolve(self) -> None:
        while True:
            self._answers.put(self.attempt(self._tasks.get()))
