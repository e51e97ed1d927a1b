"""`python -m appview_pipeline_tests.soak`: everything at once, for a long time (docs/testing.md).

The whole deployment (docker/compose.yaml as plain processes) indexes the simulated network at 1,000 events a second,
while what machines do happens (`troubles.py`). Then the network comes to rest. By themselves the index must become what
the network is, all checks green, and what the processes take must not have grown.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

from appview_pipeline_tests.soak import report
from appview_pipeline_tests.soak.comparison import (
    Compared,
    compare,
    settings_of,
    wait_for_green,
    wait_for_rest,
)
from appview_pipeline_tests.soak.network_process import NetworkPlan, NetworkProcess
from appview_pipeline_tests.soak.pruning import Pruner
from appview_pipeline_tests.soak.samples import Sample, Sampler
from appview_pipeline_tests.soak.troubles import Troubles, plan, wait_until_calm
from appview_pipeline_tests.support.deployment import CODE, METRICS, Deployment, deployed
from appview_pipeline_tests.support.durable_server import DAGSTER, INDEX, DurableServer, durable_server
from appview_pipeline_tests.support.tables import rows
from appview_pipeline_tests.support.waiting import wait_for

DISK_BYTES_AN_EVENT = 6_000
"""Room on the small disk for each event, log included; and some to begin with."""
DISK_BYTES = 3_000_000_000
SERVER = "shared_buffers = '1GB'\nmax_wal_size = '2GB'\n"
"""Its disk is in memory: a quarter of the machine's memory besides would be too much."""
LEVEL_SECONDS = 3.0
"""The index is level with the relay when it is no more than so many seconds of events behind."""
REST_PATIENCE = 1_200.0
GREEN_PATIENCE = 900.0
STOP_ORDER = ("webserver", METRICS, "daemon", CODE)


