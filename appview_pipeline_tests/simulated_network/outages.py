"""Servers that fail at random for seconds, by a clock of their own that follows from a seed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from types import TracebackType

from appview_pipeline_tests.simulated_network.http_service import HttpService

REFUSE = "refuse"
OUTAGES = (REFUSE, "fail", "limited", "hang", "drip", "garbage")
"""`refuse`: no connection is accepted, and the open ones are cut. The others are kinds of `faults.KINDS`."""


@dataclass(frozen=True)
class Outage:
    """`begin` and `end` in seconds after the start."""

    begin: float
    end: float
    kind: str


def plan(seed: str, calm: float, length: float, kinds: Sequence[str]) -> Iterator[Outage]:
    """The outages of one server, without end: `calm` and `length` are mean seconds, both exponentially distributed."""
    rng = Random(f"simnet outages {seed}")
    now = 0.0
    while True:
        begin = now + rng.expovariate(1 / calm)
        now = begin + rng.expovariate(1 / length)
        yield Outage(begin, now, rng.choice(kinds))


class Outages:
    """Lets each of the servers fail by itself while the block runs; at its end, or at `stop`, all work again.

    `by_kind` counts the outages that have begun.
    """

    def __init__(
        self,
        servers: Sequence[HttpService],
        *,
        seed: int = 0,
        calm: float = 6.0,
        length: float = 3.0,
        kinds: Sequence[str] = OUTAGES,
    ) -> None:
        self.by_kind: Counter[str] = Counter()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run, args=(server, plan(f"{seed} {number}", calm, length, kinds)), daemon=True
            )
            for number, server in enumerate(servers)
        ]

    def _run(self, server: HttpService, outages: Iterator[Outage]) -> None:
        started = time.monotonic()

        def wait_until(seconds: float) -> bool:
            return self._over.wait(max(0.0, started + seconds - time.monotonic()))

        for outage in outages:
            if wait_until(outage.begin):
                return
            self.by_kind[outage.kind] += 1
            begin, end = _switches(server, outage.kind)
            begin()
            over = wait_until(outage.end)
            end()
            if over:
                return

    def start(self) -> Outages:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Ends all outages, for good."""
        self._over.set()
        for thread in self._threads:
            thread.join(20)

    def __enter__(self) -> Outages:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()


def _switches(server: HttpService, kind: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """What begins an outage, and what ends it."""
    if kind == REFUSE:
        return server.refuse, server.accept

    def begin() -> None:
        server.faults.everybody = kind

    def end() -> None:
        server.faults.everybody = None
        server.let_go()

    return begin, end
