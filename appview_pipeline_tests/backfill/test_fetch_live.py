"""The fetch process, with servers: what it fetches, what it reports, and when it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from appview_pipeline import backoff
from appview_pipeline.backfill import fetch_process
from appview_pipeline.backfill.fetch_live import LOCK, fetch_live
from appview_pipeline.leases.leased_process import EXIT_ENDED, EXIT_LOCK_LOST
from appview_pipeline.protocol.peek import peek_did
from appview_pipeline.settings import load
from appview_pipeline.store.database import Database
from appview_pipeline.store.session_lock import LockTaken, session_lock
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.consumers import Consumer
from appview_pipeline_tests.support.tables import one, rows
from appview_pipeline_tests.support.waiting import wait_for

OPEN = "SELECT count(*) FROM pipeline.pending WHERE not_before IS NOT NULL"
REPORTED = "SELECT coalesce(sum({}), 0) FROM pipeline.fetch_batch"


class Child(Consumer):
    """The fetch process as a child of the test."""

    command = fetch_process.COMMAND


@pytest.fixture
def network(database: Database) -> Iterator[SimulatedNetwork]:
    """A network of which one account in three is indexed."""
    with SimulatedNetwork(seed=5, accounts=24) as made:
        frames = made.advance(700)
        known = {author.did.encode() for author in made.world.authors[::3]}
        index(database, *(frame for frame in frames if peek_did(frame) in known))
        assert one(database.url, OPEN) > 5
        yield made


def child(database: Database, network: SimulatedNetwork, **environment: str) -> Child:
    return Child(database.url, network.relay_url, **{**network.environment(), **environment})


@contextmanager
def fetching(database: Database, network: SimulatedNetwork, **environment: str) -> Iterator[None]:
    """The same in a thread of the test, where its waits can be changed."""
    settings = load({**network.environment(), "APPVIEW_DATABASE_URL": database.url, **environment})
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ends = pool.submit(fetch_live, settings, stop.is_set)
        try:
            yield
        finally:
            stop.set()
            ends.result(30)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test can sit out."""
    monkeypatch.setattr(backoff, "MISSING_RECORDS_SECONDS", 0.1)
    monkeypatch.setattr(backoff, "FETCH_REPORT_SECONDS", 0.1)


def test_what_is_missing_is_fetched_and_reported(database: Database, network: SimulatedNetwork, quick: None) -> None:
    with fetching(database, network):
        wait_for(lambda: one(database.url, OPEN) == 0, 30)
        wait_for(lambda: one(database.url, REPORTED.format("found")) > 5, 10)
    found = rows(
        database.url,
        "SELECT sum(asked), sum(found + absent + refused + invalid + unreachable), "
        "(SELECT sum(value::int) FROM pipeline.fetch_batch, jsonb_each_text(asked_by_collection)) "
        "FROM pipeline.fetch_batch",
    )
    assert len(set(found[0])) == 1, "every attempt is in each of them"
    last = "SELECT waiting, oldest_seconds FROM pipeline.fetch_batch ORDER BY id DESC LIMIT 1"
    assert rows(database.url, last) == [(0, None)]
    sources = rows(database.url, "SELECT DISTINCT source FROM pipeline.batch ORDER BY 1")
    assert sources == [("records",), ("test",)]


def test_switched_off_it_fetches_nothing_and_says_so(
    database: Database, network: SimulatedNetwork, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    before = one(database.url, OPEN)
    caplog.set_level("INFO")
    with fetching(database, network, APPVIEW_SKIP_PDS_FETCHING="1"):
        wait_for(lambda: one(database.url, "SELECT count(*) FROM pipeline.fetch_batch") > 0, 10)
        time.sleep(0.5)
    assert one(database.url, OPEN) == before and network.pds.asked == 0
    assert "APPVIEW_SKIP_PDS_FETCHING is on" in caplog.text


def test_one_process_for_each_database(database: Database, network: SimulatedNetwork) -> None:
    single = child(database, network)
    try:
        wait_for(lambda: "Fetching missing records" in single.said, 30, lambda: single.said)
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


def test_the_lease_ends_a_process_whose_hosts_all_hang(database: Database, network: SimulatedNetwork) -> None:
    network.pds.faults.everybody = "hang"
    hung = child(database, network)
    try:
        wait_for(lambda: network.pds.faults.by_kind["hang"] >= 1, 30, lambda: hung.said)
        began = time.monotonic()
        hung.give_back()
        assert hung.code() == EXIT_ENDED, hung.said
        assert time.monotonic() - began < backoff.GRACE_SECONDS
    finally:
        hung.clean_up()
    due = "SELECT count(*) FROM pipeline.pending WHERE not_before <= now() AND attempts = 0"
    assert one(database.url, due) == one(database.url, OPEN) > 0, "what it had taken is given back"
