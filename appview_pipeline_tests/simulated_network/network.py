"""Relay, PLC directory and PDS of one world, in this process, on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from appview_pipeline_tests.simulated_network.directory import Pds, PlcDirectory
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.simulated_network.world import Pasts, World


class SimulatedNetwork:
    """A context manager; inside it `relay_url`, `plc_url`, `pds_url` and `environment()` say where the servers are.

    Without `rate` nothing happens until the caller calls `advance(frames)`. With `rate` a background thread makes that
    many frames a second (0: as many as it can). The relay has the frames of `replay` from the beginning, then those of
    the world. A world is made from the other arguments when none is given.
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
        window_bytes: int = 1_000_000_000,
        ping_interval: float = 30.0,
    ) -> None:
        self.world = world or World(seed, accounts, start=time.time() - 60, pasts=pasts)
        self.rate = rate
        self.pds = Pds(self.world, pds_port)
        self.plc = PlcDirectory(self.world, self.pds.url, plc_port)
        self.relay = Relay(
            replay, port=relay_port, query=self.pds.query, window_bytes=window_bytes, ping_interval=ping_interval
        )
        self.world.seq = max(self.world.seq, self.relay.window.newest_seq)
        self.published = 0
        self.failure: BaseException | None = None
        self._stopping = threading.Event()
        self._mover: threading.Thread | None = None

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
        return {"APPVIEW_RELAY_URL": self.relay_url, "APPVIEW_PLC_URL": self.plc_url}

    def advance(self, frames: int) -> list[bytes]:
        """Publishes the world's next `frames` frames and returns them."""
        made = list(self.world.frames(frames))
        self.published += self.relay.publish(made)
        return made

    def _move(self, rate: float) -> None:
        started, made = time.monotonic(), 0
        # The world's own time must run behind ours, so that `follow` keeps the two together.
        self.world.rate = 10 * (rate or 2_000)
        try:
            while not self._stopping.is_set():
                self.world.follow(time.time_ns() // 1_000)
                due = int((time.monotonic() - started) * rate) - made if rate else 50
                if due <= 0:
                    self._stopping.wait(min(0.05, 1 / rate))
                    continue
                if rate and due > rate:  # the machine can't keep up: go at its pace, don't hoard a debt
                    started, made = time.monotonic(), 0
                    due = 50
                frames = [frame for _ in range(min(due, 50)) for frame in self.world.step()]
                made += len(frames)
                self.published += self.relay.publish(frames)
        except BaseException as error:
            self.failure = error
            raise

    def __enter__(self) -> SimulatedNetwork:
        self.relay.start()
        self.pds.start()
        self.plc.start()
        if self.rate is not None:
            self._mover = threading.Thread(target=self._move, args=(self.rate,), name="simulated-world", daemon=True)
            self._mover.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._mover:
            self._mover.join(10)
        self.relay.stop()
        self.pds.stop()
        self.plc.stop()
