"""Servers that are asked: how many requests each has, whether it is parked, its circuit breaker, its connections."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from appview_pipeline.backoff import BREAKER_REPEATED_SECONDS, MIN_RETRY_AFTER
from appview_pipeline.network.budget import Budget
from appview_pipeline.network.circuit_breaker import CircuitBreaker
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.hosts import Target
from appview_pipeline.network.pools import Adapter
from appview_pipeline.network.rate_limits import Parking

log = logging.getLogger(__name__)

MAX_UPSTREAMS = 4_096
"""Servers whose state is kept. Strangers name them, so there is no end of them; the longest unused are forgotten."""
MAX_POOLS = 64
"""Servers whose connections are kept open."""
MAX_IDLE = 8
"""Connections to a stranger's server that are kept open: with `MAX_POOLS`, at most 512 files."""


@dataclass(frozen=True)
class Upstream:
    """What is known of a server now. Times are UNIX seconds.

    `host`: its name, with the port where that is not the usual one. `failures`: failures in a row. `opened`: how often
    its breaker has opened since this process knows it. `reason`: its last failure in words.
    """

    host: str
    breaker: Literal["closed", "open", "probing"]
    failures: int
    opened: int
    open_until: float | None
    parked_until: float | None
    reason: str | None
    in_flight: int


@dataclass
class Server:
    """The state of one server, for `Upstreams`.

    `downloads`: how many of the requests `in_flight` are downloads. `queue`, `download_queue`: those that wait for a
    place, in order; downloads apart, since what they wait for is rarer.
    """

    name: str
    is_trusted: bool
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    parking: Parking = field(default_factory=Parking)
    in_flight: int = 0
    downloads: int = 0
    queue: deque[threading.Condition] = field(default_factory=deque)
    download_queue: deque[threading.Condition] = field(default_factory=deque)

    def wake_next(self) -> None:
        """The first of each queue looks whether there is a place, or whether the server is not asked any more.

        Either way it leaves the queue, and wakes the next.
        """
        for queue in (self.queue, self.download_queue):
            if queue:
                queue[0].notify()


