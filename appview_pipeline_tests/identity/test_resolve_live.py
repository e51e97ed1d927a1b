"""The identity process, with the client, real sockets, and a network that misbehaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from appview_pipeline import backoff
from appview_pipeline.identity import identity_process
from appview_pipeline.identity.resolve_live import LOCK, resolve_live
from appview_pipeline.leases.leased_process import EXIT_ENDED, EXIT_LOCK_LOST
from appview_pipeline.network import circuit_breaker
from appview_pipeline.settings import load
from appview_pipeline.store.database import Database
from appview_pipeline.store.session_lock import LockTaken, session_lock
from appview_pipeline_tests.simulated_network.faults import AccountFaults
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.consumers import Consumer
from appview_pipeline_tests.support.machine import slowness
from appview_pipeline_tests.support.scripted_servers import raw_server, refusing
from appview_pipeline_tests.support.tables import one, rows
from appview_pipeline_tests.support.waiting import wait_for

QUEUE = (
    "INSERT INTO pipeline.identity (did, queue, wanted_at, asked_at) "
    "SELECT did, 'new', now(), now() FROM unnest(%s) did"
)
UNSETTLED = "SELECT count(*) FROM pipeline.identity WHERE queue IS NOT NULL OR state IS DISTINCT FROM 'found'"
CLAIMED = "SELECT count(*) FROM pipeline.identity WHERE queue = 'new' AND wanted_at > now()"


class Child(Consumer):
    """The identity process as a child of the test."""

    command = identity_process.COMMAND


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(accounts=60) as made:
        yield made


def dids_of(network: SimulatedNetwork) -> list[str]:
    return [author.did for author in network.world.authors]


def child(database: Database, network: SimulatedNetwork, **environment: str) -> Child:
    return Child(database.url, network.relay_url, **{**network.environment(), **environment})


@contextmanager
def resolving(database: Database, network: SimulatedNetwork, **environment: str) -> Iterator[None]:
    """The same in a thread of the test, where its waits can be changed."""
    settings = load({**network.environment(), "APPVIEW_DATABASE_URL": database.url, **environment})
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ends = pool.submit(resolve_live, settings, stop.is_set)
        try:
            yield
        finally:
            stop.set()
            ends.result(30)


def test_a_process_that_is_killed_loses_nothing(database: Database, network: SimulatedNetwork) -> None:
    rows(database.url, QUEUE, dids_of(network))
    network.plc.faults.delay = 30.0
    first = child(database, network)
    try:
        wait_for(lambda: one(database.url, CLAIMED) > 0, 30, lambda: first.said)
        first.process.kill()
        first.code()
    finally:
        first.clean_up()
    assert one(database.url, CLAIMED) > 0 and one(database.url, UNSETTLED) == 60
    network.plc.faults.delay = 0.0
    second = child(database, network)
    try:
        wait_for(lambda: one(database.url, UNSETTLED) == 0, 60, lambda: second.said)
        assert "were taken by a process that is gone" in second.said
        second.give_back()
        assert second.code() == EXIT_ENDED
    finally:
        second.clean_up()
    handles = dict(rows(database.url, "SELECT did, handle FROM bsky.actor"))
    assert handles == {author.did: author.account.handle for author in network.world.authors}
    assert one(database.url, "SELECT sum(resolved) FROM pipeline.identity_batch") == 60


def test_the_lease_ends_a_process_whose_slots_all_hang(database: Database, network: SimulatedNetwork) -> None:
    rows(database.url, QUEUE, dids_of(network))
    network.plc.faults.accounts = AccountFaults(hang=1.0)
    hung = child(database, network)
    try:
        wait_for(lambda: network.plc.faults.by_kind["hang"] >= 10, 30, lambda: hung.said)
        allowed = backoff.GRACE_SECONDS * slowness()
        began = time.monotonic()
        hung.give_back()
        assert hung.code() == EXIT_ENDED
        assert time.monotonic() - began < allowed
    finally:
        hung.clean_up()
    if "Ending without the batch in hand" not in hung.said:  # a slow machine does not get that far in its time
        assert one(database.url, CLAIMED) == 0, "what it had taken is given back"
    assert one(database.url, "SELECT count(*) FROM pipeline.identity WHERE attempts > 0") == 0


def test_one_process_for_each_database(database: Database, network: SimulatedNetwork) -> None:
    single = child(database, network)
    try:
        wait_for(lambda: "Resolving accounts" in single.said, 30, lambda: single.said)
        with pytest.raises(LockTaken), session_lock(database, LOCK, taken="taken", patience=0.0):
            pass
        rows(
            database.url,
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND datname = current_database()",
        )
        assert single.code() == EXIT_LOCK_LOST, single.said
    finally:
        single.clean_up()


def upstream(database: Database, host: str) -> Callable[[], tuple[str, int, bool, str | None] | None]:
    def read() -> tuple[str, int, bool, str | None] | None:
        query = "SELECT breaker, opened, parked_until > now(), reason FROM pipeline.upstream WHERE host = %s"
        return next(iter(rows(database.url, query, host)), None)

    return read


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test can sit out."""
    monkeypatch.setattr(circuit_breaker, "BREAKER_SECONDS", 1.0)
    monkeypatch.setattr(backoff, "RESOLUTION_REPORT_SECONDS", 0.1)


