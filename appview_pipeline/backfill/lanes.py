"""Which repository is fetched next: how many of each host, of each operator, and of hosts that may hang.

- A host has at most `APPVIEW_HOST_REPO_FETCHES` fetches at a time. The hosts of one operator, that is of one
  registrable domain, have four times as many together, and never more than three quarters of all.
- A host that has not delivered a repository since it was met, or since it last failed, has one fetch at a time. All
  such hosts together have at most half of the fetches. So hosts that hang, whatever their number, leave the other half
  to those that answer.
- Of those that may go on, the repository with the highest priority goes first, then the host that has waited longest.

One thread uses it. It knows nothing of the network or the database.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from appview_pipeline import backoff
from appview_pipeline.store.backfill_queue import UNKNOWN_HOST, Queued
from appview_pipeline.store.hosts import HostNews, KnownHost

OPERATOR_HOSTS = 4
"""Fetches of one operator's hosts, as a multiple of one host's."""
READY = 4
"""Repositories of a host that wait in memory, as a multiple of those that may be fetched at once."""
MAX_READY = 16
"""Repositories that wait in memory, as a multiple of all fetches. Those of hosts that have not delivered are half of
these at most, so they leave room for others."""
HOST_FAILURES = 3
"""Failures in a row, of different accounts, after which a host is parked."""
MAX_HOSTS = 4_096
"""Hosts whose state is remembered; of those that nothing waits for, the longest unused are forgotten."""


@lru_cache(maxsize=65_536)
def operator_of(host: str) -> str:
    """The registrable domain of an origin (`https://pds.example.com:8443` is `example.com`), as far as that can be told
    without a list of all public suffixes: of `example.co.uk` three labels. An address stands for itself, with its port.
    """
    name = host.rpartition("://")[2]
    bare = re.sub(r":[0-9]+$", "", name)
    labels = bare.split(".")
    if bare.startswith("[") or labels[-1].isdigit() or len(labels) < 2:
        return name
    is_second_level = len(labels[-1]) == 2 and len(labels[-2]) <= 3 and len(labels) > 2
    return ".".join(labels[-3 if is_second_level else -2 :])


@dataclass
class _Lane:
    """One host. `failures` in a row; `is_proven`: it delivered after its last failure; `since`: what was not noted."""

    ready: deque[Queued] = field(default_factory=deque)
    running: int = 0
    failures: int = 0
    is_proven: bool = False
    parked_until: float = 0.0
    reason: str | None = None
    fetched: int = 0
    has_news: bool = False
    parks: bool = False


class Lanes:
    """Repositories that were taken: waiting in memory, and being fetched. `clock` gives seconds that never go back."""

    def __init__(self, fetches: int, host_fetches: int, clock: Callable[[], float]) -> None:
        self.fetches = fetches
        self._host_fetches = min(host_fetches, fetches)
        self._operator_fetches = min(host_fetches * OPERATOR_HOSTS, max(1, fetches * 3 // 4))
        self._unproven_fetches = max(1, fetches // 2)
        self._clock = clock
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()
        self._waiting: OrderedDict[str, None] = OrderedDict()  # hosts that something waits for, in turn
        self._operators: Counter[str] = Counter()
        self._unproven = 0
        self._running: dict[str, tuple[str, bool]] = {}
        self.ready = 0
        self._unproven_ready = 0

    @property
    def may_start(self) -> int:
        """How many of those that wait here could be fetched now, if there were no limit of all fetches."""
        now = self._clock()
        return sum(
            min(len(lane.ready), self._limit(host, lane) - lane.running)
            for host in self._waiting
            if self._may_start(host, lane := self._lanes[host], now)
        )

    @property
    def running(self) -> int:
        """Repositories that are being fetched."""
        return len(self._running)

    def meet(self, known: Iterable[KnownHost]) -> None:
        """What other processes know of hosts, for those that are new here."""
        for it in known:
            lane = self._lanes.get(it.host)
            if lane is None:
                lane = self._lane(it.host)
                lane.failures, lane.is_proven, lane.reason = it.failures, it.is_proven, it.reason
            if it.parked_seconds > 0:
                lane.parked_until = max(lane.parked_until, self._clock() + it.parked_seconds)

    def knows(self, host: str) -> bool:
        """Whether the host was met."""
        return host in self._lanes

    def room(self, host: str, spare: int = 0) -> int:
        """How many more repositories of the host may be taken: some of them wait in memory. `spare`: so many beyond its
        limits."""
        lane = self._lanes.get(host) or _Lane()
        if lane.parked_until > self._clock():
            return 0
        most = self.fetches * MAX_READY
        in_memory = most - self.ready if lane.is_proven else min(most - self.ready, most // 2 - self._unproven_ready)
        of_host = self._limit(host, lane) * (1 + READY) - lane.running - len(lane.ready)
        return max(0, min(of_host, in_memory) + spare)

    def add(self, taken: Iterable[Queued]) -> None:
        """Repositories that were taken wait for their turn, those of a host by their priority."""
        for it in taken:
            lane = self._lane(it.host)
            place = len(lane.ready)
            while place and lane.ready[place - 1].priority < it.priority:
                place -= 1
            lane.ready.insert(place, it)
            self._waiting.setdefault(it.host)
            self.ready += 1
            self._unproven_ready += not lane.is_proven

    def start(self) -> Queued | None:
        """The next repository to be fetched; None where none may be now."""
        if self.running >= self.fetches or not self.ready:
            return None
        now = self._clock()
        best: tuple[int, str] | None = None
        for host in self._waiting:
            lane = self._lanes[host]
            if (best is None or lane.ready[0].priority > best[0]) and self._may_start(host, lane, now):
                best = lane.ready[0].priority, host
        if best is None:
            return None
        host = best[1]
        lane = self._lanes[host]
        self._lanes.move_to_end(host)
        it = lane.ready.popleft()
        if lane.ready:
            self._waiting.move_to_end(host)
        else:
            del self._waiting[host]
        self.ready -= 1
        self._unproven_ready -= not lane.is_proven
        lane.running += 1
        self._operators[operator_of(host)] += 1
        self._unproven += not lane.is_proven
        self._running[it.did] = host, lane.is_proven
        return it

    def _may_start(self, host: str, lane: _Lane, now: float) -> bool:
        if lane.parked_until > now or lane.running >= self._limit(host, lane):
            return False
        if not lane.is_proven and self._unproven >= self._unproven_fetches:
            return False
        return host == UNKNOWN_HOST or self._operators[operator_of(host)] < self._operator_fetches

    def _limit(self, host: str, lane: _Lane) -> int:
        if host == UNKNOWN_HOST:
            return self._unproven_fetches
        return self._host_fetches if lane.is_proven else 1

    def end(self, did: str) -> None:
        """A fetch has ended, however it did."""
        host, was_proven = self._running.pop(did)
        self._unproven -= not was_proven
        operator = operator_of(host)
        self._operators[operator] -= 1
        if not self._operators[operator]:
            del self._operators[operator]
        self._lane(host).running -= 1

    def delivered(self, host: str) -> None:
        """The host delivered a repository."""
        lane = self._lane(host)
        self._prove(lane, True)
        lane.failures, lane.reason = 0, None
        lane.fetched += 1
        lane.has_news = True

    def answered(self, host: str) -> None:
        """The host answered, and what it said is about the account."""
        lane = self._lane(host)
        lane.has_news = lane.has_news or lane.failures > 0
        lane.failures = 0

    def failed(self, host: str, reason: str, retry_after: float | None) -> list[Queued]:
        """The host did not answer, or wants to be left alone for a time (`retry_after`). Where it is parked now, what
        waited for it here is returned."""
        lane = self._lane(host)
        self._prove(lane, False)
        lane.failures += 1
        lane.reason = reason
        lane.has_news = True
        seconds = retry_after
        if seconds is None and lane.failures >= HOST_FAILURES:
            seconds = backoff.parked_pds(lane.failures - HOST_FAILURES + 1)
        if seconds is None or host == UNKNOWN_HOST:
            return []
        lane.parked_until = max(lane.parked_until, self._clock() + seconds)
        lane.parks = True
        waiting = list(lane.ready)
        lane.ready.clear()
        self._waiting.pop(host, None)
        self.ready -= len(waiting)
        self._unproven_ready -= len(waiting)
        return waiting

    def _prove(self, lane: _Lane, is_proven: bool) -> None:
        if lane.is_proven != is_proven:
            lane.is_proven = is_proven
            self._unproven_ready += -len(lane.ready) if is_proven else len(lane.ready)

    def news(self, *, only_parked: bool = False) -> list[HostNews]:
        """What was seen of hosts since the last call; `only_parked`: only of those that were parked since."""
        now = self._clock()
        found = []
        for host, lane in self._lanes.items():
            if host != UNKNOWN_HOST and lane.has_news and (lane.parks or not only_parked):
                parked = max(0.0, lane.parked_until - now) if lane.parks else 0.0
                found.append(HostNews(host, lane.fetched, lane.failures, lane.reason, parked))
                lane.fetched, lane.has_news, lane.parks = 0, False, False
        return found

    def drain(self) -> list[Queued]:
        """Takes out everything that waits here."""
        waiting = [it for lane in self._lanes.values() for it in lane.ready]
        for lane in self._lanes.values():
            lane.ready.clear()
        self._waiting.clear()
        self.ready = self._unproven_ready = 0
        return waiting

    def _lane(self, host: str) -> _Lane:
        lane = self._lanes.get(host)
        if lane is None:
            if len(self._lanes) >= MAX_HOSTS:
                unused = (it for it, lane in self._lanes.items() if not (lane.ready or lane.running or lane.has_news))
                self._lanes.pop(next(unused, ""), None)
            lane = self._lanes[host] = _Lane()
        return lane
