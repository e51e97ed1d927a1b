"""Shards: which frames are whose, where each goes on, and that several side by side end in the same tables as one."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import libipld
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.live.stream_decoder import own_frames
from appview_pipeline.ingest.writer import Position, Writer
from appview_pipeline.protocol.event_stream import FrameError
from appview_pipeline.protocol.frames import decode_frame
from appview_pipeline.protocol.peek import peek_did
from appview_pipeline.settings import Settings
from appview_pipeline.shards import WHOLE, Shard, StoredCursor, number_of, start_of
from appview_pipeline.store import apply as apply_module
from appview_pipeline.store import bookkeeping
from appview_pipeline.store import reports as reported
from appview_pipeline.store.cursors import cursor_of, open_cursor
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.status import read_status
from appview_pipeline.store.stream_lock import stream_lock
from appview_pipeline_tests.properties import model
from appview_pipeline_tests.properties.comparison import but_for_private_state, check, everything, in_order
from appview_pipeline_tests.properties.fed import Index, fresh_index, network_changes
from appview_pipeline_tests.properties.networks import Arrival, Network, arrivals, networks, told
from appview_pipeline_tests.properties.stories import post as said
from appview_pipeline_tests.properties.stories import quote, reply
from appview_pipeline_tests.simulated_network.relay import Relay, info_frame
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.consumers import Consumer, Start, cursor, until, without_cursor
from appview_pipeline_tests.support.frames import Person, Stream, busy_frames, post
from appview_pipeline_tests.support.scenarios import differences
from appview_pipeline_tests.support.tables import Fresh, assert_equal, dump, one, replayed_frames, rows

RELAY = "wss://relay.example"
quick = settings(max_examples=25, suppress_health_check=tuple(HealthCheck))


@pytest.fixture(scope="module")
def index(server: EmbeddedPostgres, template_database: str) -> Iterator[Index]:
    with fresh_index(server, template_database) as found:
        yield found


def layout(count: int) -> list[Shard]:
    return [Shard(number, count) for number in range(count)]


# --- which frames are whose ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("did", "number"),
    [
        ("did:plc:ewvi7nxzyoun6zhxrhs64oiz", 161369769),
        ("did:plc:z72i7hdynmk6r22z27h6tvur", 4122311252),
        ("did:web:example.com", 1042500819),
    ],
)
def test_a_repositorys_number_never_changes(database_url: str, did: str, number: int) -> None:
    """Stored cursors depend on it. PostgreSQL can tell it too."""
    assert number_of(did.encode()) == number
    in_sql = "('x' || encode(substr(sha256(convert_to(%s, 'UTF8')), 1, 4), 'hex'))::bit(32)::bigint"
    assert one(database_url, f"SELECT {in_sql}", did) == number
    for count in (1, 2, 3, 64):
        assert [shard.index for shard in layout(count) if shard.takes(did.encode())] == [number % count]


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "2/2", "-1/2", "0/0", "0/65", "a/b", "0/2/3", "٠/٢", "0.0/1"])
def test_what_is_no_shard_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="must be i/n with i from 0 to n-1"):
        Shard.parse(text)


def test_a_shard_is_written_as_it_is_read() -> None:
    assert Shard.parse("3/64") == Shard(3, 64) and str(Shard(3, 64)) == "3/64"
    assert Settings().shard == Shard.parse("0/1") == WHOLE


PLAIN = Person(Stream(), "ann").commit(post("a", "x"))


def _strange_frames() -> dict[bytes, bytes | None]:
    """Frames that are no ordinary events, and the DID that each is about."""
    ann = Person(Stream(), "ann")
    plain = ann.commit(post("a", "x"))
    web = b"did:web:a.b"
    body = {"seq": 1, "repo": web.decode(), "time": "2025-06-15T15:06:40.000Z"}
    header = bytes(libipld.encode_dag_cbor({"op": 1, "t": "#commit"}))
    found: dict[bytes, bytes | None] = {
        b"": None,
        b"\x00damaged": None,
        plain[:20]: None,
        plain[:-1]: ann.did.encode(),  # all there is to go by, whatever becomes of the frame
        header + bytes(libipld.encode_dag_cbor(body)): web,
        header + bytes(libipld.encode_dag_cbor({"seq": 2})): None,
        header + bytes(libipld.encode_dag_cbor({"seq": 2, "repo": ""})): None,
        header + bytes(libipld.encode_dag_cbor({"seq": 2, "repo": 7})): None,
        header
        + bytes(libipld.encode_dag_cbor({"seq": 2, "ops": [{"path": "a/drepox"}], "repo": "did:x:y"})): b"did:x:y",
        info_frame("OutdatedCursor", "old"): None,
    }
    return found


def test_every_frame_is_one_shards_and_that_of_its_did(fresh: Fresh) -> None:
    frames = [*busy_frames(300), *_strange_frames()]
    for frame, did in _strange_frames().items():
        assert peek_did(frame) == did, frame
    for frame in frames[:300]:
        event = decode_frame(frame)
        did = getattr(event, "repo", None) or getattr(event, "did", None)
        assert did is not None and peek_did(frame) == did.encode()
    for count in (1, 2, 3, 4):
        parts = [own_frames(frames, shard) for shard in layout(count)]
        assert sorted(frame for part in parts for frame in part) == sorted(frames)
        assert all(parts[0].count(frame) == 1 for frame, did in _strange_frames().items() if did is None)


@settings(quick, max_examples=100)
@given(junk=st.binary(max_size=80), cut=st.integers(0, 400), at=st.integers(0, 300))
def test_no_frame_is_too_strange_for_its_did_to_be_looked_for(junk: bytes, cut: int, at: int) -> None:
    frame = PLAIN
    for strange in (junk, frame[:cut], frame[:at] + junk + frame[at + len(junk) :], b"\xa2atg#commitbop\x01" + junk):
        peek_did(strange)
        with contextlib.suppress(FrameError):
            decode_frame(strange)


# --- where a shard goes on -------------------------------------------------------------------------------------------


def stored(*cursors: tuple[str, int]) -> list[StoredCursor]:
    """Cursors that moved one after the other."""
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return [StoredCursor(Shard.parse(it), seq, began + timedelta(minutes=n)) for n, (it, seq) in enumerate(cursors)]


@pytest.mark.parametrize(
    ("shard", "cursors", "otherwise", "start_after"),
    [
        ("0/1", [], 7, None),
        ("0/1", [("0/1", 50)], 7, 50),
        ("1/2", [("0/1", 50)], 7, 50),  # one divided
        ("0/1", [("0/2", 40), ("1/2", 50)], 7, 40),  # two joined: the one behind
        ("1/4", [("0/2", 40), ("1/2", 50)], 7, 50),  # only the one that had it
        ("2/4", [("0/2", 40), ("1/2", 50)], 7, 40),
        ("2/3", [("0/2", 40), ("1/2", 50)], 7, 40),  # both had some of it
        ("1/2", [("0/1", 10), ("0/2", 40), ("1/2", 50)], 7, 50),  # its own
        ("0/2", [("0/2", 3), ("1/2", 4), ("0/1", 90)], 7, 90),  # its own from long ago, everything taken up since
        ("0/3", [("0/2", 3), ("1/2", 4), ("0/1", 90)], 7, 90),  # others' from long ago
        ("0/1", [("0/1", 900), ("0/2", 40), ("1/2", 50)], 7, 40),  # a relay that numbers anew: 900 is not believed
        ("0/2", [("0/1", 90), ("0/3", 95), ("1/3", 97)], 7, 90),  # a layout that never was complete
        ("0/1", [("0/2", 40)], 7, 7),  # nobody ever took 1/2: from where the settings say
        ("0/1", [("0/2", 40)], None, 40),  # or from the newest event on, which is later
        ("1/2", [("0/2", 40)], 7, None),
    ],
)
def test_where_a_shard_starts(
    shard: str, cursors: list[tuple[str, int]], otherwise: int | None, start_after: int | None
) -> None:
    for known in (stored(*cursors), list(reversed(stored(*cursors)))):
        assert start_of(Shard.parse(shard), known, otherwise) == start_after


def test_a_start_from_very_many_layouts_is_a_safe_one() -> None:
    cursors = stored(*((f"0/{count}", count) for count in (64, 63, 61, 59, 57)), ("0/1", 999))
    assert start_of(Shard(0, 2), cursors) == 57


_steps = st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(0, 9), st.booleans())


@quick
@given(steps=st.lists(_steps, min_size=1, max_size=40))
@example(
    steps=[(1, 0, 5, False), (2, 0, 5, False), (2, 1, 9, False), (1, 0, 2, True), (2, 1, 3, False), (2, 0, 1, True)]
)
def test_whatever_the_layouts_nothing_is_left_out(index: Index, steps: list[tuple[int, int, int, bool]]) -> None:
    """Layouts come and go, complete or not, stop anywhere: who starts finds all before his start applied."""
    index.clean()
    applied: dict[int, int] = {}  # up to where, by repository, 60 = lcm(1..6) of them: one of each kind
    head = 0
    for count, number, moved, complete in steps:
        for i in range(count) if complete else (number % count,):
            shard = Shard(i, count)
            head += moved
            seq = open_cursor(index.connection, RELAY, shard, None).seq
            seq = head if seq is None else seq  # nobody was there before: at the newest event
            for part in range(i, 60, count):
                assert applied.get(part, seq) >= seq, f"{shard} left out events before {seq}"
                applied[part] = max(applied.get(part, 0), seq + moved)
            head = max(head, seq + moved)
            with index.connection.cursor() as sql:
                sql.execute(
                    "INSERT INTO pipeline.cursor VALUES (%s, %s, %s, clock_timestamp()) ON CONFLICT (relay, shard) "
                    "DO UPDATE SET seq = excluded.seq, updated_at = excluded.updated_at",
                    (RELAY, str(shard), seq + moved),
                )
            index.connection.commit()
        if complete:
            # A shard that began at the newest event has its cursor from its first batch on: the next start sees it.
            open_cursor(index.connection, RELAY, Shard(count - 1, count), None)
            left = rows(index.database.url, "SELECT DISTINCT split_part(shard, '/', 2)::int FROM pipeline.cursor")
            assert left == [(count,)], "what former layouts left is gone once a layout has started as a whole"


def test_a_cursor_from_long_ago_holds_nobody_back(index: Index) -> None:
    """A shard starts where others have got since. When all shards have started, the cursors of those others go."""
    index.clean()
    for age, (shard, seq) in enumerate(reversed((("0/2", 3), ("1/2", 4), ("0/3", 95), ("1/3", 97), ("2/3", 96))), 1):
        rows(
            index.database.url,
            "INSERT INTO pipeline.cursor VALUES (%s, %s, %s, now() - %s * interval '1 minute')", RELAY, shard, seq, age,
        )  # fmt: skip
    first = open_cursor(index.connection, RELAY, Shard(0, 2), 0)
    assert first.seq == 95 and not first.closed and set(first.taken_from) == {"0/3", "1/3", "2/3"}
    second = open_cursor(index.connection, RELAY, Shard(1, 2), 0)
    assert second.seq == 95 and set(second.closed) == {"0/3", "1/3", "2/3"}
    assert open_cursor(index.connection, RELAY, Shard(0, 2), 0).seq == 95
    assert rows(index.database.url, "SELECT shard, seq FROM pipeline.cursor ORDER BY 1") == [("0/2", 95), ("1/2", 95)]


def test_layouts_exclude_one_another_and_shards_do_not(fresh: Fresh) -> None:
    with fresh() as database:
        with (
            stream_lock(database, RELAY, "0/2") as first,
            stream_lock(database, RELAY, "1/2") as second,
            stream_lock(database, RELAY, "0/1") as other,
        ):
            first.keep_to_layout(RELAY, Shard(0, 2), patience=0)
            second.keep_to_layout(RELAY, Shard(1, 2), patience=0)
            with pytest.raises(
                OperatorError, match=r"APPVIEW_SHARD=i/2\) are at work on wss://relay.example: stop them"
            ):
                other.keep_to_layout(RELAY, WHOLE, patience=0.3)
            other.keep_to_layout("wss://another.example", WHOLE, patience=0)
        with stream_lock(database, RELAY, "0/1") as other:
            other.keep_to_layout(RELAY, WHOLE, patience=5)


# --- side by side ----------------------------------------------------------------------------------------------------


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


def side_by_side(index: Index, together: Together, data: st.DataObject) -> None:
    network = data.draw(networks())
    arrival = data.draw(arrivals(network, "repository"))
    count = data.draw(st.sampled_from((2, 4)))
    deliver = together.in_rounds(count) if data.draw(st.booleans()) else freely(count)
    check(index, network, arrival, but_for_private_state(network, everything), deliver)


@quick
@given(data=st.data())
def test_shards_side_by_side_end_in_the_same_tables(index: Index, together: Together, data: st.DataObject) -> None:
    side_by_side(index, together, data)


@dataclass(frozen=True)
class Encounter:
    """Commits that two shards apply at the same time, after those before them. Numbers are the network's commits."""

    network: Network
    one: tuple[int, ...]
    other: tuple[int, ...]


