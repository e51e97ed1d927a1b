"""Which account is resolved next, and how many at once: an account that hangs holds a slot, but never all of them.

All queues together have `APPVIEW_RESOLUTIONS` slots. A fifth of them is for events alone, and a fifth is never theirs:
anybody can send events of accounts that hang. New accounts have at most `APPVIEW_NEW_ACCOUNTS`, retries at most a
third. So accounts that hang leave slots to the others, and an event's own account that hangs is a retry after its first
attempt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from appview_pipeline.settings import Settings

EVENT, NEW, RETRY, REFRESH = "event", "new", "retry", "refresh"
"""The queues, as `pipeline.identity.queue` has them; the first three in the order in which they are served."""

ROUNDS = 2
"""Rounds of a queue's slots that wait in memory, so that a slot is never free only because the database is asked."""


@dataclass(frozen=True)
class Limits:
    """How many accounts are resolved at once: `total`; by queue, in the order of precedence; and `shared`: all but
    events together."""

    total: int
    queues: Mapping[str, int]
    shared: int


def live_limits(settings: Settings) -> Limits:
    """Those of the identity process."""
    total = settings.resolutions
    shared = total - total // 5
    # One of the slots that are not for events is left to retries, where there are enough.
    new = max(1, min(settings.new_accounts, shared - (1 if shared > 2 else 0)))
    events = total - max(total // 5, 1 if total > 3 else 0)
    return Limits(total, {EVENT: events, NEW: new, RETRY: max(1, total // 3)}, shared)


def refresh_limits(settings: Settings) -> Limits:
    """Those of the job `refresh_dids`, which has all slots of its process."""
    return Limits(settings.resolutions, {REFRESH: settings.resolutions}, settings.resolutions)


class Queued(Protocol):
    """An account that was taken from a queue."""

    @property
    def did(self) -> str: ...
    @property
    def queue(self) -> str: ...


Q = TypeVar("Q", bound=Queued)


class Slots(Generic[Q]):
    """The accounts that this process has taken: those that wait, and those that are being resolved. One thread uses
    it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[str, deque[Q]] = {queue: deque() for queue in limits.queues}
        self._at_work: dict[str, Q] = {}
        self._known: set[str] = set()

    @property
    def at_work(self) -> int:
        """How many are being resolved."""
        return len(self._at_work)

    @property
    def known(self) -> list[str]:
        """All that wait, are being resolved, or are to be saved."""
        return list(self._known)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is being resolved."""
        return not self._at_work and not any(self._waiting.values())

    def wanted(self, queue: str) -> int:
        """How many more of a queue to take from the database now; 0 while enough of them wait here."""
        limit, waiting = self._limits.queues[queue], len(self._waiting[queue])
        return ROUNDS * limit - waiting if waiting <= ROUNDS * limit // 2 else 0

    def add(self, accounts: Sequence[Q]) -> None:
        """Accounts taken from the database. One that is here already is left out."""
        for account in accounts:
            if account.did not in self._known:
                self._known.add(account.did)
                self._waiting[account.queue].append(account)

    def start(self) -> Q | None:
        """The account to resolve next, which holds a slot from now on; None where none may be."""
        if len(self._at_work) >= self._limits.total:
            return None
        shared = sum(1 for one in self._at_work.values() if one.queue != EVENT)
        for queue, limit in self._limits.queues.items():
            waiting = self._waiting[queue]
            busy = sum(1 for one in self._at_work.values() if one.queue == queue)
            if waiting and busy < limit and (queue == EVENT or shared < self._limits.shared):
                account = waiting.popleft()
                self._at_work[account.did] = account
                return account
        return None

    def finish(self, did: str) -> None:
        """Its slot is free. It stays known until `forget`."""
        self._at_work.pop(did)

    def forget(self, did: str) -> None:
        """What came of it is saved: from now on it may be taken again."""
        self._known.discard(did)

    def drain(self) -> list[Q]:
        """Gives up all that wait here, and returns those and the ones that are being resolved."""
        given_up = [account for waiting in self._waiting.values() for account in waiting]
        for waiting in self._waiting.values():
            waiting.clear()
        return given_up + list(self._at_work.values())
