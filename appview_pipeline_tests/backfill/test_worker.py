"""Repositories out of the queue, on the simulated network: everything fetched, and nobody held up by anybody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from appview_pipeline import backoff
from appview_pipeline.backfill import lanes
from appview_pipeline.backfill import worker as worker_module
from appview_pipeline.backfill.listing import list_network
from appview_pipeline.backfill.progress import NOTHING_MORE, WorkSummary
from appview_pipeline.backfill.resync import Prepared, prepare
from appview_pipeline.backfill.worker import Worker, _unexpected, work
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.protocol import cid
from appview_pipeline.protocol.export import Export
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline.settings import Settings, load
from appview_pipeline.store import backfill_queue as queue
from appview_pipeline.store.backfill_reports import reports_since
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import RefusedData, Transient
from appview_pipeline.store.hosts import HostNews, note_hosts
from appview_pipeline_tests.simulated_network.http_service import Answer
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.keys import did_key
from appview_pipeline_tests.support.tables import one, rows

COLLECTIONS = IndexedCollections(())


def settings_for(network: SimulatedNetwork, database: Database, **others: Any) -> Settings:
    return replace(load(network.environment()), database_url=database.url, backfill_days=-1, **others)


def differences(database: Database, world: World) -> set[str]:
    """Paths of records of active accounts that the index has not as the network has them, or has and it has not."""
    there = {
        (f"at://{it.did}/{path}", cid.to_text(found[0]))
        for it in world.authors
        if it.account.active
        for path in it.repository.paths()
        if COLLECTIONS.get(path.partition("/")[0]) is not None and (found := it.repository.get(path)) is not None
    }
    here = {(uri, found) for uri, found in rows(database.url, "SELECT uri, cid FROM bsky.record")}
    refused = {uri for (uri,) in rows(database.url, "SELECT 'at://' || did || '/' || path FROM pipeline.dead_letter")}
    return {uri for uri, _ in there ^ here} - refused


def test_an_empty_index_is_filled_from_the_network(database: Database) -> None:
    world = World(11, 30, start=time.time() - 60, pasts=(), homes=3)
    with SimulatedNetwork(world) as network:
        network.advance(600)
        settings = settings_for(network, database)
        assert list_network(settings, database).queued > 25
        found = work(settings, database)
        assert found.ended == "nothing more may be fetched now"
        assert found.failed == 0 and found.left == 0 and found.repositories > 25, found
        assert differences(database, world) == set()
        assert one(database.url, "SELECT count(*) FROM pipeline.repo WHERE sync_state = 'synchronized'") > 25
        assert found.records == found.created > 300
        again = work(settings, database)
        assert again.repositories == 0


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    """60 accounts at four hosts, with a few records each."""
    world = World(13, 60, start=time.time() - 60, pasts=(), homes=4)
    with SimulatedNetwork(world) as network:
        network.advance(300)
        yield network


@pytest.fixture(autouse=True)
def _known_identities(request: pytest.FixtureRequest) -> None:
    """What resolution would find, so that the tests are quick."""
    if "network" in request.fixturenames and "moved" not in request.node.name:
        network, database = request.getfixturevalue("network"), request.getfixturevalue("database")
        for it in network.world.authors:
            rows(
                database.url,
                "INSERT INTO pipeline.identity (did, pds, signing_key, state, source, resolved_at, next_check_at)"
                " VALUES (%s, %s, %s, 'found', 'plc', now(), now() + interval '1 day')",
                it.did,
                network.world.pds_urls[it.account.home],
                did_key(it.account.key),
            )


def enqueue(
    database: Database, network: SimulatedNetwork, priority: int = queue.REST, *, home: int | None = None
) -> list[str]:
    """Queues all accounts that are active, or those of one host."""
    found = [it for it in network.world.authors if it.account.active and home in (None, it.account.home)]
    hosts = {it.did: network.world.pds_urls[it.account.home] for it in found}
    with database.connect("writer") as connection:
        queue.enqueue(connection, list(hosts), reason="requested", priority=priority, hosts=hosts)
    return list(hosts)


ASKED_AGAIN = """
CREATE TABLE asked_again (did text PRIMARY KEY);
CREATE FUNCTION ask_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO asked_again VALUES (NEW.did) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        NEW.finished_at := NULL;
        NEW.claimed_until := NULL;
        NEW.enqueued_at := clock_timestamp();
        NEW.not_before := clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER ask_again BEFORE UPDATE ON pipeline.backfill_queue
    FOR EACH ROW WHEN (NEW.finished_at IS NOT NULL) EXECUTE FUNCTION ask_again()
