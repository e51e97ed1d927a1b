"""Dagster's pages as people see them, in headless Chromium: lineage, plots, ticks, and a rerun by a click."""

from __future__ import annotations

from pathlib import Path

import pytest

from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.browser import SLOWEST_TICK, dagster_pages, find_chromium
from appview_pipeline_tests.support.dagster_dev import Dev, checkout_folder, until

pytest.importorskip("playwright", reason="playwright drives the browser; it comes with the extra dev")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium: install the package chromium"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="ends dagster dev through /proc"),
]


def test_what_people_see_and_do_in_dagster() -> None:
    """About 60 s on a quick machine, most of it for two ticks and for the run."""
    with checkout_folder() as folder, SimulatedNetwork(accounts=40, rate=20.0) as network:
        environment = {**network.environment(), "APPVIEW_STATE_DIR": str(folder / ".appview")}
        dev = Dev(folder, {**environment, "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS": SLOWEST_TICK})
        try:
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
            assert network.failure is None
        finally:
            dev.kill()