A, B, C, D = (f"{name}/{model.POST}/post1" for name in ("alice", "bob", "carol", "dan"))
A2 = f"alice/{model.POST}/post2"
GATE = f"alice/{model.THREADGATE}/post1"
POSTGATE = f"alice/{model.POSTGATE}/post1"
FOLLOW = f"alice/{model.FOLLOW}/follow1"
LIST = f"alice/{model.LIST}/list1"
ITEM = f"alice/{model.LISTITEM}/listitem1"
LIKE = f"carol/{model.LIKE}/like1"


def gate(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"post": f"@{A}", "allow": [{**rule, "$type": f"{model.THREADGATE}#{rule['$type']}"} for rule in rules]}


def encounter(*ops: tuple[str, dict[str, Any] | None], **private: Any) -> Encounter:
    """The last two commits meet; those before them are applied already."""
    network = told(*ops, **private)
    last = len(network.commits) - 1
    return Encounter(network, (last - 1,), (last,))


NO_QUOTES = {"post": f"@{A}", "embeddingRules": [{"$type": f"{model.POSTGATE}#disableRule"}]}
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
        (A, said()), (f"bob/{model.REPOST}/repost1", {"subject": {"ref": f"@{A}"}}), (A, None)
    ),
    "a quote and the deletion of the quoted post": encounter((A, said()), (B, said(embed=quote(A))), (A, None)),
    "a post in a muted thread and a like of it": encounter(
        (B, said()),
        (A2, reply(B)),
        (LIKE, {"subject": {"ref": f"@{A2}"}}),
        thread_mutes=frozenset((("at://" + f"did:plc:{B}", "did:plc:alice"),)),
    ),
    "a follow and a post of the followed, to whom there is a subscription": encounter(
        (f"bob/{model.FOLLOW}/follow1", {"subject": "@alice"}),
        (A, said()),
        subscriptions=(model.Subscription("did:plc:bob", "did:plc:alice"),),
    ),
    "two likes of a post": encounter(
        (B, said()),
        (f"alice/{model.LIKE}/like1", {"subject": {"ref": f"@{B}"}}),
        (f"dan/{model.LIKE}/like1", {"subject": {"ref": f"@{B}"}}),
    ),
}