"""
"""A gap of each repository in the very moment in which it is complete."""


def test_a_repository_that_is_asked_for_again_as_it_ends(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the queue before the worker has noted that it is done with it: it is not at hand twice."""
    settings = settings_for(network, database)
    asked = enqueue(database, network, queue.DESYNCHRONIZED)
    rows(database.url, ASKED_AGAIN)
    monkeypatch.setattr(backoff, "RESOLUTION_SAVE_SECONDS", 1.0)
    found = work(settings, database, urgent=True)
    assert found.failed == 0 and found.repositories >= 2 * len(asked), found
    assert differences(database, network.world) == set()
    assert rows(database.url, "SELECT did FROM pipeline.backfill_queue WHERE finished_at IS NULL") == []


def unfinished(database: Database) -> dict[str, str | None]:
    return dict(rows(database.url, "SELECT did, error FROM pipeline.backfill_queue WHERE finished_at IS NULL"))


def test_hosts_that_fail_hold_up_no_other(database: Database, network: SimulatedNetwork) -> None:
    """One hangs, one asks to be left alone, one sends a byte a second; the fourth one's are all there long before."""
    everybody, good = enqueue(database, network), enqueue(database, network, home=3)
    hang, limited, drip, _ = network.pdses
    hang.faults.everybody, limited.faults.everybody, drip.faults.everybody = "hang", "limited", "drip"
    limited.faults.retry_after = 600
    settings = settings_for(network, database, fetch_seconds=3.0, repo_fetches=8)
    done: list[float] = []
    kinds: set[str] = set()

    def progress(so_far: WorkSummary) -> None:
        if so_far.repositories == len(good) and not done:
            done.append(so_far.seconds)
        kinds.update(so_far.failures)

    def stopped() -> bool:
        return bool(done) and {"parked", "timeout"} <= kinds

    found = work(settings, database, progress=progress, max_seconds=60, stopped=stopped)
    assert found.repositories == len(good) and done[0] < 8, found
    left = unfinished(database)
    assert len(left) == len(everybody) - len(good)
    reasons = {str(error) for error in left.values() if error}
    assert any("429" in reason for reason in reasons) and any(
        "within" in reason or "bytes" in reason for reason in reasons
    )
    parked = dict(rows(database.url, "SELECT host, reason FROM pipeline.pds_host WHERE parked_until > now()"))
    assert network.pdses[1].url in parked and network.pdses[3].url not in parked
    assert limited.faults.by_kind["limited"] < 5, "it is left alone"
    for pds in network.pdses:
        pds.let_go()


