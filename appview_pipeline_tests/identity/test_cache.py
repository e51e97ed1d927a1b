"""Identities in memory: how long an answer is used, and how often the network is asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from appview_pipeline.identity.attempt import Attempt
from appview_pipeline.identity.cache import EXCLUDED, IdentityCache, KnownIdentity
from appview_pipeline.settings import Settings
from appview_pipeline.store import identities
from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import Postponed, Settled, Wanted
from appview_pipeline_tests.support.tables import one, rows

DID = "did:plc:a"
HOUR = 3_600.0


class Network:
    """Answers with a handle that counts the questions, or as `answer` says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Callable[[Wanted], Settled | Postponed] = self.found
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, wanted: Wanted) -> Attempt:
        self.asked.append(wanted.did)
        number = len(self.asked)
        self.gate.wait(20)
        answer = self.answer(wanted)
        if isinstance(answer, Postponed):
            return Attempt(wanted, postponed=answer)
        return Attempt(wanted, settled=replace(answer, pds=f"https://{number}.test"))

    def found(self, wanted: Wanted) -> Settled:
        return Settled(wanted.did, wanted.asked_at, "found", "plc", 80_000.0, doc="{}")

    def unknown(self, wanted: Wanted) -> Settled:
        return Settled(wanted.did, wanted.asked_at, "not found", "plc", 80_000.0, error="status 404")

    def away(self, wanted: Wanted) -> Postponed:
        return Postponed(wanted.did, "the PLC directory does not answer", 60.0)


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def cache_of(database: Database, network: Network, clock: Callable[[], float] = time.time, **settings: Any) -> Any:
    return IdentityCache(database, Settings(database_url=database.url, **settings), network, clock=clock)


@pytest.fixture
def cache(database: Database, network: Network, clock: Clock) -> IdentityCache:
    found: IdentityCache = cache_of(database, network, clock)
    return found


def test_an_answer_is_used_for_an_hour(cache: IdentityCache, network: Network, clock: Clock) -> None:
    first = cache.get(DID)
    assert (first.state, first.pds, cache.lookups, cache.hits) == ("found", "https://1.test", 1, 0)
    clock.ahead = HOUR - 60
    assert cache.get(DID) == first
    assert (network.asked, cache.lookups, cache.hits) == ([DID], 2, 1)
    clock.ahead = HOUR + 60
    assert cache.get(DID).pds == "https://2.test"
    assert (cache.lookups, cache.hits) == (3, 1)


def test_another_process_finds_the_answer_in_the_database(
    database: Database, cache: IdentityCache, network: Network, clock: Clock
) -> None:
    first = cache.get(DID)
    other = cache_of(database, network, clock)
    found = other.get(DID)
    assert (found.pds, found.state, network.asked, other.hits) == (first.pds, "found", [DID], 1)
    clock.ahead = HOUR + 60
    assert cache_of(database, network, clock).get(DID).pds == "https://2.test"


def test_that_there_is_no_such_account_is_an_answer_too(cache: IdentityCache, network: Network) -> None:
    network.answer = network.unknown
    assert [(it.state, it.reason) for it in (cache.get(DID), cache.get(DID))] == [("not found", "status 404")] * 2
    assert network.asked == [DID]


def test_while_nobody_answers_an_old_answer_is_used_for_a_day(
    database: Database, cache: IdentityCache, network: Network, clock: Clock
) -> None:
    cache.get(DID)
    network.answer = network.away
    rows(database.url, "UPDATE pipeline.identity SET resolved_at = now() - interval '2 hours', asked_at = NULL")
    clock.ahead = HOUR + 60
    stale = cache.get(DID)
    assert (stale.state, stale.pds, stale.reason) == ("found", "https://1.test", "the PLC directory does not answer")
    assert len(network.asked) == 2
    assert cache.get(DID) == stale
    assert len(network.asked) == 2, "the back-off is not over"
    clock.ahead += 120
    cache.get(DID)
    assert len(network.asked) == 3
    rows(database.url, "UPDATE pipeline.identity SET resolved_at = now() - interval '25 hours', asked_at = NULL")
    clock.ahead += 120
    assert cache.get(DID) == KnownIdentity(DID, None, reason="the PLC directory does not answer")
    network.answer = network.found
    clock.ahead += 120
    assert cache.get(DID).pds == "https://5.test"


