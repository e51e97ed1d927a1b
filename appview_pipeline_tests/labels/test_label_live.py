"""The label process as a process: killed at any moment, out of its lease, without its database, by hand."""

from __future__ import annotations

import json
import random
import resource
import signal
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from appview_pipeline import backoff
from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.labels.by_hand import subscribe
from appview_pipeline.labels.label_live import allow_files
from appview_pipeline.leases.leased_process import EXIT_ENDED
from appview_pipeline.settings import Settings, load
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.errors import Transient
from appview_pipeline.store.labelers import LOCK
from appview_pipeline.store.session_lock import LockLost, LockTaken, session_lock
from appview_pipeline_tests.simulated_network import SimulatedNetwork
from appview_pipeline_tests.support.label_streams import LabelChild, quicken, reading
from appview_pipeline_tests.support.tables import fresh_database, one, rows
from appview_pipeline_tests.support.waiting import wait_for

LABELS = "SELECT src, uri, cid, val, neg, cts, exp FROM bsky.label ORDER BY 1, 2, 3, 4"
EVENTS = "SELECT src, uri, cid, val, neg, cts, exp, seq, sig FROM pipeline.label_event ORDER BY 1, 2, 3, 4, 5, 6, 7"
COUNTS = "SELECT did, cursor, labels, in_effect FROM pipeline.labeler ORDER BY did"
CURSORS = "SELECT did, cursor FROM pipeline.labeler ORDER BY did"


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(seed=8, accounts=10) as made:
        made.advance(100)
        for _ in range(3):
            made.labelers.add(keeps_all=True)
        yield made


def child(database: Database, network: SimulatedNetwork, **environment: str) -> LabelChild:
    return LabelChild(database.url, network.relay_url, **{**network.environment(), **environment})


@pytest.mark.parametrize(
    "kills", [pytest.param(6, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.thorough)]
)
def test_killed_again_and_again_it_ends_in_the_same_tables(
    database: Database,
    network: SimulatedNetwork,
    server: EmbeddedPostgres,
    template_database: str,
    monkeypatch: pytest.MonkeyPatch,
    kills: int,
) -> None:
    """Small batches, so that a kill meets every part of them. Nothing is lost, and nothing counted twice. (A campaign
    with two kills is among the quick tests: properties/test_label_campaign.py.)"""
    draws = random.Random(7)
    for _ in range(kills):
        network.labelers.label(600)
        kill_one(database, network, draws.uniform(0, 0.1))
    newest = [(labeler.did, labeler.seq) for labeler in sorted(network.labelers, key=lambda it: it.did)]
    assert rows(database.url, CURSORS) != newest, "it was done before the last kill"
    quicken(monkeypatch)
    with fresh_database(server, template_database) as whole:
        for url in (database, whole):
            with reading(url, network) as it:
                it.wait_for_cursor(*network.labelers, seconds=60)
        for what in (LABELS, EVENTS, COUNTS):
            assert rows(database.url, what) == rows(whole.url, what)


def kill_one(database: Database, network: SimulatedNetwork, seconds: float) -> None:
    """Starts a label process, and kills it so long after it has written something."""
    before = rows(database.url, CURSORS)
    killed = child(database, network, APPVIEW_BATCH_EVENTS="20", APPVIEW_BATCH_SECONDS="0.01")
    try:
        wait_for(lambda: any(at > 0 and (did, at) not in before for did, at in rows(database.url, CURSORS)), 60)
        time.sleep(seconds)
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait(10)
    finally:
        killed.clean_up()


