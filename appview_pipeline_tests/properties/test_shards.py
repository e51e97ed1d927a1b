"""Several shards side by side, and changing numbers of them, end in the same tables as one writer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.writer import Position, Writer
from appview_pipeline.settings import Settings
from appview_pipeline.shards import Shard
from appview_pipeline.store import apply as apply_module
from appview_pipeline.store import bookkeeping
from appview_pipeline.store.cursors import open_cursor
from appview_pipeline.store.database import Database
from appview_pipeline_tests.properties import model
from appview_pipeline_tests.properties.arrivals import Arrival, arrivals
from appview_pipeline_tests.properties.comparison import but_for_private_state, check, everything, in_order, quick
from appview_pipeline_tests.properties.delivery import Index, network_changes
from appview_pipeline_tests.properties.network_builder import network_of
from appview_pipeline_tests.properties.networks import Network
from appview_pipeline_tests.properties.random_networks import networks
from appview_pipeline_tests.properties.stories import post as said
from appview_pipeline_tests.properties.stories import quote, reply
from appview_pipeline_tests.support import commits
from appview_pipeline_tests.support.shards import layout
from appview_pipeline_tests.support.states import differences
from appview_pipeline_tests.support.tables import rows

RELAY = "wss://relay.example"
WAITING = """
SELECT FROM pg_locks
WHERE locktype = 'advisory' AND NOT granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def shard_of(change: Change, count: int) -> int:
    """As if the accounts of a network had the numbers 0, 1, 2, ...: so that every shard has one."""
    did = change.repo.did if change.repo is not None else ""
    return ("alice", "bob", "carol", "dan", "eve").index(did.rpartition(":")[2]) % count


@dataclass
class Together:
    """Makes the transactions of one round meet: all have written what their own repositories bring, none has gone on.

    `held`: the thread that, before its commit, waits until another waits for it.
    """

    monkeypatch: pytest.MonkeyPatch
    barriers: dict[int, threading.Barrier] = field(default_factory=dict)
    held: int | None = None
    at_commit: threading.Event = field(default_factory=threading.Event)
    waiting: Callable[[], bool] = lambda: True
    met: int = 0
    missed: int = 0
    retries: int = 0

    def __post_init__(self) -> None:
        meet, report = apply_module._begin_cross_repository_work, bookkeeping.write_report

        def meet_late(*arguments: Any) -> None:
            barrier = self.barriers.pop(threading.get_ident(), None)
            if barrier is not None:
                try:
                    barrier.wait(3)
                    self.met += 1
                except threading.BrokenBarrierError:
                    self.missed += 1
            meet(*arguments)

        def report_held(*arguments: Any) -> None:
            report(*arguments)
            if threading.get_ident() == self.held:
                self.held = None
                self.at_commit.set()
                deadline = time.monotonic() + 3
                while not self.waiting() and time.monotonic() < deadline:
                    time.sleep(0.002)
                self.missed += time.monotonic() >= deadline

        self.monkeypatch.setattr(apply_module, "_begin_cross_repository_work", meet_late)
        self.monkeypatch.setattr(apply_module, "write_report", report_held)

    def in_rounds(self, count: int) -> Callable[[Database, Sequence[Sequence[Change]]], None]:
        """Delivers each batch by `count` writers at once."""

        def deliver(database: Database, batches: Sequence[Sequence[Change]]) -> None:
            writers = _writers(database, count)
            with ThreadPoolExecutor(count) as pool:
                for batch in batches:
                    parts = [[it for it in batch if shard_of(it, count) == number] for number in range(count)]
                    busy = [number for number in range(count) if parts[number]]
                    barrier = threading.Barrier(len(busy))
                    jobs = [pool.submit(self.write, writers[n], parts[n], barrier) for n in busy]
                    for job in jobs:
                        job.result()
            self.retries += sum(writer.retries for writer in writers)

        return deliver

    def write(self, writer: Writer, changes: Sequence[Change], barrier: threading.Barrier) -> None:
        self.barriers[threading.get_ident()] = barrier
        writer.write(changes, time.time())
        self.barriers.pop(threading.get_ident(), None)


def _writers(database: Database, count: int) -> list[Writer]:
    return [Writer(database, Settings(database_url=database.url), f"shard {number}") for number in range(count)]


def freely(count: int) -> Callable[[Database, Sequence[Sequence[Change]]], None]:
    """Delivers by `count` writers, each at its own pace."""

    def deliver(database: Database, batches: Sequence[Sequence[Change]]) -> None:
        writers = _writers(database, count)

        def work(number: int) -> None:
            for batch in batches:
                if part := [it for it in batch if shard_of(it, count) == number]:
                    writers[number].write(part, time.time())

        with ThreadPoolExecutor(count) as pool:
            list(pool.map(work, range(count)))

    return deliver