class Turn:
    """One request to a server, from its permission to its end, which is one of the three methods; with none of them it
    ended without a word about the server.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        server: Server,
        adapter: Adapter,
        *,
        is_probe: bool,
        is_repeated: bool,
        is_download: bool,
    ) -> None:
        self.adapter = adapter
        self._upstreams = upstreams
        self._server = server
        self._is_probe = is_probe
        self._was_probe = False
        self._is_repeated = is_repeated
        self._is_download = is_download
        self._began = upstreams.clock()
        self._is_settled = False

    def begins(self, headers: Mapping[str, str]) -> None:
        """The server begins an answer that may go on for minutes: nobody waits until then for the result of a probe."""
        with self._upstreams.lock:
            server = self._server
            if self._is_probe:
                server.breaker.undecided(is_probe=True)
                self._is_probe, self._was_probe = False, True
            server.parking.answered(self._upstreams.clock(), headers, server.in_flight - 1)

    def answered(self, headers: Mapping[str, str]) -> None:
        """The server answered, whatever it said."""
        with self._upstreams.lock:
            self._is_settled = True
            server, now = self._server, self._upstreams.clock()
            if server.breaker.state != "closed":
                log.info("%s answers again: its circuit breaker closes.", server.name)
            server.breaker.succeeded(now)
            server.parking.answered(now, headers, server.in_flight - 1)

    def parked(self, headers: Mapping[str, str]) -> float:
        """The server asked for a pause (429, 503). Returns its seconds."""
        with self._upstreams.lock:
            server, now = self._server, self._upstreams.clock()
            if not server.parking.seconds_left(now):
                log.info("%s asks for a pause.", server.name)
            return server.parking.refused(now, headers)

    def failed(self, reason: str) -> None:
        """The server failed: no connection, no answer in time, or the answer that it has trouble."""
        with self._upstreams.lock:
            self._is_settled = True
            if self._is_repeated and not self._is_probe:
                return
            breaker = self._server.breaker
            opened = breaker.opened
            is_probe = self._is_probe or (self._was_probe and breaker.answered_at < self._began)
            breaker.failed(self._upstreams.clock(), reason, began=self._began, is_probe=is_probe)
            if breaker.opened > opened:
                level = logging.WARNING if self._server.is_trusted else logging.INFO
                log.log(level, "%s is not asked for a while: it failed %d times.", self._server.name, breaker.failures)

    def end(self) -> None:
        """Gives the place back. The lock is held."""
        if not self._is_settled:
            self._server.breaker.undecided(is_probe=self._is_probe)
        self._server.in_flight -= 1
        self._server.downloads -= self._is_download
        self.adapter.in_flight -= 1
        self._server.wake_next()


class Upstreams:
    """All servers. Thread-safe. `clock` gives seconds that never go back; `new_adapter` makes a server's connections.

    `concurrency`: limit of the requests to one server at the same time; `downloads`: of those among them that may take
    minutes. A place is always left for the others, if there are two.
    """

    def __init__(
        self,
        concurrency: int,
        new_adapter: Callable[[Target], Adapter],
        clock: Callable[[], float] = time.monotonic,
        *,
        downloads: int = 1,
    ) -> None:
        self.lock = threading.Lock()
        self.clock = clock
        self._concurrency = concurrency
        self._downloads = max(1, min(downloads, concurrency - 1))
        self._new_adapter = new_adapter
        self._servers: OrderedDict[str, Server] = OrderedDict()
        # Apart for the operator's own servers, whose connections are not checked.
        self._adapters: OrderedDict[tuple[tuple[str, str, int], bool], Adapter] = OrderedDict()

    @contextmanager
    def turn(
        self, target: Target, budget: Budget, *, is_repeated: bool = False, is_download: bool = False
    ) -> Iterator[Turn]:
        """Waits until the server may be asked, within the budget, and holds one of its places during the block.

        Raises `FetchError` (`parked`, `breaker open`, `timeout`), none of which is a failure of what is asked for.
        """
        with self.lock:
            server = self._server(target)
            self._wait(server, budget, is_repeated=is_repeated, is_download=is_download)
            adapter = self._adapter(target)  # before anything is counted: without root certificates it raises
            is_probe = server.breaker.let_through()
            server.in_flight += 1
            server.downloads += is_download
            adapter.in_flight += 1
        turn = Turn(self, server, adapter, is_probe=is_probe, is_repeated=is_repeated, is_download=is_download)
        try:
            yield turn
        finally:
            with self.lock:
                turn.end()

    def states(self) -> list[Upstream]:
        """What is known of every server, the last asked first."""
        with self.lock:
            now, wall = self.clock(), time.time()
            return [
                Upstream(
                    host=server.name,
                    breaker=server.breaker.state,
                    failures=server.breaker.failures,
                    opened=server.breaker.opened,
                    open_until=None if server.breaker.open_until is None else wall + server.breaker.open_until - now,
                    parked_until=wall + server.parking.until - now if server.parking.seconds_left(now) else None,
                    reason=server.breaker.reason,
                    in_flight=server.in_flight,
                )
                for server in reversed(self._servers.values())
            ]

    def close(self) -> None:
        """Closes the connections that are idle; the others follow when they are."""
        with self.lock:
            while self._adapters:
                self._adapters.popitem()[1].close()

    def _wait(self, server: Server, budget: Budget, *, is_repeated: bool, is_download: bool) -> None:
        """Returns when the server may be asked and has a place. The lock is held, but while it waits."""
        mine: threading.Condition | None = None
        queue = server.download_queue if is_download else server.queue
        try:
            while True:
                self._check(server, is_repeated=is_repeated)
                if self._has_place(server, is_download=is_download) and (not queue or queue[0] is mine):
                    return
                if mine is None:
                    mine = threading.Condition(self.lock)
                    queue.append(mine)
                left = budget.deadline - time.monotonic()
                if left <= 0 or not mine.wait(left):
                    what = f"{self._downloads} downloads" if is_download else f"{self._concurrency} requests"
                    reason = f"{server.name} has {what}, and none ended within {budget.seconds:g} s"
                    raise FetchError("timeout", reason, host=server.name, blames_account=False)
        finally:
            if mine is not None:
                queue.remove(mine)
                server.wake_next()

    def _has_place(self, server: Server, *, is_download: bool) -> bool:
        if is_download and server.downloads >= self._downloads:
            return False
        return server.in_flight < self._concurrency

    def _check(self, server: Server, *, is_repeated: bool) -> None:
        """Raises `FetchError` for a server that is not asked now."""
        now = self.clock()
        seconds = server.parking.seconds_left(now)
        if seconds:
            raise _refused("parked", f"{server.name} asked to be left alone for {_shown(seconds)}", server, seconds)
        # The probe is better one that has not failed before: it would say more about the server.
        open_for = server.breaker.refuses_for(now - BREAKER_REPEATED_SECONDS if is_repeated else now)
        if open_for is not None:
            breaker = server.breaker
            reason = (
                f"{server.name} is not asked for {_shown(open_for)}, since it failed {breaker.failures} times in a row"
            )
            reason = f"{reason} (the last time: {breaker.reason})"
            raise _refused("breaker open", reason, server, max(open_for, MIN_RETRY_AFTER))

    def _server(self, target: Target) -> Server:
        name = target.name
        server = self._servers.get(name)
        if server is None:
            if len(self._servers) >= MAX_UPSTREAMS:
                unused = (
                    name for name, it in self._servers.items() if not (it.in_flight or it.queue or it.download_queue)
                )
                self._servers.pop(next(unused, ""), None)
            server = self._servers[name] = Server(name, target.is_trusted)
        server.is_trusted = server.is_trusted or target.is_trusted
        self._servers.move_to_end(name)
        return server

    def _adapter(self, target: Target) -> Adapter:
        key = target.origin, target.is_trusted
        adapter = self._adapters.get(key)
        if adapter is None:
            if len(self._adapters) >= MAX_POOLS:
                unused = next((other for other, it in self._adapters.items() if not it.in_flight), None)
                if unused is not None:
                    self._adapters.pop(unused).close()
            adapter = self._adapters[key] = self._new_adapter(target)
        self._adapters.move_to_end(key)
        return adapter


def _refused(kind: Literal["parked", "breaker open"], reason: str, server: Server, seconds: float) -> FetchError:
    return FetchError(kind, reason, host=server.name, retry_after=seconds, blames_account=False)


def _shown(seconds: float) -> str:
    return f"{seconds:.0f} s more" if seconds >= 1 else "a moment"
