"""`dagster dev` as people use it: its pages as they see them in headless Chromium, with a rerun by a click; and what is
left of it when it is killed.

Both tests look at one `dagster dev`, since its start takes longer than either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.browser import SLOWEST_TICK, dagster_pages, find_chromium
from appview_pipeline_tests.support.dagster_dev import Dev, checkout_folder, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="ends dagster dev through /proc"),
]
Start = Callable[[], Dev]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Gives the `dagster dev` that runs, or starts one."""
    with ExitStack() as stack:
        folder = stack.enter_context(checkout_folder())
        network = stack.enter_context(SimulatedNetwork(accounts=40, rate=20.0))
        environment = {
            **network.environment(),
            "APPVIEW_STATE_DIR": str(folder / ".appview"),
            "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS": SLOWEST_TICK,
        }
        running: list[Dev] = []

        def begin() -> Dev:
            if not running or running[-1].process.poll() is not None:
                running.append(Dev(folder, environment))
                stack.callback(running[-1].kill)
            return running[-1]

        yield begin
        assert network.failure is None


@pytest.mark.skipif(find_chromium() is None, reason="no chromium: install the package chromium")
def test_what_people_see_and_do_in_dagster(start: Start) -> None:
    """About 60 s on a quick machine, most of it for two ticks and for the run."""
    pytest.importorskip("playwright", reason="playwright drives the browser; it comes with the extra dev")
    dev = start()
    until(dev.is_up, "the webserver answers")
    until(lambda: dev.materializations("likes"), "the stream is indexed")
    with dagster_pages(dev) as pages:
        pages.lineage("firehose", "record", "posts", "likes", "notifications", "post_aggregates")
        assert pages.plots("firehose") >= 6, "each number of the firehose is plotted"
        run = pages.materialize_latest("likes")
        states = pages.ticks("firehose_sensor")
        assert states and not [state for state in states if "Failure" in state], states
        pages.checks("firehose", "connected")
        pages.run(run)
    rerun = dev.materializations("likes")[-1]
    assert rerun["partition"] == dev.materializations("likes")[0]["partition"]


def test_dagster_dev_killed_ends_the_consumer(start: Start) -> None:
    """About 15 s where it has to start one."""
    dev = start()
    until(dev.consumers, "a consumer runs")
    time.sleep(2.0)  # the tick that started it is at work
    dev.process.kill()
    until(lambda: not dev.consumers(), "dagster dev killed, the consumer ends", 10)
