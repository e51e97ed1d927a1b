"""`dagster dev` for real, against the simulated network, on its own embedded database.

What it must show: one command indexes the network; the numbers are in the UI; the sensor's switch, a code reload and
Ctrl-C end the consumer in seconds and everything in 10; history is there after a restart.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.dagster_dev import Dev, checkout_folder, until
from appview_pipeline_tests.support.ports import free_port

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds survivors through /proc")

SENSOR = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "appview_pipeline",
    "sensorName": "firehose_sensor",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder as a fresh checkout is to `dagster dev`."""
    with checkout_folder() as made:
        yield made


@pytest.mark.slow  # about 60 s
def test_one_command_indexes_the_network(folder: Path) -> None:
    with SimulatedNetwork(accounts=60, rate=60.0) as network:
        environment = {**network.environment(), "APPVIEW_STATE_DIR": str(folder / ".appview")}
        dev = Dev(folder, environment)
        try:
            until(dev.is_up, "the webserver answers")
            first = until(dev.consumers, "a consumer runs")
            reports = until(lambda: dev.materializations("firehose"), "the firehose is materialized")
            assert reports[0]["events"] > 0 and reports[0]["rejected"] == 0 and reports[0]["last_seq"] > 0
            until(lambda: dev.materializations("record"), "so is what follows from it")
            likes = until(lambda: dev.materializations("likes"), "one asset after the other")
            assert likes[0]["partition"] == time.strftime("%Y-%m-%d-%H:00", time.gmtime())
            accounts = until(lambda: dev.materializations("actors"), "accounts are resolved")
            assert accounts[-1]["resolved"] > 0 and accounts[-1]["success_rate"] == 1.0
            assert len(dev.resolvers()) == 1
            ask_twice(dev)
            assert dev.consumers() == first, "one consumer, the same all the time"

            sensor = dev.ask(
                "query ($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { id } } }", s=SENSOR
            )["sensorOrError"]["id"]
            dev.ask("mutation ($id: String!) { stopSensor(id: $id) { __typename } }", id=sensor)
            until(lambda: not dev.consumers(), "switched off, the consumer ends", 10)
            second = switch_on(dev)

            resolver = dev.resolvers()
            dev.ask('mutation { reloadRepositoryLocation(repositoryLocationName: "appview_pipeline") { __typename } }')
            until(lambda: second[0] not in dev.consumers(), "code reloaded, the old consumer ends", 10)
            until(lambda: resolver[0] not in dev.resolvers(), "and the old identity process", 10)
            until(dev.consumers, "and a new one runs", 20)
            until(dev.resolvers, "of both", 20)
            assert len(dev.consumers()) == 1

            before = dev.materializations("firehose")
            # Mostly Dagster's own end, which took 11 s on a busy machine; the leased processes have 10 s of it.
            assert dev.interrupt() < 20
            assert dev.survivors() == []
        finally:
            dev.kill()

        dev = Dev(folder, environment)
        try:
            until(dev.is_up, "the webserver answers again")
            assert dev.materializations("firehose")[: len(before)] == before, "history survives a restart"
            until(lambda: len(dev.materializations("firehose")) > len(before), "and goes on")
            after = dev.materializations("firehose")
            # Nothing was skipped while nobody consumed: the reports join up across all of it.
            joints = [(old["last_seq"], new["first_seq"]) for old, new in itertools.pairwise(after)]
            assert all(new == old + 1 for old, new in joints), joints
            assert dev.interrupt_all() < 20
            assert dev.survivors() == []
            until(lambda: not dev.processes(), "the database has stopped too", 35)
        finally:
            dev.kill()
        assert network.failure is None


@pytest.mark.slow  # about 15 s
def test_dagster_dev_killed_ends_the_consumer(folder: Path) -> None:
    with SimulatedNetwork(accounts=20, rate=20.0) as network:
        dev = Dev(folder, {**network.environment(), "APPVIEW_STATE_DIR": str(folder / ".appview")})
        try:
            until(dev.consumers, "a consumer runs")
            time.sleep(2.0)  # the tick that started it is at work
            dev.process.kill()
            until(lambda: not dev.consumers(), "dagster dev killed, the consumer ends", 10)
        finally:
            dev.kill()