@pytest.fixture
def together(index: Index, monkeypatch: pytest.MonkeyPatch) -> Together:
    index.find_deadlocks_after(50)
    return Together(monkeypatch)


@quick
@given(data=st.data())
def test_shards_side_by_side_end_in_the_same_tables(index: Index, together: Together, data: st.DataObject) -> None:
    network = data.draw(networks())
    arrival = data.draw(arrivals(network, "repository"))
    count = data.draw(st.sampled_from((2, 4)))
    deliver = together.in_rounds(count) if data.draw(st.booleans()) else freely(count)
    check(index, network, arrival, but_for_private_state(network, everything), deliver)


@dataclass(frozen=True)
class Encounter:
    """Commits that two shards apply at the same time, after those before them. Numbers are the network's commits."""

    network: Network
    one: tuple[int, ...]
    other: tuple[int, ...]


A, B, C, D = (f"{name}/{commits.POST}/post1" for name in ("alice", "bob", "carol", "dan"))
A2 = f"alice/{commits.POST}/post2"
GATE = f"alice/{commits.THREADGATE}/post1"
POSTGATE = f"alice/{commits.POSTGATE}/post1"
FOLLOW = f"alice/{commits.FOLLOW}/follow1"
LIST = f"alice/{commits.LIST}/list1"
ITEM = f"alice/{commits.LISTITEM}/listitem1"
LIKE = f"carol/{commits.LIKE}/like1"


def gate(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"post": f"@{A}", "allow": [{**rule, "$type": f"{commits.THREADGATE}#{rule['$type']}"} for rule in rules]}


def encounter(*ops: tuple[str, dict[str, Any] | None], **private: Any) -> Encounter:
    """The last two commits meet; those before them are applied already."""
    network = network_of(*ops, **private)
    last = len(network.commits) - 1
    return Encounter(network, (last - 1,), (last,))


NO_QUOTES = {"post": f"@{A}", "embeddingRules": [{"$type": f"{commits.POSTGATE}#disableRule"}]}
ON_LIST = {"list": f"@{LIST}", "subject": "@bob"}
ENCOUNTERS = {
    "a parent and a reply": encounter((A, said()), (B, reply(A))),
    "a parent below the root, and a reply": encounter((A, said()), (B, reply(A)), (C, reply(A, B))),
    "a gate and a reply": encounter((A, said()), (GATE, gate()), (B, reply(A))),
    "a follow and a reply, where the followed may reply": encounter(
        (A, said()), (GATE, gate({"$type": "followingRule"})), (FOLLOW, {"subject": "@bob"}), (B, reply(A))
    ),
    "a follow that ends and a reply": encounter(
        (A, said()),
        (GATE, gate({"$type": "followingRule"})),
        (FOLLOW, {"subject": "@bob"}),
        (FOLLOW, None),
        (B, reply(A)),
    ),
    "a list item and a reply, where the listed may reply": encounter(
        (A, said()),
        (LIST, {"name": "list", "purpose": "app.bsky.graph.defs#curatelist"}),
        (GATE, gate({"$type": "listRule", "list": f"@{LIST}"})),
        (ITEM, ON_LIST),
        (B, reply(A)),
    ),
    "a post gate and a quote": encounter((A, said()), (POSTGATE, NO_QUOTES), (B, said(embed=quote(A)))),
    "a reply and the deletion of its parent": encounter((A, said()), (B, reply(A)), (C, reply(A, B)), (B, None)),
    "the deletion of a parent and a reply": encounter((A, said()), (B, reply(A)), (B, None), (C, reply(A, B))),
    "a repost and the deletion of the post": encounter(
        (A, said()), (f"bob/{commits.REPOST}/repost1", {"subject": {"ref": f"@{A}"}}), (A, None)
    ),
    "a quote and the deletion of the quoted post": encounter((A, said()), (B, said(embed=quote(A))), (A, None)),
    "a post in a muted thread and a like of it": encounter(
        (B, said()),
        (A2, reply(B)),
        (LIKE, {"subject": {"ref": f"@{A2}"}}),
        thread_mutes=frozenset((("at://" + f"did:plc:{B}", "did:plc:alice"),)),
    ),
    "a follow and a post of the followed, to whom there is a subscription": encounter(
        (f"bob/{commits.FOLLOW}/follow1", {"subject": "@alice"}),
        (A, said()),
        subscriptions=(model.Subscription("did:plc:bob", "did:plc:alice"),),
    ),
    "two likes of a post": encounter(
        (B, said()),
        (f"alice/{commits.LIKE}/like1", {"subject": {"ref": f"@{B}"}}),
        (f"dan/{commits.LIKE}/like1", {"subject": {"ref": f"@{B}"}}),
    ),
}


