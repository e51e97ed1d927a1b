"""`python -m appview_pipeline_tests.screenshots`: takes the pictures of docs/quick-start.md again.

Starts the simulated network and `dagster dev`, with everything they store in a temporary folder, waits for some minutes
of data, and saves what headless Chromium shows to docs/images/. Look at each of them before you commit it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.browser import SLOWEST_TICK, DagsterPages, dagster_pages, find_chromium
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.dagster_dev import Dev, checkout_folder, until

IMAGES = CHECKOUT / "docs" / "images"
MAX_BYTES = 250_000
"""What a picture may take."""
ENOUGH = 15
"""Points of a plot, one every 10 to 15 seconds, until pictures are taken."""
PATIENCE = 1_800.0
"""Seconds that a machine may take for that."""
NAVIGATION = 240
"""Width of Dagster's navigation, which is left out of pictures."""


def _lineage(pages: DagsterPages, path: Path) -> None:
    pages.resize(1_400, 1_620)
    pages.lineage("firehose", "record", "posts", "notifications")
    pages.settle(materialized=("firehose", "record", "posts", "likes", "labels", "notifications", "profile_aggregates"))
    pages.picture(path, left=540, top=110, bottom=90)


def _plots(pages: DagsterPages, path: Path) -> None:
    pages.resize(1_400, 1_620)
    pages.plots("firehose")
    pages.picture(path, left=NAVIGATION)


def _ticks(pages: DagsterPages, path: Path) -> None:
    pages.resize(1_400, 900)
    pages.ticks("firehose_sensor")
    pages.picture(path, left=NAVIGATION)


def _checks(pages: DagsterPages, path: Path) -> None:
    pages.resize(1_400, 560)
    pages.checks("firehose", "keeps_up")
    pages.picture(path, left=NAVIGATION)


def _partitions(pages: DagsterPages, path: Path) -> None:
    pages.resize(1_400, 800)
    pages.partitions("likes")
    pages.picture(path, left=NAVIGATION)


def _rerun(pages: DagsterPages, path: Path) -> None:
    pages.resize(1_400, 800)
    pages.run(pages.materialize_latest("likes"))
    pages.picture(path, left=NAVIGATION)


PICTURES: dict[str, Callable[[DagsterPages, Path], None]] = {
    "asset-graph": _lineage,
    "firehose-plots": _plots,
    "sensor-ticks": _ticks,
    "asset-checks": _checks,
    "rerun": _rerun,
    "partitions": _partitions,
}
"""Name of a picture in docs/images/, and what takes it, in this order."""


def main() -> None:
    """Takes all pictures, or those named as arguments."""
    wanted = sys.argv[1:] or list(PICTURES)
    if unknown := sorted(set(wanted) - PICTURES.keys()):
        sys.exit(f"There are no pictures {', '.join(unknown)}: choose among {', '.join(PICTURES)}.")
    # A script starts its background commands with SIGINT ignored, and `dagster dev` would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if find_chromium() is None:
        sys.exit("There is no Chromium: install the package chromium.")
    with checkout_folder() as folder, SimulatedNetwork(accounts=60, rate=20.0, labelers=4, label_rate=2.0) as network:
        environment = {**network.environment(), "APPVIEW_STATE_DIR": str(folder / ".appview")}
        dev = Dev(folder, {**environment, "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS": SLOWEST_TICK})
        try:
            until(dev.is_up, "the webserver answers", PATIENCE)
            until(lambda: len(dev.materializations("firehose")) >= ENOUGH, "there is something to be seen", PATIENCE)
            until(lambda: dev.materializations("likes"), "of every asset", PATIENCE)
            with dagster_pages(dev) as pages:
                for name in wanted:
                    path = IMAGES / f"{name}.png"
                    PICTURES[name](pages, path)
                    size = path.stat().st_size
                    print(
                        f"{path.relative_to(CHECKOUT)}: {size:,} bytes{'' if size <= MAX_BYTES else ', too many'}",
                        flush=True,
                    )
        finally:
            dev.kill()


if __name__ == "__main__":
    main()
