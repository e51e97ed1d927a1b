"""Relay, PLC directory, DNS server and PDSes of one world, in this process, on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import ParamSpec

from appview_pipeline_tests.simulated_network.directory import WELL_KNOWN, Pds, PlcDirectory, Repositories
from appview_pipeline_tests.simulated_network.dns_server import DnsServer
from appview_pipeline_tests.simulated_network.http_service import HttpService
from appview_pipeline_tests.simulated_network.labelers import Labelers
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.simulated_network.world import Pasts, World

Arguments = ParamSpec("Arguments")


class SimulatedNetwork:
    """A context manager; inside it `relay_url`, `plc_url`, `pds_url` and `environment()` say where the servers are.

    `pdses` are the PDSes: as many as the world has homes, at least two. `pds` is the first one, which has all accounts
    of a world with one home and is the web server of all handles; `second_pds` is one to migrate to. `txt_share` of the
    handles have a TXT record in `dns`, the others name their account on the web alone.

    Without `rate` nothing happens until the caller calls `advance(frames)`. With `rate` a background thread makes that
    many frames a second (0: as many as it can). The relay has the frames of `replay` from the beginning, then those of
    the world. A world is made from the other arguments when none is given.

    `labelers` has as many accounts that label as the argument says, and more come with `labelers.add`. Every third one
    keeps everything in its stream, the others do as ozone does; every fourth one signs with P-256. They label when the
    caller calls `labelers.label(count)`, and with `rate` also `label_rate` times a second.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        seed: int = 1,
        accounts: int = 100,
        pasts: Pasts = (),
        rate: float | None = None,
        replay: Iterable[bytes] = (),
        relay_port: int = 0,
        plc_port: int = 0,
        pds_port: int = 0,
        second_pds_port: int = 0,
        dns_port: int = 0,
        txt_share: float = 1.0,
        window_bytes: int = 1_000_000_000,
        ping_interval: float = 30.0,
        labelers: int = 0,
        label_rate: float = 0.0,
    ) -> None:
        self.world = world or World(seed, accounts, start=time.time() - 60, pasts=pasts)
        self.rate = rate
        ports = [pds_port, second_pds_port]
        ports += [0] * (self.world.homes - len(ports))
        self.pdses = [Pds(self.world, port, home) for home, port in enumerate(ports)]
        self.pds, self.second_pds = self.pdses[:2]
        self.plc = PlcDirectory(self.world, plc_port)
        self.dns = DnsServer(self.world, dns_port, txt_share=txt_share)
        self.relay = Relay(
            replay,
            port=relay_port,
            query=Repositories(self.world).query,
            window_bytes=window_bytes,
            ping_interval=ping_interval,
        )
        self.labelers = Labelers(self.world, self.happen, seed=seed)
        self._first_labelers = labelers
        self.label_rate = label_rate
        self._publishing = threading.RLock()  # so that frames are published in the order in which they were made
        self.world.seq = max(self.world.seq, self.relay.window.newest_seq)
        self.published = 0
        self.failure: BaseException | None = None
        self._stopping = threading.Event()
        self._moving = threading.Event()
        self._moving.set()
        self._mover: threading.Thread | None = None

    @property
    def _servers(self) -> list[HttpService | DnsServer]:
        return [*self.pdses, self.plc, self.dns]

    @property
    def relay_url(self) -> str:
        return self.relay.url

    @property
    def plc_url(self) -> str:
        return self.plc.url

    @property
    def pds_url(self) -> str:
        return self.pds.url

    def environment(self) -> dict[str, str]:
        """The variables that make the pipeline use this network."""
        return {
            "APPVIEW_RELAY_URL": self.relay_url,
            "APPVIEW_PLC_URL": self.plc_url,
            "APPVIEW_DNS_SERVERS": self.dns.server,
            "APPVIEW_WELL_KNOWN_URL": f"http://{{handle}}:{self.pds.port}{WELL_KNOWN}",
            "APPVIEW_ALLOW_PRIVATE_HOSTS": "1",
            "APPVIEW_LABELERS": ",".join(labeler.did for labeler in self.labelers) or "none",
        }

    def advance(self, frames: int) -> list[bytes]:
        """Publishes the world's next `frames` frames and returns them."""
        return self.happen(lambda: list(self.world.frames(frames)))

    def happen(
        self,
        event: Callable[Arguments, list[bytes]],
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> list[bytes]:
        """Publishes the frames of an event of the world, and returns them: `network.happen(world.deactivate, did)`."""
        with self._publishing:
            made = event(*arguments, **options)
            self.published += self.relay.publish(made)
            return made

    def pause(self) -> None:
        """With `rate`: nothing happens until `resume` but what the caller lets happen. Returns when that is so."""
        self._moving.clear()
        with self._publishing:
            pass

    def resume(self) -> None:
        """The world goes on by itself."""
        self._moving.set()

    def _steps(self, count: int) -> list[bytes]:
        return [frame for _ in range(count) for frame in self.world.step()]

    def _move(self, rate: float) -> None:
        started, made = time.monotonic(), 0
        began, labeled = started, 0
        # The world's own time must run behind ours, so that `follow` keeps the two together.
        self.world.rate = 10 * (rate or 2_000)
        try:
            while not self._stopping.is_set():
                if not self._moving.is_set():
                    self._moving.wait()
                    started, made = time.monotonic(), 0
                    began, labeled = started, 0
                    continue
                self.world.follow(time.time_ns() // 1_000)
                due = int((time.monotonic() - started) * rate) - made if rate else 50
                if due <= 0:
                    self._stopping.wait(min(0.05, 1 / rate))
                    continue
                if rate and due > rate:  # the machine can't keep up: go at its pace, don't hoard a debt
                    started, made = time.monotonic(), 0
                    due = 50
                made += len(self.happen(self._steps, min(due, 50)))
                labels = int((time.monotonic() - began) * self.label_rate) - labeled
                if labels > 0:
                    self.labelers.label(labels)
                    labeled += labels
        except BaseException as error:
            self.failure = error
            raise

    def __enter__(self) -> SimulatedNetwork:
        self.relay.start()
        for server in self._servers:
            server.start()
        for number in range(self._first_labelers):
            self.labelers.add(keeps_all=number % 3 == 2, p256=number % 4 == 3, leap=1 + number % 5)
        if self.rate is not None:
            self._mover = threading.Thread(target=self._move, args=(self.rate,), name="simulated-world", daemon=True)
            self._mover.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._moving.set()
        if self._mover:
            self._mover.join(10)
        self.labelers.stop()
        self.relay.stop()
        for server in self._servers:
            server.stop()
