"""What goes wrong in a soak, and when: each trouble begins, lasts, and is over by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appview_pipeline_tests.soak.network_process import NetworkProcess
from appview_pipeline_tests.support.deployment import CODE, DAEMON, Deployment
from appview_pipeline_tests.support.durable_server import DurableServer

LAST = 0.75
"""No trouble begins after this share of the time: the rest shows how it goes on."""
SHORTEST_GAP = 30.0
"""Seconds between two troubles, at least: each is to be seen by itself."""


@dataclass
class Trouble:
    """`begin` and `end` are called from the main thread; `seconds` are between them. `name` says what, for a person."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object] = lambda: None
    seconds: float = 0.0
    at: float = 0.0
    began: float | None = None
    ended: float | None = None
    caught_up: float | None = None
    """Seconds since the soak's beginning; `caught_up`: when the index was level with the relay again."""


@dataclass
class Troubles:
    """All that will go wrong, in order. `step` lets happen what is due."""

    planned: Sequence[Trouble]
    left_out: Sequence[str] = ()
    happened: list[Trouble] = field(default_factory=list)

    def step(self, now: float, say: Callable[[str], None]) -> None:
        for trouble in self.planned:
            if trouble.began is None and now >= trouble.at:
                say(f"trouble begins: {trouble.name}")
                trouble.began = now
                trouble.begin()
                self.happened.append(trouble)
            if trouble.began is not None and trouble.ended is None and now >= trouble.began + trouble.seconds:
                trouble.end()
                trouble.ended = now
                say(f"trouble is over: {trouble.name}")

    def is_calm(self) -> bool:
        """Whether nothing is wrong at this moment."""
        return all(trouble.ended is not None for trouble in self.happened)

    def note(self, caught_up_at: float) -> None:
        """The index was level with the relay at that time."""
        for trouble in self.happened:
            if trouble.ended is not None and trouble.caught_up is None and caught_up_at >= trouble.ended:
                trouble.caught_up = caught_up_at


def plan(server: DurableServer, network: NetworkProcess, deployment: Deployment, seconds: float) -> Troubles:
    """The troubles of a soak that long: all of them, or as many as there is time for."""

    def reload_code() -> None:
        # What a new version does: its restart policy starts the code server again, the webserver loads it.
        deployment.stop(CODE)

    def hang(name: str, number: signal.Signals) -> Callable[[], None]:
        def send() -> None:
            process = deployment.services[name].process
            if process is not None and process.poll() is None:
                process.send_signal(number)

        return send

    all_of_them = [
        Trouble("PostgreSQL restarted", server.restart),
        Trouble("the relay restarted, 10 s away", lambda: network.order("relay_down"),
                lambda: network.order("relay_up"), 10.0),
        Trouble("the daemon killed", lambda: deployment.kill(DAEMON)),
        Trouble("a labeler hangs", lambda: network.order("labeler_hangs", 0),
                lambda: network.order("labeler_works", 0), min(120.0, seconds / 8)),
        Trouble("the code location reloaded", reload_code),
        Trouble("a PDS dead", lambda: network.order("pds_down", 2), lambda: network.order("pds_up", 2),
                min(120.0, seconds / 8)),
        Trouble("PostgreSQL crashed", server.crash),
        Trouble("the disk full", server.fill, server.drain, min(60.0, seconds / 8)),
        Trouble("the consumer killed", lambda: _kill_leased(deployment, "ingest.live.consumer")),
        Trouble("the code server killed", lambda: deployment.kill(CODE)),
        Trouble("the daemon frozen", hang(DAEMON, signal.SIGSTOP), hang(DAEMON, signal.SIGCONT), 30.0),
    ]  # fmt: skip
    left_out = []
    if server.disk is None:
        left_out.append("the disk full: only root may mount a small disk for it")
        all_of_them = [it for it in all_of_them if it.name != "the disk full"]
    room = max(1, int(seconds * LAST / SHORTEST_GAP))
    left_out += [f"{it.name}: no time" for it in all_of_them[room:]]
    chosen = all_of_them[:room]
    gap = seconds * LAST / (len(chosen) + 0.5)
    for number, trouble in enumerate(chosen):
        trouble.at = gap * (number + 0.5)
    return Troubles(chosen, left_out)


def _kill_leased(deployment: Deployment, module: str) -> None:
    for pid in deployment.leased(module):
        os.kill(pid, signal.SIGKILL)


def wait_until_calm(troubles: Troubles, now: Callable[[], float], say: Callable[[str], None]) -> None:
    """Waits for the end of what is still wrong."""
    while not troubles.is_calm():
        troubles.step(now(), say)
        time.sleep(0.5)