def test_a_breaker_is_seen_opening_and_closing(database: Database, network: SimulatedNetwork, quick: None) -> None:
    rows(database.url, QUEUE, dids_of(network))
    network.plc.faults.statuses.extend([500] * backoff.BREAKER_FAILURES * 3)
    plc = upstream(database, f"127.0.0.1:{network.plc.port}")
    with resolving(database, network):
        wait_for(lambda: (row := plc()) is not None and row[0] == "open", 20)
        row = plc()
        assert row is not None and row[1] >= 1 and "500" in str(row[3])
        network.plc.faults.statuses.clear()
        wait_for(lambda: (row := plc()) is not None and row[0] == "closed", 20)
        wait_for(lambda: one(database.url, UNSETTLED) == 0, 40)
    assert one(database.url, "SELECT max(attempts) FROM pipeline.identity") == 0


def test_a_directory_that_asks_to_be_left_alone_stops_nobody_else(
    database: Database, network: SimulatedNetwork, quick: None
) -> None:
    """429 for an hour: no account fails, did:web goes on."""
    rows(database.url, QUEUE, dids_of(network))
    network.plc.faults.accounts = AccountFaults(limited=1.0)
    network.plc.faults.retry_after = 3_600
    plc = upstream(database, f"127.0.0.1:{network.plc.port}")
    with resolving(database, network):
        wait_for(lambda: (row := plc()) is not None and row[2], 20)
        later = "SELECT count(*) FROM pipeline.identity WHERE queue = 'new' AND wanted_at > now() + interval '14 min'"
        wait_for(lambda: one(database.url, later) == 60, 20)
        document: dict[str, object] = {}
        with raw_server(lambda it: refusing("200 OK", "Connection: close\r\n", json.dumps(document))(it)) as (port, _):
            document["id"] = web = f"did:web:127.0.0.1%3A{port}"
            rows(database.url, QUEUE, [web])
            wait_for(lambda: one(database.url, "SELECT state FROM pipeline.identity WHERE did = %s", web), 10)
    assert one(database.url, "SELECT state FROM pipeline.identity WHERE did = %s", web) == "found"
    assert rows(database.url, "SELECT max(attempts), count(*) FROM pipeline.identity WHERE queue = 'new'") == [(0, 60)]
    assert network.plc.faults.by_kind["limited"] <= 15, "it was left alone"


def test_each_fault_ends_in_a_reason_and_holds_up_nobody_else(
    database: Database, network: SimulatedNetwork, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "BREAKER_FAILURES", 1_000)
    kinds = ("hang", "fail", "garbage", "huge", "missing", "gone")
    dids = dids_of(network)
    network.plc.faults.named = dict(zip(dids, kinds, strict=False))
    rows(database.url, QUEUE, dids)
    done = "SELECT count(*) FROM pipeline.identity WHERE state IS NOT NULL OR attempts > 0"
    with resolving(database, network, APPVIEW_FETCH_READ_SECONDS="1"):
        wait_for(lambda: one(database.url, done) == 60, 40)
    found = {
        did: (state, error, attempts > 0)
        for did, state, error, attempts in rows(
            database.url, "SELECT did, state, error, attempts FROM pipeline.identity WHERE did = ANY (%s)", dids[:6]
        )
    }
    outcome = {kind: found[did] for did, kind in zip(dids, kinds, strict=False)}
    assert all(reason for _, reason, _ in outcome.values()), outcome
    assert {kind: (state, is_tried_again) for kind, (state, _, is_tried_again) in outcome.items()} == {
        "hang": (None, True), "fail": (None, True), "garbage": ("invalid", False), "huge": ("invalid", False),
        "missing": ("not found", False), "gone": ("tombstoned", False),
    }  # fmt: skip
    assert one(database.url, "SELECT count(*) FROM pipeline.identity WHERE state = 'found'") == 54