def test_one_process_for_each_database(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else gets the lock; without it the process ends. (`run_leased` makes an exit code of that.)"""
    quicken(monkeypatch)
    network.labelers.label(30)
    with pytest.raises(LockLost), reading(database, network) as it:
        it.wait_for_cursor(*network.labelers)
        with pytest.raises(LockTaken), session_lock(database, LOCK, taken="taken", patience=0.0):
            pass
        rows(
            database.url,
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND datname = current_database()",
        )
        wait_for(lambda: it.ended, 10)


def test_it_ends_with_its_lease_and_says_so(database: Database, network: SimulatedNetwork) -> None:
    network.labelers[0].hang()
    network.plc.faults.named[network.labelers[1].did] = "hang"
    running = child(database, network)
    try:
        state = "SELECT state FROM pipeline.labeler WHERE did = %s"
        wait_for(
            lambda: rows(database.url, state, network.labelers[2].did) == [("connected",)], 30, lambda: running.said
        )
        running.give_back()
        began = time.monotonic()
        assert running.code() == EXIT_ENDED, running.said
        assert time.monotonic() - began < 5
    finally:
        running.clean_up()
    ended = rows(database.url, "SELECT DISTINCT state, reason FROM pipeline.labeler")
    assert ended == [("waiting", "the label process has ended, so nobody reads it")]


def test_without_its_database_it_waits_and_says_why(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statements fail for a while, as when a server restarts behind a pooler: nothing is lost, and its parent knows."""
    quicken(monkeypatch)
    monkeypatch.setattr(backoff, "database_away", lambda: backoff.Backoff(first=0.05, longest=0.1))
    monkeypatch.setattr(backoff, "LABELS_EXPIRED_SECONDS", 0.05)
    with reading(database, network) as it:
        network.labelers.label(20)
        it.wait_for_cursor(*network.labelers)

        def refuse(connection: object) -> int:
            raise Transient("the server is away")

        with monkeypatch.context() as away:
            away.setattr("appview_pipeline.labels.label_live.announce_expired", refuse)
            wait_for(lambda: it.troubles[-1] == "the server is away", 10)
        wait_for(lambda: it.troubles[-1] is None, 10)
        network.labelers.label(20)
        it.wait_for_cursor(*network.labelers)


def test_labels_that_expire_are_announced(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    quicken(monkeypatch)
    monkeypatch.setattr(backoff, "LABELS_EXPIRED_SECONDS", 0.05)
    before = one(database.url, "SELECT expired_to FROM pipeline.label_feed")
    with reading(database, network):
        wait_for(lambda: one(database.url, "SELECT expired_to FROM pipeline.label_feed") > before, 10)


@pytest.mark.parametrize(
    ("limits", "raised"),
    [((1_024, 4_096), (2_200, 4_096)), ((1_024, 2_000), (2_000, 2_000)), ((4_096, 4_096), None), ((-1, -1), None)],
)
def test_many_labelers_need_many_files(
    limits: tuple[int, int],
    raised: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_to = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: set_to.append(both))
    allow_files(Settings(labelers=("all",), labelers_limit=2_000))
    assert set_to == ([] if raised is None else [raised])
    assert ("2,000 labelers may need 2,200 open files" in caplog.text) == (raised == (2_000, 2_000))


# ---- by hand


def settings_of(database: Database, network: SimulatedNetwork, **environment: str) -> Settings:
    return load({"APPVIEW_DATABASE_URL": database.url, **network.environment(), **environment})


def test_labels_subscribe(database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, and then the same from the start: what is repeated changes nothing."""
    network.labelers.label(200)
    first = network.labelers[0]
    quicken(monkeypatch)
    monkeypatch.setattr("appview_pipeline.ingest.interpreter.favour_throughput", lambda: None)
    environment = {**network.environment(), "DATABASE_URL": database.url}
    done = CliRunner().invoke(cli, ["labels", "subscribe", first.did, "--seconds", "1.5"], env=environment)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["events"] == said["added"] == first.published_labels
    assert said["labelers"] == {first.did: "connected"}
    again = subscribe(settings_of(database, network), [first.did], seconds=1, from_start=True)
    assert again.events == again.repeated == first.published_labels and again.changed == 0
    assert rows(database.url, "SELECT DISTINCT src FROM bsky.label") == [(first.did,)]


def test_labels_subscribe_says_what_is_wrong(database: Database, network: SimulatedNetwork) -> None:
    settings = settings_of(database, network)
    with pytest.raises(OperatorError, match="is not a DID"):
        subscribe(settings, ["bob.test"])
    with pytest.raises(OperatorError, match="No labeler is to be read"):
        subscribe(settings_of(database, network, APPVIEW_LABELERS="none"))
    with (
        session_lock(database, LOCK, taken="taken"),
        pytest.raises(OperatorError, match="switch the sensor label_sensor off"),
    ):
        subscribe(settings, seconds=0.5)