class Deployed(Dev):
    """Code server and daemon as in production, each by itself; `process` is the code server."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.mark = f"APPVIEW_LIVE_TEST={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.port = free_port()
        (folder / "home").mkdir()
        shutil.copy(CHECKOUT / "dagster.yaml", folder / "home")
        # Two processes that make Dagster's SQLite storage at once can leave it with two versions, for good.
        with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
            instance.all_instigator_state()
            instance.get_run_records(limit=1)
            instance.get_asset_keys()
        (folder / "deployed.yaml").write_text(
            f"load_from:\n- grpc_server: {{host: 127.0.0.1, port: {self.port}, location_name: appview_pipeline}}\n"
        )
        inherited = {key: text for key, text in os.environ.items() if key != "DATABASE_URL"}
        self.environment = {**inherited, **environment, name: value, "PYTHONPATH": str(CHECKOUT)}
        self.environment["DAGSTER_HOME"] = str(folder / "home")
        self.environment["DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS"] = "20"  # of which a tick takes 15
        self.log = (folder / "deployed.log").open("ab")
        self.process = self.start("dagster", "api", "grpc", "-m", "appview_pipeline.defs.definitions", "-h",
                                  "127.0.0.1", "-p", str(self.port))  # fmt: skip
        self.daemons: list[subprocess.Popen[bytes]] = []

    def is_up(self) -> bool:
        assert self.process.poll() is None, Path(self.log.name).read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=self.folder, env=self.environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """A daemon, once the code server is up: one that came before would look for it again only after a minute."""
        until(self.is_up, "the code server listens")
        self.daemons.append(self.start("dagster._daemon", "run", "-w", "deployed.yaml"))
        return self.daemons[-1]

    def kill(self) -> None:
        super().kill()  # the daemons, too
        for daemon in self.daemons:
            daemon.wait()


@pytest.mark.slow  # about 45 s
def test_a_daemon_or_code_server_that_dies_ends_the_consumer_and_a_pause_does_not(folder: Path) -> None:
    with SimulatedNetwork(accounts=20, rate=20.0) as network:
        deployed = Deployed(folder, {**network.environment(), "APPVIEW_STATE_DIR": str(folder / ".appview")})
        try:
            daemon = deployed.start_daemon()
            first = until(deployed.consumers, "a consumer runs")
            time.sleep(2.0)  # the tick that started it is at work
            daemon.kill()
            daemon.wait()
            until(lambda: not deployed.consumers(), "the daemon killed, the consumer ends", 10)

            daemon = deployed.start_daemon()
            second = until(deployed.consumers, "with a new daemon a consumer runs")
            assert second != first
            # A machine that is busy elsewhere: the daemon gets no turn, so no tick follows on the one at work.
            daemon.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + 30  # the rest of the tick, at most 15 s, and a pause
            while time.monotonic() < deadline:
                assert deployed.consumers() == second, "it goes on through a pause"
                time.sleep(0.5)
            daemon.send_signal(signal.SIGCONT)

            deployed.process.kill()
            deployed.process.wait()
            until(lambda: not deployed.consumers(), "the code server killed, the consumer ends", 10)
        finally:
            deployed.kill()


def switch_on(dev: Dev) -> list[int]:
    """Switches the firehose sensor on, and returns the consumers that run then.

    Dagster saves the sensor's state a moment after the end of a tick, as it was before that: a switch in between is
    lost, and has to be repeated, as a person would.
    """
    due = 0.0

    def consumers() -> list[int]:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + 10
            dev.ask("mutation ($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }", s=SENSOR)
        return dev.consumers()

    return until(consumers, "switched on, a consumer runs", 90)


def ask_twice(dev: Dev) -> None:
    """Previews the tick, which runs the sensor's function for real, while a tick is at work."""
    answer = dev.ask(
        "mutation ($s: SensorSelector!) { sensorDryRun(selectorData: $s, cursor: null) { ... on DryRunInstigationTick "
        "{ evaluationResult { skipReason error { message } } } } }",
        s=SENSOR,
    )
    assert "the consumer runs as process" in answer["sensorDryRun"]["evaluationResult"]["skipReason"]
