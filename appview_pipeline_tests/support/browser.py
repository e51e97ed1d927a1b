"""Dagster's pages in headless Chromium: what a person does there, and pictures of what they see.

Playwright drives the Chromium of the system; it downloads nothing. Every step waits for what it needs to be on the
page, and for nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from appview_pipeline_tests.support.dagster_dev import Dev

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names under which systems have it."""
PATIENCE = 300.0
"""Seconds that a step waits for what it needs; only a failure takes as long."""

SLOWEST_TICK = "300"
"""Value of DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS: on a busy machine Dagster would give up the first ticks after 60 s."""

RUN_OF_PARTITION = """
query ($partition: String!) {
  runsOrError(filter: {tags: [{key: "dagster/partition", value: $partition}]}, limit: 1) {
    ... on Runs { results { runId } }
  }
}"""


def find_chromium() -> str | None:
    """The path of the system's Chromium; None where there is none."""
    return next((found for name in CHROMIUM if (found := shutil.which(name))), None)


class DagsterPages:
    """The pages of one `dagster dev`, in one window. `page`: Playwright's page, for what has no method here."""

    def __init__(self, page: Page, dev: Dev) -> None:
        self.page = page
        self._dev = dev

    def _open(self, path: str) -> None:
        self.page.goto(f"http://127.0.0.1:{self._dev.port}/{path}", wait_until="domcontentloaded")

    def _text(self, text: str, within: Locator | None = None) -> Locator:
        """The first element with exactly this text, once it can be seen."""
        found = (within or self.page).get_by_text(text, exact=True).first
        found.wait_for()
        return found

    def lineage(self, *assets: str) -> None:
        """Opens the graph of all assets with its groups unfolded, and waits until it shows `assets`."""
        self._open("asset-groups")
        self.page.locator("[class*=CollapsedGroupNode]").first.wait_for()
        self.page.keyboard.press("Alt+KeyE")  # "expand all groups", as the graph's menu has it
        self.page.wait_for_url("**expanded=**")
        self.page.reload(wait_until="domcontentloaded")  # the graph is fitted into the window when it is opened
        for asset in assets:
            self.page.locator(f"svg foreignObject :text-is('{asset}'):visible").first.wait_for()

    def plots(self, asset: str) -> int:
        """Opens the plots of an asset. Returns how many there are."""
        self._open(f"assets/{asset}")
        self._text("Plots").click()
        canvases = self.page.locator("canvas")
        canvases.first.wait_for()
        self.page.wait_for_function(_DRAWN)
        return canvases.count()

    def ticks(self, sensor: str) -> list[str]:
        """Opens the ticks of a sensor, and waits until one has ended. Returns the states of those that are listed."""
        self._open(f"locations/appview_pipeline/sensors/{sensor}")
        rows = self.page.locator("tbody tr")
        rows.filter(has_text="requested").first.wait_for()
        return [row.locator("td").nth(1).inner_text().strip() for row in rows.all() if row.locator("td").count() > 2]

    def checks(self, asset: str, check: str) -> None:
        """Opens a check of an asset, and waits until it has passed."""
        self._open(f"assets/{asset}?view=checks&checkDetail={check}")
        self._text("Latest execution")
        self._text("Passed")

    def partitions(self, asset: str) -> None:
        """Opens the newest partition of an asset."""
        self._open(f"assets/{asset}?view=partitions")
        self.page.get_by_text("Partitions Selected").first.wait_for()
        self.page.locator(":text-matches('^[0-9-]{13}:00$'):visible").last.click()
        self._text("Metadata")
        self.page.get_by_text("No metadata entries").wait_for(state="hidden")

    def materialize_latest(self, asset: str) -> str:
        """Launches a run of the newest partition of an asset, by the button of its page. Returns the run's id."""
        self._open(f"assets/{asset}")
        self.page.get_by_role("button", name="Materialize").first.click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("button", name="Latest", exact=True).click()
        partition = dialog.locator("input").first.input_value()
        launch = dialog.get_by_role("button", name="Launch 1 run")
        launch.click()
        launch.wait_for(state="hidden")
        dialog.wait_for(state="hidden")
        found = self._dev.ask(RUN_OF_PARTITION, partition=partition)["runsOrError"]["results"]
        return str(found[0]["runId"])

    def run(self, run_id: str, status: str = "Success") -> None:
        """Opens the page of a run, and waits until it says this status."""
        self._open(f"runs/{run_id}")
        self._text(status)

    def settle(self, materialized: Iterable[str]) -> None:
        """Waits until the graph shows in green that these assets are materialized: it loads that later."""
        green = "svg foreignObject [class*=AssetNode][style*=background-green]"
        for asset in materialized:
            self.page.locator(green, has_text=re.compile(f"^{asset}$")).first.wait_for()

    def picture(self, path: Path, *, left: int = 0, top: int = 0, bottom: int = 0) -> None:
        """Saves what the window shows, without so much of it on the left, at the top and at the bottom."""
        size = self.page.viewport_size
        assert size is not None
        clip = {"x": left, "y": top, "width": size["width"] - left, "height": size["height"] - top - bottom}
        self.page.screenshot(path=path, animations="disabled", clip=clip)  # type: ignore[arg-type]

    def resize(self, width: int, height: int) -> None:
        """Makes the window as large as this."""
        self.page.set_viewport_size({"width": width, "height": height})


_DRAWN = """() => [...document.querySelectorAll("canvas")].some((canvas) => {
  if (!canvas.width || !canvas.height) return false;
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.some((value) => value !== 0);
})"""
"""Whether one of the plots is drawn."""


@contextmanager
def dagster_pages(dev: Dev, width: int = 1400, height: int = 1000) -> Iterator[DagsterPages]:
    """A window of headless Chromium on the pages of `dagster dev`. It knows no other host."""
    from playwright.sync_api import sync_playwright

    arguments = ["--disable-gpu", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium does not run as root with it
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        try:
            context = browser.new_context(
                viewport={"width": width, "height": height}, timezone_id="UTC", locale="en-US"
            )
            context.set_default_timeout(PATIENCE * 1000)
            yield DagsterPages(context.new_page(), dev)
        finally:
            browser.close()