def test_an_attempt_that_failed_elsewhere_is_not_repeated_at_once(
    database: Database, cache: IdentityCache, network: Network, clock: Clock
) -> None:
    network.answer = network.away
    assert cache_of(database, network, clock).get(DID).state is None
    assert cache.get(DID).reason == "the PLC directory does not answer"
    assert network.asked == [DID]


def test_an_event_makes_an_answer_old(database: Database, cache: IdentityCache, network: Network, clock: Clock) -> None:
    cache.get(DID)
    with database.connect("writer") as connection:
        identities.want(connection, [DID])
    assert cache.get(DID).pds == "https://1.test", "memory does not know"
    assert cache_of(database, network, clock).get(DID).pds == "https://2.test"


def test_an_event_during_the_attempt_makes_its_answer_old(
    database: Database, cache: IdentityCache, network: Network, clock: Clock
) -> None:
    network.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.get, DID)
        while not network.asked:
            time.sleep(0.01)
        with database.connect("writer") as connection:
            identities.want(connection, [DID])
        network.gate.set()
        assert first.result(20).pds == "https://1.test"
    assert cache_of(database, network, clock).get(DID).pds == "https://2.test"


def test_threads_that_ask_at_once_ask_the_network_once(cache: IdentityCache, network: Network) -> None:
    network.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(cache.get, DID) for _ in range(8)]
        others = [pool.submit(cache.get, DID) for _ in range(8)]
        while not network.asked:
            time.sleep(0.01)
        network.gate.set()
        found = {it.result(20) for it in asking + others}
    assert network.asked == [DID]
    assert len(found) == 1
    assert cache.lookups == 16


def test_force_asks_after_the_call(cache: IdentityCache, network: Network) -> None:
    network.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.get, DID)
        while not network.asked:
            time.sleep(0.01)
        forced = [pool.submit(cache.get, DID, force=True) for _ in range(5)]
        time.sleep(0.1)
        assert network.asked == [DID], "one at a time"
        network.gate.set()
        assert first.result(20).pds == "https://1.test"
        for it in forced:
            assert it.result(20).pds != "https://1.test"
    assert 2 <= len(network.asked) <= 6
    assert cache.get(DID).pds == f"https://{len(network.asked)}.test"


def test_one_that_fails_holds_up_nobody(cache: IdentityCache, network: Network) -> None:
    def broken(wanted: Wanted) -> Settled:
        raise ZeroDivisionError

    network.answer = broken
    with pytest.raises(ZeroDivisionError):
        cache.get(DID)
    network.answer = network.found
    assert cache.get(DID).pds == "https://2.test"


def test_the_least_recently_used_is_forgotten(database: Database, network: Network) -> None:
    cache = cache_of(database, network, identity_cache=2, identity_fresh_seconds=HOUR)
    for did in ("a", "b", "a", "c"):
        cache.get(f"did:plc:{did}")
    assert len(cache) == 2
    rows(database.url, "DELETE FROM pipeline.identity")
    cache.get("did:plc:a")
    assert len(network.asked) == 3
    cache.get("did:plc:b")
    assert len(network.asked) == 4


def test_nothing_is_asked_of_excluded_accounts(database: Database, cache: IdentityCache, network: Network) -> None:
    rows(database.url, "INSERT INTO pipeline.actor_setting (did, data_collection_forbidden) VALUES (%s, true)", DID)
    assert [cache.get(DID), cache.get(DID)] == [KnownIdentity(DID, None, reason=EXCLUDED)] * 2
    assert network.asked == []
    assert one(database.url, "SELECT count(*) FROM pipeline.identity") == 0