@pytest.mark.parametrize("how", ["before judging", "before the one's commit", "before the other's commit"])
@pytest.mark.parametrize("name", ENCOUNTERS)
def test_two_shards_meet(index: Index, together: Together, name: str, how: str) -> None:
    it = ENCOUNTERS[name]

    def deliver(database: Database, batches: Sequence[Sequence[Change]]) -> None:
        *before, one, other = batches
        writers = _writers(database, 2)
        for batch in before:
            writers[0].write(batch, time.time())
        if how == "before judging":
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
        together.waiting = lambda: (
            begun.is_set()
            and bool(rows(database.url, "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        )

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


# --- another number of shards ----------------------------------------------------------------------------------------


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


# --- processes -------------------------------------------------------------------------------------------------------


def shard_cursors(database: Database, relay: str) -> dict[str, int]:
    return dict(rows(database.url, "SELECT shard, seq FROM pipeline.cursor WHERE relay = %s", relay))


def reached(database: Database, relay: str, shard: str, seq: int) -> bool:
    return shard_cursors(database, relay).get(shard, 0) >= seq


def has_begun(consumer: Consumer) -> bool:
    return "Subscribing" in consumer.said


def consumers(start: Start, database: Database, relay: Relay, count: int, **more: str) -> dict[str, Consumer]:
    return {str(shard): start(database.url, relay.url, APPVIEW_SHARD=str(shard), **more) for shard in layout(count)}


def killed_at_random(
    fresh: Fresh, start: Start, tmp_path: Path, frames: Sequence[bytes], counts: Sequence[int], kills: int, seed: int
) -> None:
    """Consumers of `counts` shards after one another, killed all along; the tables are those of a replay."""
    rng = random.Random(seed)
    last = len(frames)
    damaged = [b"\x00damaged", b"\xa2atg#commitbop\x01\xff"]
    with fresh() as want, fresh() as database, Relay(frames[: last // 4]) as relay:
        relay.faults.damage = {10: [damaged[0], frames[9]], last // 2: [damaged[1], frames[last // 2 - 1]]}
        replayed_frames(want, tmp_path, [*frames, *damaged])
        killed = 0
        for number, count in enumerate(counts):
            running = consumers(start, database, relay, count, APPVIEW_BATCH_EVENTS="5")
            upto = last * (number + 1) // len(counts)
            relay.publish(frames[max(last // 4, last * number // len(counts)) : upto])
            for _ in range(kills):
                shard = rng.choice(sorted(running))
                before = shard_cursors(database, relay.url).get(shard, 0)
                until(partial(reached, database, relay.url, shard, min(before + 1, upto)), running[shard])
                time.sleep(rng.random() * 0.1)
                killed += shard_cursors(database, relay.url)[shard] < upto
                running[shard].end(signal.SIGKILL)
                running[shard] = start(
                    database.url, relay.url, APPVIEW_SHARD=shard, APPVIEW_BATCH_EVENTS=str(rng.choice((3, 7, 50)))
                )
            for shard, consumer in running.items():
                until(partial(reached, database, relay.url, shard, upto), consumer)
            assert len(shard_cursors(database, relay.url)) == count
            for consumer in running.values():
                until(partial(has_begun, consumer), consumer)
                assert consumer.end() < 10 and consumer.code() == 0
                assert "Traceback" not in consumer.said
        assert killed, "some were killed while they had work to do"
        got, wanted = without_cursor(database), dump(want.url)
        # Who was judged before the newest gate came still waits for what an older one asked for: that only makes work.
        more, needed = (set(tables.pop("pipeline.dependency", ())) for tables in (got, wanted))
        assert needed <= more
        assert_equal(got, wanted)
        assert one(database.url, "SELECT sum(rejected) FROM pipeline.batch") >= len(damaged)
        # Frames that are nobody's own work are counted by one shard alone.
        assert (
            one(database.url, "SELECT count(*) FROM pipeline.batch WHERE rejected > 0 AND shard NOT LIKE '0/%%'") == 0
        )


def test_two_consumers_killed_and_another_number_of_them(fresh: Fresh, start: Start, tmp_path: Path) -> None:
    killed_at_random(fresh, start, tmp_path, list(busy_frames(400)), (2, 1), 2, seed=1)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(5))
def test_consumers_killed_all_along(fresh: Fresh, start: Start, tmp_path: Path, seed: int) -> None:
    killed_at_random(fresh, start, tmp_path, list(busy_frames(1_500, seed)), (1, 2, 4, 3, 1), 6, seed)


@pytest.mark.slow
def test_a_consumer_of_another_layout_is_refused_in_a_sentence(fresh: Fresh, start: Start) -> None:
    with fresh() as database, Relay([Person(Stream(), "ann").commit(post("a", "x"))]) as relay:
        first = start(database.url, relay.url)
        until(lambda: cursor(database, relay.url) == 1, first)
        second = start(database.url, relay.url, APPVIEW_SHARD="1/2")
        assert second.code() == 4
        assert second.lines[-1].startswith(
            f"Consumers of another layout (APPVIEW_SHARD=i/1) are at work on {relay.url}:"
        )
        assert len(relay.cursors) == 1, "it never subscribed"
        assert first.end() < 10


# --- what Dagster sees -----------------------------------------------------------------------------------------------


def test_every_batch_is_reported_by_one_sensor(fresh: Fresh) -> None:
    with fresh() as database, database.connect("writer") as connection:
        with connection.cursor() as sql:
            for source, shard in (
                *((RELAY, f"{number}/3") for number in range(3)),
                *((RELAY, it) for it in ("0/1", "1/2")),
                *((it, "0/1") for it in ("replay:file", "wss://other.example")),
            ):
                sql.execute("INSERT INTO pipeline.batch (source, shard, events) VALUES (%s, %s, 1)", (source, shard))
        found = [
            sum(it.events for it in reported.applied_after(connection, 0, RELAY, shard=str(shard)))
            for shard in layout(3)
        ]
        assert found == [5, 1, 1]
        assert sum(it.events for it in reported.applied_after(connection, 0, RELAY)) == 7


def test_a_code_location_of_another_shard_has_its_sensor_and_nothing_else() -> None:
    """Two locations with the same asset, job or schedule would be a muddle."""
    program = (
        "from appview_pipeline.defs.definitions import defs; repository = defs.get_repository_def(); "
        "print([it.name for it in repository.sensor_defs], len(list(repository.asset_graph.get_all_asset_keys())) > 1, "
        "len(repository.schedule_defs))"
    )
    found: dict[str, str] = {}
    for text in ("0/2", "1/2"):
        environment = {**os.environ, "APPVIEW_SHARD": text, "PYTHONPATH": str(CHECKOUT)}
        loaded = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        found[text] = loaded.stdout.strip()
    assert found == {
        "0/2": "['firehose_sensor_0_of_2'] True 2",
        "1/2": "['firehose_sensor_1_of_2'] False 0",
    }


def test_what_former_layouts_left_is_told_apart(fresh: Fresh) -> None:
    with fresh() as database:
        for shard, age in (("0/1", 9), ("0/2", 2), ("1/2", 1)):
            rows(
                database.url,
                "INSERT INTO pipeline.cursor VALUES (%s, %s, 5, now() - %s * interval '1 minute')", RELAY, shard, age,
            )  # fmt: skip
        with database.connect("reader") as connection:
            assert [it.shard for it in reported.stream_state(connection, RELAY)] == ["0/2", "1/2"]
            assert cursor_of(connection, RELAY, "0/1") == 5
            lines = read_status(connection, database.url).lines()
        told_of = [line for line in lines if line.startswith("Stream")]
        assert ["(0/2)" in told_of[0], "(1/2)" in told_of[1], "of a former layout" in told_of[2]] == [True] * 3
