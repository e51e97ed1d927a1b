"""The processes of docker/compose.yaml as plain processes, with docker/dagster.yaml.

What it must show: the network is indexed, a partition is rerun from the webserver; SIGTERM ends each process within
10 s, with runs and ticks in flight, and leaves nothing running; started again, it goes on where it was. A daemon or a
code server that is killed ends the consumer, and a daemon that only pauses does not.

All of it is one test, since each start of these processes takes most of a minute on a slow machine.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.database import run_sql
from appview_pipeline_tests.support.deployment import CODE, DAEMON, STOP_SECONDS, WEBSERVER, Deployment, deployed
from appview_pipeline_tests.support.machine import slowness
from appview_pipeline_tests.support.tables import one, rows
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")

NAMES = ("layout_index", "layout_dagster")
DELETE = "DELETE FROM bsky.like WHERE uri IN (SELECT uri FROM bsky.like LIMIT 7) RETURNING uri"
STILL_LOST = (
    "SELECT count(*) FROM bsky.record r WHERE uri = ANY(%s) "
    "AND NOT EXISTS (SELECT FROM bsky.like l WHERE l.uri = r.uri)"
)
SHORT_TICKS = {"DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS": "20"}
"""A tick takes 15 s of that."""
LEASE_SECONDS = 10.0
"""What a leased process has to end once nobody renews its lease."""
PAUSE_SECONDS = 30.0
"""The rest of a short tick, and a pause."""
MOMENT = 2.0
"""A process of Python's own, which tracks semaphores, ends a moment after its parent."""
wait = partial(wait_for, longest=1.0)
"""Most looks ask the webserver, or walk through /proc."""
JOINTS = "SELECT last_seq, lead(first_seq) OVER (ORDER BY id) FROM pipeline.batch WHERE last_seq > 0 ORDER BY id"


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(accounts=60, rate=60.0, labelers=1, label_rate=1.0) as network:
        yield network


@pytest.fixture
def deployment(server: EmbeddedPostgres, network: SimulatedNetwork) -> Iterator[Deployment]:
    """The deployment on two databases of its own, as the compose file has them."""
    folder = Path(tempfile.mkdtemp(prefix="appview-layout-"))
    for name in NAMES:
        run_sql(server, f'CREATE DATABASE "{name}"')
    index, dagster = map(server.url, NAMES)
    try:
        with deployed(folder, database_url=index, dagster_url=dagster, environment=network.environment()) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name in NAMES:
            run_sql(server, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.slow  # about 60 s
def test_it_indexes_reruns_stops_in_time_and_goes_on(deployment: Deployment, network: SimulatedNetwork) -> None:
    url = deployment.index_url

    def seq() -> int:
        return int(one(url, "SELECT coalesce(max(seq), 0) FROM pipeline.cursor"))

    deployment.start(CODE)
    deployment.start(DAEMON, WEBSERVER)
    wait(deployment.is_up, explain=deployment.last_words)
    wait(lambda: seq() and len(deployment.leased()) == 4, explain=deployment.last_words)

    wait(lambda: one(url, "SELECT count(*) FROM bsky.like") > 20, explain=deployment.last_words)
    lost = [uri for (uri,) in rows(url, DELETE)]
    rerun = deployment.materialize("likes", time.strftime("%Y-%m-%d-%H:00", time.gmtime()))
    wait(lambda: deployment.status(rerun) == "SUCCESS", explain=lambda: deployment.status(rerun))
    assert lost and one(url, STILL_LOST, lost) == 0

    # A run that would take minutes, since the host of its repository does not answer.
    network.pds.faults.everybody = "hang"
    accounts = [author.did for author in network.world.authors[:3]]
    run = deployment.launch("resync", {"ops": {"resync_repositories": {"config": {"accounts": accounts}}}})
    wait(lambda: deployment.status(run) == "STARTED", explain=lambda: deployment.status(run))
    wait(lambda: network.pds.faults.by_kind["hang"])

    slow = slowness()
    took = {}
    took[CODE] = deployment.stop(CODE)
    wait(lambda: not deployment.children(), MOMENT * slow, lambda: f"left by the code server: {deployment.children()}")
    wait(lambda: deployment.status(run) == "CANCELED", explain=lambda: deployment.status(run))
    reached = seq()
    assert one(url, "SELECT max(last_seq) FROM pipeline.batch") == reached

    deployment.start(CODE)
    wait(lambda: seq() > reached and len(deployment.leased()) == 4, explain=deployment.last_words)
    took[DAEMON] = deployment.stop(DAEMON)
    wait(lambda: not deployment.leased(), MOMENT * slow, lambda: f"left by the daemon: {deployment.leased()}")
    with deployment.subscription():
        took[WEBSERVER] = deployment.stop(WEBSERVER)
    took["code server without a daemon"] = deployment.stop(CODE)
    wait(lambda: not deployment.processes(), MOMENT * slow, lambda: f"left: {deployment.processes()}")
    slow = max(slow, slowness())
    assert max(took.values()) < STOP_SECONDS * slow, (took, slow)

    print(took)

    reached = seq()
    deployment.environment.update(SHORT_TICKS)
    deployment.start(CODE)
    deployment.start(DAEMON)
    wait(lambda: seq() > reached, explain=deployment.last_words)
    die_and_pause(deployment, slow)
    joints = rows(url, JOINTS)
    assert len(joints) > 3 and all(last + 1 == first for last, first in joints[:-1]), "nothing was left out or repeated"


def die_and_pause(deployment: Deployment, slow: float) -> None:
    """The daemon is killed, another one stands still for half a minute, and the code server is killed. `slow`: how many
    times slower than a quiet machine this one is."""

    def consumers() -> set[int]:
        return set(deployment.leased("ingest.live.consumer"))

    first = consumers()
    assert len(first) == 1
    time.sleep(2.0)  # the tick that started it is at work
    deployment.kill(DAEMON)
    wait(
        lambda: not consumers(), LEASE_SECONDS * slow, lambda: f"the daemon killed, the consumer goes on: {consumers()}"
    )

    deployment.start(DAEMON)
    wait(consumers, explain=deployment.last_words)
    second = consumers()
    assert len(second) == 1 and second != first
    # A machine that is busy elsewhere: the daemon gets no turn, so no tick follows on the one at work.
    daemon = deployment.services[DAEMON].process
    assert daemon is not None
    daemon.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + PAUSE_SECONDS
    while time.monotonic() < deadline:
        assert consumers() == second, "it goes on through a pause"
        time.sleep(0.5)
    daemon.send_signal(signal.SIGCONT)

    deployment.kill(CODE)
    wait(lambda: not consumers(), LEASE_SECONDS * slow, lambda: f"the code server killed, it goes on: {consumers()}")