def test_a_host_that_refuses_some_accounts_is_well(database: Database, network: SimulatedNetwork) -> None:
    """What it answers is about them: however many come one after the other, the others are fetched."""
    dids = enqueue(database, network, home=1)
    body = b'{"error": "InvalidRequest", "message": "Could not find repo"}'
    refused = dids[: len(dids) // 2]
    network.pdses[1].answers.update({did: Answer(body, status=400) for did in refused})
    found = work(settings_for(network, database), database)
    assert found.repositories == len(dids) - len(refused) and found.failures == {"refused": len(refused)}
    assert set(unfinished(database)) == set(refused)
    assert rows(database.url, "SELECT host FROM pipeline.pds_host WHERE parked_until > now()") == []


def test_a_repository_that_fails_again_and_again_is_given_up_for_now(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "repository", lambda attempts: 0.0)
    monkeypatch.setattr(backoff, "BACKFILL_TRIES", 3)
    dids = enqueue(database, network, queue.DESYNCHRONIZED, home=2)
    bad = dids[0]
    network.pdses[2].faults.named[bad] = "garbage"
    found = work(settings_for(network, database), database, urgent=True)
    assert found.repositories == len(dids) - 1 and found.failed == 3 and found.parked == 1
    assert set(unfinished(database)) == {bad}
    ((state, reason),) = rows(database.url, "SELECT sync_state, sync_reason FROM pipeline.repo WHERE did = %s", bad)
    assert state == "error" and "not valid" in reason
    assert one(
        database.url, "SELECT not_before > now() + interval '20 h' FROM pipeline.backfill_queue WHERE did = %s", bad
    )
    # A person may ask for it at once.
    network.pdses[2].faults.named.clear()
    assert work(settings_for(network, database), database, dids=[bad]).repositories == 1
    assert one(database.url, "SELECT sync_state FROM pipeline.repo WHERE did = %s", bad) == "synchronized"


def test_a_repository_whose_host_never_has_what_is_missing_is_given_up_for_now(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay lists a rev that the PDS does not have, and will not."""
    monkeypatch.setattr(backoff, "repository", lambda attempts: 0.0)
    monkeypatch.setattr(backoff, "BACKFILL_TRIES", 3)
    dids = enqueue(database, network, queue.DESYNCHRONIZED, home=2)
    rows(database.url, "INSERT INTO pipeline.repo (did, sync_state) VALUES (%s, 'desynchronized')", dids[0])
    rows(
        database.url,
        "INSERT INTO pipeline.gap (kind, did, to_text) VALUES ('repository', %s, %s)",
        dids[0],
        tid_from_micros(time.time_ns() // 1_000 + 60_000_000),
    )
    found = work(settings_for(network, database), database, urgent=True, max_seconds=20)
    assert found.ended == "nothing more may be fetched now" and found.parked == 1, found
    assert found.repositories == len(dids) - 1 + 3
    ((state, reason),) = rows(database.url, "SELECT sync_state, sync_reason FROM pipeline.repo WHERE did = %s", dids[0])
    assert state == "error" and "does not have everything that is missing" in reason
    assert unfinished(database).keys() == {dids[0]}


def test_a_database_that_is_away_is_no_failed_attempt() -> None:
    queued = queue.Queued("did:plc:a", "", 0, "discovered", 0, datetime.now(timezone.utc))
    for error in (OperatorError("It can't be reached."), Transient("the connection is gone")):
        assert not _unexpected(queued, error).blames_account
    assert _unexpected(queued, RefusedData("a row is refused")).blames_account


def test_what_was_fetched_is_not_remembered(database: Database, network: SimulatedNetwork) -> None:
    """The network has fifty million accounts."""
    enqueue(database, network)
    made: list[Worker] = []
    prepare = Worker.__post_init__

    def noted(self: Worker) -> None:
        prepare(self)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "__post_init__", noted)
        assert work(settings_for(network, database), database).repositories > 40
    (worker,) = made
    assert not (worker._tried or worker._jobs or worker._downloaded or worker._unsaved)


def test_an_account_that_is_gone_is_asked_for_seldom(database: Database, network: SimulatedNetwork) -> None:
    did = enqueue(database, network, home=0)[0]
    network.happen(network.world.deactivate, did)
    found = work(settings_for(network, database), database, dids=[did])
    assert found.parked == 1 and found.failures == {"gone": 1} and "deactivated" in found.reasons[did]
    assert work(settings_for(network, database), database).failures.get("gone") is None


def test_an_account_that_has_moved_is_fetched_from_its_new_host(database: Database, network: SimulatedNetwork) -> None:
    """Lists are not trusted: the DID document says where it is."""
    with database.connect("writer") as connection:
        dids = [it.did for it in network.world.authors if it.account.active][:10]
        hosts = dict.fromkeys(dids[:5], "https://elsewhere.example")
        queue.enqueue(connection, dids, reason="requested", priority=queue.ASKED, hosts=hosts)
    found = work(settings_for(network, database), database, urgent=True)
    assert found.repositories == 10 and found.failed == 0
    known = dict(rows(database.url, "SELECT did, host FROM pipeline.backfill_queue"))
    assert known == {it.did: network.world.pds_urls[it.account.home] for it in network.world.authors if it.did in dids}


def test_only_what_is_urgent_unless_a_backfill_is_wanted(database: Database, network: SimulatedNetwork) -> None:
    urgent = enqueue(database, network, queue.DESYNCHRONIZED, home=1)
    enqueue(database, network)
    settings = replace(settings_for(network, database), backfill_days=0)
    assert work(settings, database).repositories == len(urgent)
    bucket = one(database.url, "SELECT min(bucket) FROM pipeline.backfill_queue WHERE finished_at IS NULL")
    assert work(settings, database, bucket=bucket).repositories == 0
    assert work(replace(settings, backfill_days=-1), database, bucket=bucket).repositories > 0
    buckets = rows(
        database.url,
        "SELECT DISTINCT bucket FROM pipeline.backfill_queue WHERE finished_at IS NOT NULL AND priority = 0",
    )
    assert buckets == [(bucket,)]


def test_what_becomes_urgent_does_not_wait_for_the_rest(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that works off everything goes from bucket to bucket, and each has a million repositories."""
    monkeypatch.setattr(backoff, "BACKFILL_URGENT_SECONDS", 0.05)
    monkeypatch.setattr(lanes, "READY", 0)
    monkeypatch.setattr(lanes, "MAX_READY", 1)
    everybody = enqueue(database, network)
    last = everybody[30]
    rows(database.url, "ALTER TABLE pipeline.backfill_queue ALTER bucket DROP EXPRESSION, ALTER bucket SET DEFAULT 0")
    rows(database.url, "UPDATE pipeline.backfill_queue SET bucket = (did = %s)::int", last)
    for pds in network.pdses:
        pds.faults.delay = 0.05
    asked: list[str] = []

    def progress(so_far: WorkSummary) -> None:
        if so_far.repositories > 1 and not asked:
            asked.append(last)
            with database.connect("writer") as connection:
                queue.enqueue(connection, asked, reason="chain", priority=queue.DESYNCHRONIZED)

    assert work(settings_for(network, database, repo_fetches=2), database, progress=progress).left == 0
    later = one(
        database.url,
        "SELECT count(*) FROM pipeline.backfill_queue"
        " WHERE finished_at > (SELECT finished_at FROM pipeline.backfill_queue WHERE did = %s)",
        last,
    )
    assert asked and later > len(everybody) // 10


def test_a_large_repository_holds_up_no_other(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in a file while it is compared and written, which takes minutes: memory is left for others."""
    dids = enqueue(database, network)
    done = threading.Event()
    in_time: list[bool] = []

    def slow(database: Database, settings: Settings, export: Export, **others: Any) -> Prepared:
        if export.did == dids[0]:
            in_time.append(done.wait(20))
        return prepare(database, settings, export, **others)

    def progress(so_far: WorkSummary) -> None:
        if so_far.repositories == len(dids) - 1:
            done.set()

    monkeypatch.setattr(worker_module, "prepare", slow)
    settings = settings_for(network, database, repo_memory_bytes=100)
    assert work(settings, database, progress=progress).repositories == len(dids)
    assert in_time == [True]


def test_the_newest_days_only(database: Database, network: SimulatedNetwork) -> None:
    dids = enqueue(database, network)
    rows(database.url, "UPDATE pipeline.backfill_queue SET priority = 0")
    found = work(replace(settings_for(network, database), backfill_days=1), database)
    assert found.repositories == len(dids) and unfinished(database) == {}
    partial = one(database.url, "SELECT count(*) FROM pipeline.repo WHERE is_partial AND export_rev IS NULL")
    assert partial == len(dids)


def test_what_is_missing_is_fetched_whole_whatever_days_are_wanted(
    database: Database, network: SimulatedNetwork
) -> None:
    urgent = enqueue(database, network, queue.DESYNCHRONIZED, home=1)
    enqueue(database, network)
    found = work(settings_for(network, database), database, days=1)
    assert found.failed == 0 and unfinished(database) == {}
    whole = {did for (did,) in rows(database.url, "SELECT did FROM pipeline.repo WHERE NOT is_partial")}
    assert whole == set(urgent)


def test_no_days_are_only_what_is_urgent(database: Database, network: SimulatedNetwork) -> None:
    urgent = enqueue(database, network, queue.DESYNCHRONIZED, home=1)
    enqueue(database, network)
    assert work(settings_for(network, database), database, days=0).repositories == len(urgent)


def test_what_comes_to_the_queue_meanwhile_is_counted(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "BACKFILL_COUNT_SECONDS", 0.0)
    count, counted = queue.count_waiting, list[int]()

    def counting(*arguments: Any) -> int:
        counted.append(count(*arguments))
        return counted[-1]

    monkeypatch.setattr(queue, "count_waiting", counting)
    few = enqueue(database, network, queue.DESYNCHRONIZED, home=1)

    def progress(so_far: WorkSummary) -> None:
        if so_far.seconds < 1:
            enqueue(database, network, queue.DESYNCHRONIZED)

    work(settings_for(network, database), database, urgent=True, progress=progress)
    assert counted[0] == len(few) < max(counted) and counted[-1] == 0


def test_what_the_stream_brings_meanwhile_is_kept(database: Database, network: SimulatedNetwork) -> None:
    """Live commits arrive while repositories are fetched: at the end everything is there, and nobody waits."""
    enqueue(database, network)
    frames = network.advance(200)
    sent: list[int] = []

    def progress(so_far: WorkSummary) -> None:
        if len(sent) < 10:
            start = len(sent) * 20
            sent.append(start)
            index(database, *frames[start : start + 20])

    settings = settings_for(network, database)
    work(settings, database, progress=progress)
    index(database, *frames[len(sent) * 20 :])
    while work(settings, database).repositories:
        pass
    assert unfinished(database) == {} and differences(database, network.world) == set()
    states = dict(rows(database.url, "SELECT sync_state, count(*) FROM pipeline.repo WHERE active GROUP BY 1"))
    assert states.keys() <= {"synchronized", "unknown"}


def test_it_ends_when_its_time_is_over_and_gives_back_what_it_had_taken(
    database: Database, network: SimulatedNetwork
) -> None:
    enqueue(database, network)
    for pds in network.pdses:
        pds.faults.delay = 0.3
    found = work(settings_for(network, database, repo_fetches=2), database, max_seconds=1.5)
    assert found.ended == "its 2 s were over" and 0 < found.repositories < 40 and found.seconds < 10
    assert one(database.url, "SELECT count(*) FROM pipeline.backfill_queue WHERE claimed_until IS NOT NULL") == 0
    calls = iter(range(100))
    found = work(settings_for(network, database), database, stopped=lambda: next(calls, 100) > 5)
    assert found.ended == "it was asked to end"
    for pds in network.pdses:
        pds.faults.delay = 0.0
    assert work(settings_for(network, database), database).left == 0
    assert differences(database, network.world) == set()


def test_what_was_done_is_reported(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "BACKFILL_REPORT_SECONDS", 0.2)
    enqueue(database, network)
    found = work(settings_for(network, database), database)
    with database.connect("reader") as connection:
        totals = reports_since(connection, 0)
    assert (totals.repositories, totals.records, totals.created) == (found.repositories, found.records, found.created)
    assert totals.bytes == found.bytes and totals.rows >= 1 and totals.failures == {}
    assert one(database.url, "SELECT sum(fetched) FROM pipeline.pds_host") == found.repositories


def test_an_account_that_is_active_again_is_fetched(database: Database, network: SimulatedNetwork) -> None:
    """It was not active when something of it was found missing, so that it was not queued."""
    did = next(it.did for it in network.world.authors if it.account.active)
    rows(database.url, "INSERT INTO pipeline.repo (did, sync_state) VALUES (%s, 'desynchronized')", did)
    assert work(settings_for(network, database), database, urgent=True).repositories == 1
    assert one(database.url, "SELECT sync_state FROM pipeline.repo WHERE did = %s", did) == "synchronized"


def test_what_is_asked_for_by_name_does_not_wait_for_a_parked_host(
    database: Database, network: SimulatedNetwork
) -> None:
    """It is tried once, and whoever asked for it hears why it failed."""
    dids = enqueue(database, network, home=1)
    with database.connect("writer") as connection:
        note_hosts(connection, [HostNews(network.pdses[1].url, 0, 3, "it hangs", 3_600.0)])
    assert work(settings_for(network, database), database).repositories == 0
    assert work(settings_for(network, database), database, dids=dids[:2]).repositories == 2
    network.pdses[1].faults.everybody, network.pdses[1].faults.retry_after = "limited", 600
    found = work(settings_for(network, database), database, dids=dids[2:6])
    assert found.repositories == 0 and found.reasons.keys() == set(dids[2:6])
    assert {"429" in reason or "left alone" in reason for reason in found.reasons.values()} == {True}


def test_what_a_killed_process_had_taken_is_waited_for(database: Database, network: SimulatedNetwork) -> None:
    did = enqueue(database, network)[0]
    with database.connect("writer") as connection:
        assert queue.take_given(connection, [did], 2.0)
    found = work(settings_for(network, database), database, dids=[did])
    assert found.repositories == 1 and found.seconds > 1


def test_what_has_to_wait_is_left_for_nobody_knows_how_long() -> None:
    so_far = WorkSummary(repositories=6, seconds=3.0, left=4)
    assert so_far.eta_seconds == 2.0
    assert replace(so_far, ended=NOTHING_MORE).eta_seconds is None
