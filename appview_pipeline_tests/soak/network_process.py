"""The simulated network of a soak as a process of its own, which does what the soak says.

`NetworkProcess` is the soak's side, `serve` the process. An order is the name of a method of `_Served` with its
arguments; what it returns, or the words of what it raised, comes back.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

from appview_pipeline.indexing.registry import COLLECTIONS
from appview_pipeline.protocol import cid
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.repository import Repository
from appview_pipeline_tests.simulated_network.world import World

HOMES = 5
ORDER_SECONDS = 300.0


@dataclass(frozen=True)
class NetworkPlan:
    """`rate` frames a second of `accounts` at the start. The relay loses a share `lost` of all commits, and keeps
    `window` bytes for those that come with a cursor. `labelers` make `label_rate` labels a second, together."""

    rate: float
    accounts: int = 3_000
    seed: int = 1
    lost: float = 0.0002
    window: int = 800_000_000
    labelers: int = 4
    label_rate: float = 5.0


@dataclass(frozen=True)
class Rest:
    """What the network is when nothing changes any more. `labels`: what each labeler's stream has, as (seq, label);
    `keeps_all`: labelers that take nothing out of it. `contents`: of each living account, the digest of its indexed
    records."""

    newest: int
    published: int
    living: list[str]
    deleted: list[str]
    labels: dict[str, list[tuple[int, dict[str, Any]]]]
    keeps_all: list[str]
    lost: int
    contents: dict[str, bytes] = field(default_factory=dict)


def digest(records: Iterable[tuple[str, str]]) -> bytes:
    """What a repository holds, in 32 bytes. `records`: paths and CIDs, in any order."""
    return sha256("\n".join(sorted(f"{path} {record_cid}" for path, record_cid in records)).encode()).digest()


def _contents(repository: Repository) -> Iterator[tuple[str, str]]:
    for path in repository.paths():
        stored = repository.get(path)
        if stored is not None and path.partition("/")[0] in COLLECTIONS:
            yield path, cid.to_text(stored[0])


@dataclass
class _Served:
    """The orders."""

    network: SimulatedNetwork
    hung: list[int] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        return self.network.environment()

    def state(self) -> dict[str, Any]:
        failure = self.network.failure
        return {
            "newest": self.network.relay.window.newest_seq,
            "published": self.network.published,
            "labels": self.network.labelers.published,
            "clients": len(self.network.relay.open),
            "cpu": time.process_time(),
            "failure": None if failure is None else repr(failure),
        }

    def relay_down(self) -> None:
        self.network.relay.refuse()

    def relay_up(self) -> None:
        self.network.relay.accept()

    def pds_down(self, home: int) -> None:
        self.network.pdses[home].refuse()

    def pds_up(self, home: int) -> None:
        self.network.pdses[home].accept()

    def labeler_hangs(self, number: int) -> None:
        self.network.labelers[number].freeze()

    def labeler_works(self, number: int) -> None:
        self.network.labelers[number].thaw()

    def heal(self) -> None:
        """The relay loses nothing any more; the network goes on."""
        self.network.world.mishaps.stop()

    def rest(self) -> Rest:
        """Nothing changes any more. Accounts that were away return, and those of which a commit was lost commit once
        more, which is what shows it."""
        network, world = self.network, self.network.world
        network.pause()
        world.mishaps.stop()
        for author in [*world.authors]:
            if author.account.status == "deleted":
                continue
            if not author.account.active:
                network.happen(world.reactivate, author.did)
            if author.did in world.mishaps.dids:
                network.happen(world.write, author.did)
        living = [it for it in world.authors if it.account.status != "deleted"]
        return Rest(
            newest=network.relay.window.newest_seq,
            published=network.published,
            living=[it.did for it in living],
            deleted=[it.did for it in world.authors if it.account.status == "deleted"],
            labels={it.did: list(it.labels.items()) for it in network.labelers},
            keeps_all=[it.did for it in network.labelers if it.keeps_all],
            lost=sum(world.mishaps.by_kind.values()),
            contents={it.did: digest(_contents(it.repository)) for it in living},
        )


def _serve(orders: Connection, plan: NetworkPlan) -> None:
    # Ctrl-C in a terminal is for the soak, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin = time.time() - 5
    world = World(
        plan.seed,
        plan.accounts,
        start=begin,
        rate=plan.rate,
        first_seq=int(begin * 1_000),
        pasts=(),
        homes=HOMES,
        p256_share=0.1,
        max_records=100_000_000,
    )
    world.mishaps.lost = plan.lost
    network = SimulatedNetwork(
        world,
        rate=plan.rate,
        window_bytes=plan.window,
        labelers=plan.labelers,
        label_rate=plan.label_rate,
    )
    network.pause()
    with network, contextlib.suppress(EOFError):
        served = _Served(network)
        while True:
            name, arguments = orders.recv()
            if name == "begin":
                network.resume()
                orders.send((True, None))
                continue
            try:
                orders.send((True, getattr(served, name)(*arguments)))
            except Exception as error:  # the soak says what became of its order
                orders.send((False, repr(error)))


class NetworkProcess:
    """A context manager; methods may be called from any thread."""

    def __init__(self, plan: NetworkPlan) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, plan), name="simulated network", daemon=True)
        self._process.start()
        theirs.close()
        self._lock = Lock()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def order(self, name: str, *arguments: Any) -> Any:
        """Gives an order, and returns the answer."""
        with self._lock:
            self._orders.send((name, arguments))
            if not self._orders.poll(ORDER_SECONDS):
                raise AssertionError(f"the simulated network did not do {name} in {ORDER_SECONDS:g} s")
            done, answer = self._orders.recv()
        assert done, f"the simulated network could not do {name}: {answer}"
        return answer

    def __enter__(self) -> NetworkProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
