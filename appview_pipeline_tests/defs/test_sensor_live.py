"""`dagster dev` for real, against the simulated network, on its own embedded database.

What it must show: one command indexes the network; the numbers are in the UI; the sensor's switch, a code reload and
Ctrl-C end the consumer in seconds, and everything else with it; history is there after a restart.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.browser import SLOWEST_TICK
from appview_pipeline_tests.support.dagster_dev import Dev, checkout_folder, until
from appview_pipeline_tests.support.machine import slowness

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds survivors through /proc")

END_SECONDS = 20.0
"""Mostly Dagster's own end; the leased processes have 10 s of it."""
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
        environment = {
            **network.environment(),
            "APPVIEW_STATE_DIR": str(folder / ".appview"),
            "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS": SLOWEST_TICK,
        }
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
            slow = slowness()
            assert dev.interrupt() < END_SECONDS * slow
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
            slow = slowness()
            assert dev.interrupt_all() < END_SECONDS * slow
            assert dev.survivors() == []
            until(lambda: not dev.processes(), "the database has stopped too", 35)
        finally:
            dev.kill()
        assert network.failure is None


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
