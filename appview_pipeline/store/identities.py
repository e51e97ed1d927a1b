"""Identities as they are stored, and the queue of accounts whose identity is to be resolved (`pipeline.identity`).

An account is in one queue or in none. Taking it moves the time at which it may be taken again into the future, so a
process that dies gives it back by itself. What resolution found is saved in one transaction for many accounts.

All functions are part of the caller's transaction, which is the caller's to commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection

QUEUES = ("event", "new", "retry", "refresh")
"""The queues: an #identity or #account event or a person; an account met for the first time; a failed attempt; a
refresh that is due."""

STATES = ("found", "not found", "tombstoned", "invalid")
"""What an answer says of a DID; `pipeline.identity` has the meaning of each."""


@dataclass(frozen=True)
class StoredIdentity:
    """A row of `pipeline.identity`; its columns have comments. `doc` is the DID document as decoded JSON."""

    did: str
    handle: str | None = None
    pds: str | None = None
    signing_key: str | None = None
    doc: Any = None
    resolved_at: datetime | None = None
    handle_checked_at: datetime | None = None
    next_check_at: datetime | None = None
    attempts: int = 0
    error: str | None = None
    state: str | None = None
    source: str | None = None
    claimed_handle: str | None = None
    handle_source: str | None = None
    handle_error: str | None = None
    labeler: str | None = None
    labeler_key: str | None = None
    pds_changed_at: datetime | None = None
    queue: str | None = None
    wanted_at: datetime | None = None
    asked_at: datetime | None = None
    event_at: datetime | None = None
    status_wanted: bool = False


@dataclass(frozen=True)
class Wanted:
    """An account taken from a queue: `known` is its row at that moment, `attempts` its failures since the last answer.

    `asked_at` goes back with the outcome: whoever asks again in between moves it, and then stays queued.
    """

    did: str
    queue: str
    attempts: int
    asked_at: datetime | None
    status_wanted: bool
    known: StoredIdentity


@dataclass(frozen=True)
class Settled:
    """What one resolution found. `asked_at` as in `Wanted`, `state` one of `STATES`, `doc` JSON text.

    `handle`: verified in both directions, else None; `handle_error` says why it is not. `is_handle_final` is False
    where the check got no answer: a handle that was verified not long ago stays then. `error`: why `state` is not
    "found". `next_check_seconds`: until the next refresh. `status_seconds`: its PDS did not say the hosting status
    that was asked for; the account stays queued, to be asked again in so many seconds.
    """

    did: str
    asked_at: datetime | None
    state: str
    source: str | None
    next_check_seconds: float
    doc: str | None = None
    pds: str | None = None
    signing_key: str | None = None
    labeler: str | None = None
    labeler_key: str | None = None
    claimed_handle: str | None = None
    handle: str | None = None
    handle_source: str | None = None
    handle_error: str | None = None
    is_handle_final: bool = True
    error: str | None = None
    status_seconds: float | None = None


@dataclass(frozen=True)
class Postponed:
    """An attempt without an answer: it is tried again in `seconds`. `error`: why, in words.

    `counts`: whether it is a failed attempt of the account; False where the server that would have been asked is
    parked, or its breaker open.
    """

    did: str
    error: str
    seconds: float
    counts: bool = True


@dataclass(frozen=True)
class QueueLength:
    """Accounts in a queue, counted up to a limit, and how long the first that may be resolved now has waited
    (None: there is none)."""

    length: int
    oldest_seconds: float | None


@dataclass(frozen=True)
class QueueState:
    """All queues, by name."""

    queues: dict[str, QueueLength]

    @property
    def urgent(self) -> int:
        """Accounts that wait to be resolved, refreshes left out."""
        return sum(it.length for name, it in self.queues.items() if name != "refresh")

    @property
    def oldest_seconds(self) -> float | None:
        """How long the first of them has waited; None: none waits."""
        waits = [it.oldest_seconds for name, it in self.queues.items() if name != "refresh"]
        return max((wait for wait in waits if wait is not None), default=None)


MAX_COUNTED = 100_000
"""Accounts of a queue that are counted unless the caller wants more."""


def take(connection: Connection, queue: str, limit: int, claim_seconds: float) -> list[Wanted]:
    """Takes at most `limit` accounts that may be resolved now, first come first served.

    They come back by themselves after `claim_seconds`, unless they are saved or postponed before. Costs O(limit),
    however long the queue is. Accounts that must not be collected leave the queue and are not returned.
    """
    raise NotImplementedError


def claim(connection: Connection, dids: Sequence[str], claim_seconds: float) -> list[Wanted]:
    """Takes these accounts, whatever their queue and time, as `take` does; those in no queue are left out."""
    raise NotImplementedError


def save(
    connection: Connection, settled: Sequence[Settled], *, usable_seconds: float, contended_seconds: float
) -> None:
    """Saves what resolutions found, in `pipeline.identity` and `bsky.actor`, in the order in which they ended.

    An account leaves its queue unless it was asked for again since it was taken; one that is in no queue any more is
    skipped. A handle belongs to the last account that it was verified for: another one that had it loses it, and is
    refreshed in `contended_seconds`. A handle verified less than `usable_seconds` ago stays while the check fails.
    Nothing is written of accounts that must not be collected.
    """
    raise NotImplementedError


def postpone(connection: Connection, items: Sequence[Postponed], *, usable_seconds: float) -> None:
    """Moves accounts to the queue `retry`, with the reason. A handle that was not verified for `usable_seconds`
    is no longer shown."""
    raise NotImplementedError


def want(connection: Connection, dids: Sequence[str], *, status: bool = False) -> None:
    """Asks for the resolution of accounts, known or not (queue `event`); with `status` also for their hosting status
    at their PDS."""
    raise NotImplementedError


def queue_refresh(connection: Connection, limit: int) -> int:
    """Moves at most `limit` accounts whose refresh is due into the queue `refresh`. Returns how many."""
    raise NotImplementedError


def read(connection: Connection, dids: Sequence[str]) -> dict[str, StoredIdentity]:
    """The rows of those of `dids` that have one."""
    raise NotImplementedError


def with_handle(connection: Connection, handle: str) -> list[StoredIdentity]:
    """The accounts whose document names this handle (lower case): first the one for which it is verified."""
    raise NotImplementedError


def queue_state(connection: Connection, limit: int = MAX_COUNTED) -> QueueState:
    """The length of each queue, counted up to `limit`, and its oldest wait."""
    raise NotImplementedError