@dataclass
class Soak:
    """What a soak came to."""

    seconds: float
    rate: float
    audit_seconds: float = 300.0
    samples: list[Sample] = field(default_factory=list)
    troubles: Troubles = field(default_factory=lambda: Troubles(()))
    published: int = 0
    lost: int = 0
    rest_seconds: float = 0.0
    green_seconds: float = 0.0
    red: dict[str, str] = field(default_factory=dict)
    compared: Compared = field(default_factory=Compared)
    stopped: dict[str, float] = field(default_factory=dict)
    left_running: list[str] = field(default_factory=list)
    restarts: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class _Keeper:
    """Restart policies: what ends is started again. `said` are the lines of what happened."""

    def __init__(self, server: DurableServer, deployment: Deployment) -> None:
        self._server, self._deployment = server, deployment
        self._began = time.monotonic()
        self._server_due = 0.0

    def say(self, line: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {time.monotonic() - self._began:7.1f} s  {line}")

    def step(self) -> None:
        now = time.monotonic()
        # A container that ends at once again and again is started after longer and longer pauses.
        if now >= self._server_due and self._server.keep_running():
            self._server_due = now + 5.0
            self.say("PostgreSQL had ended; started again")
        for name in self._deployment.keep_running():
            self.say(f"the {name} had ended; started again")


def run(plan_of_network: NetworkPlan, seconds: float, folder: Path, audit_seconds: float = 300.0) -> Soak:
    """Runs a soak; its logs and samples go to `folder`."""
    soak = Soak(seconds, plan_of_network.rate, audit_seconds)
    disk = int(DISK_BYTES + DISK_BYTES_AN_EVENT * plan_of_network.rate * seconds)
    with durable_server(disk, SERVER) as server, NetworkProcess(plan_of_network) as network:
        environment = {**network.order("environment"), "APPVIEW_START_CURSOR": "0", "APPVIEW_LOG_LEVEL": "INFO"}
        with deployed(
            folder / "deployment",
            database_url=server.url(INDEX),
            dagster_url=server.url(DAGSTER),
            environment=environment,
        ) as deployment:
            deployment.add(
                METRICS,
                "appview_pipeline.cli",
                "serve",
                APPVIEW_METRICS_ADDRESS=f"127.0.0.1:{deployment.metrics_port}",
            )
            _soak(soak, server, network, deployment, folder)
    return soak


def _soak(soak: Soak, server: DurableServer, network: NetworkProcess, deployment: Deployment, folder: Path) -> None:
    keeper = _Keeper(server, deployment)
    say = keeper.say
    url = deployment.index_url
    deployment.start(CODE)
    deployment.start(*(name for name in deployment.services if name != CODE))
    wait_for(deployment.is_up, 300, deployment.last_words)
    wait_for(lambda: len(deployment.leased()) == 4, 300, deployment.last_words)
    network.order("begin")
    wait_for(lambda: rows(url, "SELECT FROM pipeline.cursor"), 300, deployment.last_words)
    say("everything runs")
    with (folder / "samples.jsonl").open("w") as file:
        sampler = Sampler(server, network, deployment, file)
        soak.troubles = plan(server, network, deployment, soak.seconds)
        for line in soak.troubles.left_out:
            say(f"left out: {line}")
        pruner = Pruner(deployment, say)
        pruner.start()
        sampler.start(level=int(soak.rate * LEVEL_SECONDS))
        said = 0.0
        while (now := sampler.now()) < soak.seconds:
            soak.troubles.step(now, say)
            keeper.step()
            soak.troubles.note(sampler.caught_up_at)
            if now - said >= 30 and sampler.samples:
                said = now
                say(report.line(sampler.samples[-1]))
            time.sleep(0.5)
        wait_until_calm(soak.troubles, sampler.now, say)
        network.order("heal")

        def step() -> None:
            keeper.step()
            soak.troubles.note(sampler.caught_up_at)

        try:
            # While the network goes on: a stream that is silent can't be told from one that is behind.
            settings = settings_of(deployment)
            soak.green_seconds, soak.red = wait_for_green(settings, deployment, GREEN_PATIENCE, step, say)
            say(f"all green after {soak.green_seconds:,.0f} s" if not soak.red else f"not green: {soak.red}")
            rest = network.order("rest")
            soak.published, soak.lost = rest.published, rest.lost
            say(f"the network rests: {rest.published:,} events, {len(rest.living):,} accounts, {rest.lost} lost")
            soak.rest_seconds = wait_for_rest(url, rest, REST_PATIENCE, step, say)
            say(f"the index is at rest after {soak.rest_seconds:,.0f} s")
            soak.compared = compare(settings, rest, soak.audit_seconds, say)
        except AssertionError as error:
            soak.failures.append(str(error))
        finally:
            pruner.stop()
            sampler.stop()
            soak.samples = sampler.samples
    soak.restarts = {name: service.starts - 1 for name, service in deployment.services.items()}
    soak.restarts["PostgreSQL by its policy"] = server.restarts
    for name in STOP_ORDER:
        if deployment.services[name].runs:
            soak.stopped[name] = deployment.stop(name)
    time.sleep(2.0)  # a process of Python's own, which tracks semaphores, ends a moment after its parent
    soak.left_running = list(deployment.processes().values())


@click.command(context_settings={"show_default": True})
@click.option("--minutes", default=30.0, help="How long the network writes. Shorter ones have fewer troubles.")
@click.option("--rate", default=1_000.0, help="Events a second.")
@click.option("--accounts", default=3_000, help="Accounts at the start.")
@click.option("--seed", default=1, help="Another seed, another world.")
@click.option("--audit-minutes", default=5.0, help="How long repositories are audited at the end.")
@click.option("--folder", type=click.Path(path_type=Path), help="For logs and samples.  [default: deleted at the end]")
def main(minutes: float, rate: float, accounts: int, seed: int, audit_minutes: float, folder: Path | None) -> None:
    """Everything at once, for a long time: the index becomes what the network is, whatever machines do."""
    # Whoever ends it early must not leave a file system and processes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    made = Path(tempfile.mkdtemp(prefix="appview-soak-logs-")) if folder is None else folder
    made.mkdir(parents=True, exist_ok=True)
    try:
        soak = run(NetworkPlan(rate, accounts, seed), minutes * 60, made, audit_minutes * 60)
        click.echo(report.table(soak))
        problems = report.problems(soak)
        for problem in problems:
            click.echo(f"NOT AS PROMISED: {problem}")
        click.echo("as promised" if not problems else f"{len(problems)} things are not as promised")
        sys.exit(1 if problems else 0)
    finally:
        if folder is None:
            shutil.rmtree(made, ignore_errors=True)


if __name__ == "__main__":
    main()