@pytest.mark.parametrize("how", ["before evaluation", "before the one's commit", "before the other's commit"])
@pytest.mark.parametrize("name", ENCOUNTERS)
def test_two_shards_meet(index: Index, together: Together, name: str, how: str) -> None:
    it = ENCOUNTERS[name]

    def deliver(database: Database, batches: Sequence[Sequence[Change]]) -> None:
        *before, one, other = batches
        writers = _writers(database, 2)
        for batch in before:
            writers[0].write(batch, time.time())
        if how == "before evaluation":
            barrier = threading.Barrier(2)
            with ThreadPoolExecutor(2) as pool:
                jobs = [
                    pool.submit(together.write, writer, batch, barrier)
                    for writer, batch in zip(writers, (one, other), strict=True)
                ]
                for job in jobs:
                    job.result()
            assert together.met == 2
            return
        if how == "before the other's commit":
            one, other = other, one
        begun = threading.Event()
        together.waiting = lambda: begun.is_set() and bool(rows(database.url, WAITING))

        def hold() -> None:
            together.held = threading.get_ident()
            writers[0].write(one, time.time())

        with ThreadPoolExecutor(2) as pool:
            held = pool.submit(hold)
            assert together.at_commit.wait(10)
            begun.set()
            following = pool.submit(writers[1].write, other, time.time())
            held.result()
            following.result()
        assert not together.missed, "the other waited while the one had not committed"

    before = tuple((number,) for number in range(len(it.network.commits) - 2))
    check(index, it.network, Arrival((*before, it.one, it.other)), lambda table, row: True, deliver)


def changing(index: Index, data: st.DataObject, layouts: Sequence[int]) -> None:
    """The stream of a network, by one layout after the other; but for the last, each shard stops where it will."""
    network = data.draw(networks())
    last = len(network.commits)
    batches_read: list[tuple[int, ...]] = []
    reading = threading.Lock()

    def consume(shard: Shard, stop: int, size: int, changes: Sequence[Change], database: Database) -> None:
        with database.connect("writer") as connection:
            seq = open_cursor(connection, RELAY, shard, 0).seq
        stop = max(stop, seq or 0)
        own = [it for it in changes[seq or 0 : stop] if shard_of(it, shard.count) == shard.index]
        own.append(Change(0, stop, is_position=True))
        writer = Writer(database, Settings(database_url=database.url), RELAY, Position(RELAY, str(shard), seq))
        for at in range(0, len(own), size):
            batch = own[at : at + size]
            writer.write(batch, time.time())
            with reading:
                batches_read.append(tuple(it.seq - 1 for it in batch if it.seq and not it.is_position))

    plan = [
        (shard, last if number == len(layouts) - 1 else data.draw(st.integers(0, last)), data.draw(st.integers(3, 30)))
        for number, count in enumerate(layouts)
        for shard in layout(count)
    ]
    skipped = data.draw(st.sets(st.integers(0, len(plan) - layouts[-1] - 1), max_size=2))

    def deliver(database: Database, batches: Sequence[Sequence[Change]]) -> None:
        changes = network_changes(network)
        at = 0
        for count in layouts:
            now = [(at + i, *plan[at + i]) for i in range(count)]
            at += count
            with ThreadPoolExecutor(count) as pool:
                jobs = [
                    pool.submit(consume, shard, stop, size, changes, database)
                    for number, shard, stop, size in now
                    if number not in skipped
                ]
                for job in jobs:
                    job.result()

    got = index.after(network, Arrival(()), deliver)
    arrival = Arrival(tuple(batches_read))
    keep = but_for_private_state(network, everything)
    if found := differences(got, in_order(network), keep):
        raise AssertionError("\n".join([repr(network), f"by {plan} without {skipped}: {arrival}", *found[:12]]))
    count = layouts[-1]
    cursors = rows(index.database.url, "SELECT shard, seq FROM pipeline.cursor ORDER BY 1")
    assert cursors == [(str(shard), last) for shard in layout(count)]


@settings(quick, max_examples=6)
@given(data=st.data())
def test_the_number_of_shards_can_change_midway(index: Index, data: st.DataObject) -> None:
    index.find_deadlocks_after(50)
    changing(index, data, data.draw(st.just((1, 2, 3, 4, 1)) | st.lists(st.integers(1, 5), min_size=2, max_size=6)))
