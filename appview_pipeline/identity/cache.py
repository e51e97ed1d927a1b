"""Identities in memory, over `pipeline.identity`: for whoever needs an account's key, PDS or handle now and again."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

from appview_pipeline import backoff
from appview_pipeline.identity.on_demand import Resolve, resolve_now
from appview_pipeline.settings import Settings
from appview_pipeline.store import identities
from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import Settled, StoredIdentity

EXCLUDED = "nothing of this account is collected"


@dataclass(frozen=True, slots=True)
class KnownIdentity:
    """What is known of an account; columns of `pipeline.identity`, without the document.

    `state`: None where there is no answer that may be used. `reason`: why there is no document, or why a newer answer
    could not be had. `resolved_at`: UNIX seconds.
    """

    did: str
    state: str | None
    handle: str | None = None
    pds: str | None = None
    signing_key: str | None = None
    labeler: str | None = None
    labeler_key: str | None = None
    resolved_at: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    identity: KnownIdentity
    until: float


@dataclass(frozen=True, slots=True)
class _Flight:
    """A look-up under way. `number`: of the question that began it."""

    number: int
    force: bool
    answer: Future[KnownIdentity]


class IdentityCache:
    """The least recently used identities are forgotten beyond `APPVIEW_IDENTITY_CACHE`. Safe to share between threads.

    An answer is used without asking again while it is fresh (`APPVIEW_IDENTITY_FRESH_SECONDS`), also the answer that
    there is no such account. While nobody answers, an older one is used up to `APPVIEW_IDENTITY_USABLE_SECONDS`, and
    the next question is asked when the back-off is over. Of several threads that ask for an account at once, one asks
    the network.

    `lookups` counts the questions, `hits` those that memory or the database answered.
    """

    def __init__(
        self, database: Database, settings: Settings, resolve: Resolve, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._settings = settings
        self._resolve = resolve
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self.lookups = 0
        self.hits = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, did: str, *, force: bool = False) -> KnownIdentity:
        """The identity of an account, resolved now if need be.

        `force`: the network is asked after this call, whatever is known (a signature that does not fit may mean that
        the key has changed). Raises `store.errors.DatabaseError` and `OperatorError` as `Database.connect` does.
        """
        with self._lock:
            self.lookups += 1
            number = self.lookups
            if not force and (known := self._remembered(did)) is not None:
                self.hits += 1
                return known
        while True:
            with self._lock:
                flight = self._flights.get(did)
                if flight is None:
                    flight = self._flights[did] = _Flight(number, force, Future())
                    break
            if not force or (flight.force and flight.number > number):
                return flight.answer.result()
            wait([flight.answer])  # Its question is older than this call.
        try:
            entry = self._look_up(did, force)
        except BaseException as error:
            with self._lock:
                del self._flights[did]
            flight.answer.set_exception(error)
            raise
        with self._lock:
            del self._flights[did]
            self._entries[did] = entry
            self._entries.move_to_end(did)
            while len(self._entries) > self._settings.identity_cache:
                self._entries.popitem(last=False)
        flight.answer.set_result(entry.identity)
        return entry.identity

    def _remembered(self, did: str) -> KnownIdentity | None:
        """What memory has, while it may be used; under the lock."""
        entry = self._entries.get(did)
        if entry is None or entry.until <= self._clock():
            return None
        self._entries.move_to_end(did)
        return entry.identity

    def _look_up(self, did: str, force: bool) -> _Entry:
        """Asks the database, and where its answer is too old the network."""
        if not force and (entry := self._entry(did, self._stored(did))) is not None:
            with self._lock:
                self.hits += 1
            return entry
        outcome = resolve_now(self._database, self._settings, did, self._resolve)
        now = self._clock()
        if outcome is None:
            return _Entry(KnownIdentity(did, None, reason=EXCLUDED), now + self._settings.identity_fresh_seconds)
        stored = self._stored(did)
        if outcome.settled is not None:
            fresh = now + self._settings.identity_fresh_seconds
            # The handle may have become somebody else's meanwhile, or be one that was verified before.
            return _Entry(_settled(outcome.settled, now, None if stored is None else stored.handle), fresh)
        assert outcome.postponed is not None, "an attempt has an answer or none"
        return self._failing(did, stored, outcome.postponed.error, now + outcome.postponed.seconds)

    def _stored(self, did: str) -> StoredIdentity | None:
        with self._database.connect("reader") as connection:
            return identities.read(connection, [did]).get(did)

    def _entry(self, did: str, row: StoredIdentity | None) -> _Entry | None:
        """What the row answers; None where the network has to be asked."""
        if row is None:
            return None
        is_answered = row.state is not None and row.resolved_at is not None
        if row.asked_at is not None and (row.resolved_at is None or row.asked_at > row.resolved_at):
            is_answered = False  # an #identity event since
        if row.queue == "event":
            is_answered = False  # one during the attempt, whose answer may be from before it
        if is_answered and row.resolved_at is not None:
            until = row.resolved_at.timestamp() + self._settings.identity_fresh_seconds
            if until > self._clock():
                return _Entry(_known(row), until)
        now = self._clock()
        if row.queue is not None and row.error and row.wanted_at is not None and row.wanted_at.timestamp() > now:
            # An attempt has failed, or the next one is under way elsewhere.
            until = min(row.wanted_at.timestamp(), now + backoff.resolution(max(row.attempts, 1)))
            return self._failing(did, row, row.error, until)
        return None

    def _failing(self, did: str, row: StoredIdentity | None, reason: str, until: float) -> _Entry:
        """What is used while nobody answers: the last answer, while it is not too old."""
        if row is not None and row.state is not None and row.resolved_at is not None:
            usable = row.resolved_at.timestamp() + self._settings.identity_usable_seconds
            if usable > self._clock():
                return _Entry(replace(_known(row), reason=reason), min(until, usable))
        return _Entry(KnownIdentity(did, None, reason=reason), until)


def _known(row: StoredIdentity) -> KnownIdentity:
    return KnownIdentity(
        did=row.did,
        state=row.state,
        handle=row.handle,
        pds=_shared(row.pds),
        signing_key=row.signing_key,
        labeler=row.labeler,
        labeler_key=row.labeler_key,
        resolved_at=None if row.resolved_at is None else row.resolved_at.timestamp(),
        reason=row.error,
    )


def _settled(outcome: Settled, now: float, handle: str | None) -> KnownIdentity:
    return KnownIdentity(
        did=outcome.did,
        state=outcome.state,
        handle=handle,
        pds=_shared(outcome.pds),
        signing_key=outcome.signing_key,
        labeler=outcome.labeler,
        labeler_key=outcome.labeler_key,
        resolved_at=now,
        reason=outcome.error,
    )


def _shared(text: str | None) -> str | None:
    """The same text once in memory: a few hosts have most accounts."""
    return None if text is None else sys.intern(text)
