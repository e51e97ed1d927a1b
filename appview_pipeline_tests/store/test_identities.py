"""The queue of resolution, and what is saved of its outcomes."""

from __future__ import annotations

import itertools
import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from appview_pipeline.store import identities
from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import Postponed, Settled, StoredIdentity, Wanted
from appview_pipeline.store.status import read_status
from appview_pipeline_tests.support.batches import batches_of, changes_of, feed, index
from appview_pipeline_tests.support.explain import whole_tables
from appview_pipeline_tests.support.frames import Person, Stream, did_of, post
from appview_pipeline_tests.support.tables import Fresh, dump, one, rows
from appview_pipeline_tests.support.waiting import wait_for

USABLE = 86_400.0
A, B, C = "did:plc:a", "did:plc:b", "did:plc:c"


def found(did: str, handle: str | None = None, asked_at: datetime | None = None, **others: Any) -> Settled:
    """The outcome of a resolution that found a document and verified its handle."""
    values: dict[str, Any] = {
        "did": did,
        "asked_at": asked_at,
        "state": "found",
        "source": "plc",
        "next_check_seconds": 80_000.0,
        "doc": '{"id": "' + did + '"}',
        "pds": "https://pds.example",
        "signing_key": "did:key:z1",
        "claimed_handle": handle,
        "handle": handle,
        "handle_source": None if handle is None else "dns",
    }
    return Settled(**(values | others))


def unverified(did: str, handle: str, asked_at: datetime | None = None, **others: Any) -> Settled:
    """The outcome of one that found a document whose handle does not name the account."""
    values: dict[str, Any] = {"claimed_handle": handle, "handle_error": "no TXT record", **others}
    return found(did, None, asked_at, **values)


class Queue:
    """The functions under test, each in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def want(self, *dids: str, status: bool = False) -> None:
        with self.database.connect("writer") as connection:
            identities.want(connection, dids, status=status)

    def take(self, queue: str = "event", limit: int = 100, seconds: float = 60.0) -> list[Wanted]:
        with self.database.connect("writer") as connection:
            return identities.take(connection, queue, limit, seconds)

    def save(self, *settled: Settled) -> None:
        with self.database.connect("writer") as connection:
            identities.save(connection, settled, usable_seconds=USABLE)

    def postpone(self, *items: Postponed) -> None:
        with self.database.connect("writer") as connection:
            identities.postpone(connection, items, usable_seconds=USABLE)

    def resolve(self, *settled: Settled) -> None:
        """Asks for accounts, takes them, and saves these outcomes."""
        self.want(*{it.did for it in settled})
        asked_at = {it.did: it.asked_at for it in self.take()}
        self.save(*(Settled(**{**vars(it), "asked_at": asked_at[it.did]}) for it in settled))

    def row(self, did: str = A) -> StoredIdentity:
        with self.database.connect("writer") as connection:
            return identities.read(connection, [did])[did]

    def handles(self) -> dict[str, str | None]:
        """The handles that readers see, by account; the identities say the same."""
        shown = dict(rows(self.database.url, "SELECT did, handle FROM bsky.actor"))
        known = dict(rows(self.database.url, "SELECT did, handle FROM pipeline.identity WHERE state = 'found'"))
        assert shown == known
        return shown

    def sql(self, statement: str, *parameters: Any) -> None:
        rows(self.database.url, statement, *parameters)


@pytest.fixture
def queue(database: Database) -> Queue:
    return Queue(database)


# ---- what the write path queues


def queued(database: Database) -> dict[str, str | None]:
    return dict(rows(database.url, "SELECT did, queue FROM pipeline.identity"))


def identity(stream: Stream, did: str, time: str | None = None, **more: Any) -> bytes:
    return stream.frame("#identity", {"did": did, **({} if time is None else {"time": time}), **more})


def test_a_new_account_is_queued_with_its_first_commit(database: Database, stream: Stream) -> None:
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    bob.commit(post("a", "x"))
    (report,) = index(database, ann.commit(post("a", "x")), ann.commit(post("b", "x")), bob.sync())
    assert queued(database) == {ann.did: "new", bob.did: "new"}
    assert (report.accounts, report.unresolved) == (2, 2)
    assert rows(database.url, "SELECT accounts, unresolved FROM pipeline.batch") == [(2, 2)]
    (report,) = index(database, ann.commit(post("c", "x")), bob.commit(post("c", "x")))
    assert (report.accounts, report.unresolved) == (2, 0)


def test_an_identity_event_queues_accounts_known_or_not(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(database, ann.commit(post("a", "x")))
    index(database, identity(stream, ann.did, handle="evil.test"), identity(stream, did_of("bob")))
    assert queued(database) == {ann.did: "event", did_of("bob"): "event"}
    assert rows(database.url, "SELECT did, handle FROM bsky.actor") == [(ann.did, None)]
    assert one(database.url, "SELECT count(*) FROM pipeline.identity WHERE claimed_handle IS NOT NULL") == 0


def test_an_event_comes_before_a_new_account(database: Database, stream: Stream) -> None:
    ann, bob, eve = (Person(stream, name) for name in ("ann", "bob", "eve"))
    index(database, identity(stream, ann.did), ann.commit(post("a", "x")), bob.commit(post("a", "x")))
    index(database, eve.commit(post("a", "x")), identity(stream, bob.did))
    index(database, identity(stream, eve.did))
    assert queued(database) == {ann.did: "event", bob.did: "event", eve.did: "event"}


def test_a_new_account_whose_event_came_first_is_resolved_once(queue: Queue, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(queue.database, identity(stream, ann.did))
    (wanted,) = queue.take()
    queue.save(found(ann.did, "ann.test", wanted.asked_at))
    index(queue.database, ann.commit(post("a", "x")))
    assert queued(queue.database) == {ann.did: None}
    assert queue.handles() == {ann.did: "ann.test"}


@pytest.mark.parametrize("change", ["source = 'import'", "state = 'not found'", "queue = 'refresh', wanted_at = now()"])
def test_a_new_account_that_is_not_resolved_yet_is_queued(queue: Queue, stream: Stream, change: str) -> None:
    ann = Person(stream, "ann")
    queue.resolve(found(ann.did, "ann.test"))
    queue.sql(f"UPDATE pipeline.identity SET {change}")
    index(queue.database, ann.commit(post("a", "x")))
    assert queued(queue.database) == {ann.did: "refresh" if "refresh" in change else "new"}


@pytest.mark.parametrize("time", ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "0001-01-01T00:00:00+23:00"])
def test_a_time_that_is_far_from_ours_does_no_harm(queue: Queue, stream: Stream, time: str) -> None:
    index(queue.database, Person(stream, "ann").commit(post("a", "x"), time=time))
    index(queue.database, stream.account(did_of("ann"), active=False, status="suspended", time=time))
    queue.resolve(found(did_of("ann"), "ann.test"))
    queue.sql("DELETE FROM bsky.actor")
    queue.sql("DELETE FROM pipeline.identity")
    index(queue.database, identity(stream, A, time))
    queue.save(found(A, "a.test", queue.take()[0].asked_at))
    index(queue.database, identity(stream, A))
    queue.save(found(A, "b.test", queue.take()[0].asked_at))
    assert queue.handles() == {A: "b.test"}
    assert one(queue.database.url, "SELECT count(*) FROM pipeline.dead_letter") == 0


def test_an_event_that_comes_again_asks_for_nothing(queue: Queue, stream: Stream) -> None:
    event = identity(stream, A, "2026-11-20T12:00:01.000Z")
    index(queue.database, event)
    (wanted,) = queue.take()
    queue.save(found(A, "a.test", wanted.asked_at))
    index(queue.database, event, event)
    assert queue.row().queue is None
    index(queue.database, identity(stream, A, "2026-11-20T12:00:02.000Z"))
    assert queue.row().queue == "event"


@pytest.mark.parametrize("seed", range(4))
def test_the_queue_does_not_depend_on_batches_order_or_repetition(fresh: Fresh, seed: int) -> None:
    rng = random.Random(seed)
    stream = Stream()
    people = [Person(stream, name) for name in "abcd"]
    frames: list[list[bytes]] = []
    for person in people:
        own = [person.commit(post(f"p{number}", "x")) for number in range(rng.randint(0, 2))]
        for number in range(rng.randint(0, 3)):
            at = f"2026-11-20T12:00:0{number}.000Z"
            own.insert(rng.randint(0, len(own)), identity(stream, person.did, at))
        if rng.random() < 0.5:
            own.append(stream.account(person.did, active=False, status="suspended"))
        frames.append(own)
    in_order = [frame for own in frames for frame in own]
    with fresh() as database:
        index(database, *in_order)
        want = dump(database.url).get("pipeline.identity", [])
    for _ in range(2):
        shuffled = in_order + rng.choices(in_order, k=len(in_order) // 2) if in_order else []
        rng.shuffle(shuffled)
        with fresh() as database:
            feed(database, batches_of(changes_of(*shuffled), rng.choice([1, 3, 5])))
            assert dump(database.url).get("pipeline.identity", []) == want


# ---- taking


def test_taken_accounts_come_back_by_themselves(queue: Queue) -> None:
    queue.want(A, B, C)
    first = queue.take(limit=2)
    assert len(first) == 2
    rest = queue.take()
    assert {it.did for it in first + rest} == {A, B, C}
    assert queue.take() == []
    queue.sql("UPDATE pipeline.identity SET wanted_at = now() - interval '1 second' WHERE did = %s", B)
    assert [it.did for it in queue.take()] == [B]


def test_the_one_that_waits_longest_is_taken_first(queue: Queue) -> None:
    for did in (C, A, B):
        queue.want(did)
    assert [it.did for it in queue.take(limit=2)] == [C, A]


def test_an_account_that_is_asked_for_again_and_again_keeps_its_place(queue: Queue, stream: Stream) -> None:
    queue.want(A, B)
    queue.sql("UPDATE pipeline.identity SET wanted_at = now() - interval '1 hour' WHERE did = %s", A)
    queue.sql("UPDATE pipeline.identity SET wanted_at = now() - interval '1 minute' WHERE did = %s", B)
    queue.want(A)
    assert [it.did for it in queue.take("event", 1)] == [A]
    queue.sql("UPDATE pipeline.identity SET wanted_at = now() - interval '1 hour' WHERE did = %s", A)
    index(queue.database, identity(stream, A, "2026-11-20T00:00:00Z"))
    assert [it.did for it in queue.take("event", 1)] == [A]
    queue.want(A)
    assert [it.did for it in queue.take("event", 2)] == [B, A], "taken, it is asked for from now on"


def test_events_of_an_account_that_never_answers_are_retries(queue: Queue, stream: Stream) -> None:
    index(queue.database, identity(stream, A, "2026-11-20T00:00:00Z"), identity(stream, B, "2026-11-20T00:00:00Z"))
    for did, attempts in ((A, 3), (B, 4)):
        queue.sql("UPDATE pipeline.identity SET queue = 'retry', attempts = %s, wanted_at = now() + interval '1 h' "
                  "WHERE did = %s", attempts, did)  # fmt: skip
    index(queue.database, identity(stream, A, "2026-11-21T00:00:00Z"), identity(stream, B, "2026-11-21T00:00:00Z"))
    assert queued(queue.database) == {A: "event", B: "retry"}
    assert [it.did for it in queue.take("retry")] == [B], "at once all the same"
    queue.want(B)
    assert queued(queue.database)[B] == "event", "a person asks"


def test_two_processes_take_different_accounts(queue: Queue) -> None:
    queue.want(*(f"did:plc:{number}" for number in range(100)))
    with ThreadPoolExecutor(4) as pool:
        taken = [it.did for found in pool.map(lambda _: queue.take(limit=10), range(10)) for it in found]
    assert len(set(taken)) == len(taken) == 100


def test_taking_tells_what_is_known(queue: Queue) -> None:
    queue.resolve(found(A, "a.test"))
    queue.postpone(Postponed(A, "too late", 5.0))
    queue.want(A, status=True)
    queue.postpone(Postponed(A, "time-out", 5.0), Postponed(B, "not there", 5.0))
    queue.want(A)
    ((wanted),) = queue.take()
    assert (wanted.did, wanted.queue, wanted.attempts, wanted.status_wanted) == (A, "event", 1, True)
    assert (wanted.known.handle, wanted.known.error) == ("a.test", "time-out")


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
EXCLUDING = [
    "INSERT INTO pipeline.actor_setting (did, data_collection_forbidden) VALUES ('did:plc:a', true)",
    "INSERT INTO pipeline.removal (did, reason) VALUES ('did:plc:a', 'deleted')",
]


@pytest.mark.parametrize("excluding", EXCLUDING, ids=["forbidden", "deleted"])
@pytest.mark.parametrize("status", [False, True])
def test_nothing_is_kept_of_excluded_accounts(queue: Queue, excluding: str, status: bool) -> None:
    queue.want(A, B, status=status)
    asked_at = {it.did: it.asked_at for it in queue.take()}
    queue.sql(excluding)
    queue.save(found(A, "a.test", asked_at[A]), found(B, "b.test", asked_at[B]))
    assert queue.handles() == {B: "b.test"}
    assert queue.row(A) == StoredIdentity(A, asked_at=asked_at[A])
    # Queued all the same, it is not resolved, unless its PDS is to say whether it was deleted.
    queue.want(A, B, status=status)
    if not status:
        assert queue.row(A).queue is None
        queue.sql("UPDATE pipeline.identity SET queue = 'event', wanted_at = now()")
    assert {it.did for it in queue.take()} == ({A, B} if status else {B})
    assert queue.row(A).queue == ("event" if status else None)
    if status:
        queue.save(found(A, "a.test", queue.row(A).asked_at, status_seconds=30.0))
        assert (queue.row(A).queue, queue.row(A).attempts, queue.row(A).state) == ("retry", 1, None)


def test_whoever_excludes_an_account_waits_for_a_resolution_that_is_being_saved(queue: Queue) -> None:
    queue.want(A, status=True)
    (wanted,) = queue.take()
    with ThreadPoolExecutor(1) as pool:
        with queue.database.connect("writer") as connection:
            identities.save(connection, [found(A, "a.test", wanted.asked_at)], usable_seconds=USABLE)
            excluding = pool.submit(queue.sql, EXCLUDING[0])
            wait_for(lambda: one(queue.database.url, WAITING))
            assert not excluding.done()
        excluding.result(120)


def test_an_opt_out_that_removed_the_data_and_was_withdrawn_excludes_nothing(queue: Queue) -> None:
    queue.sql("INSERT INTO pipeline.actor_setting VALUES (%s, false)", A)
    queue.sql("INSERT INTO pipeline.removal (did, reason, finished_at) VALUES (%s, 'opt-out', now())", A)
    queue.resolve(found(A, "a.test"))
    assert queue.handles() == {A: "a.test"}


# ---- saving


def test_what_was_found_is_stored_and_the_account_leaves_its_queue(queue: Queue) -> None:
    queue.resolve(found(A, "a.test", labeler="https://labels.example", labeler_key="did:key:z2"))
    row = queue.row()
    assert (row.state, row.source, row.pds, row.signing_key) == ("found", "plc", "https://pds.example", "did:key:z1")
    assert (row.claimed_handle, row.handle, row.handle_source, row.handle_error) == ("a.test", "a.test", "dns", None)
    assert (row.labeler, row.labeler_key, row.doc) == ("https://labels.example", "did:key:z2", '{"id": "did:plc:a"}')
    assert (row.queue, row.wanted_at, row.attempts, row.error) == (None, None, 0, None)
    now = datetime.now(timezone.utc)
    assert row.resolved_at is not None and row.next_check_at is not None
    assert abs((now - row.resolved_at).total_seconds()) < 60
    assert 79_000 < (row.next_check_at - now).total_seconds() < 80_001
    assert queue.handles() == {A: "a.test"}


@pytest.mark.parametrize("state", ["not found", "tombstoned", "invalid"])
def test_an_account_without_a_document_has_no_handle_and_gets_no_row(queue: Queue, state: str) -> None:
    queue.resolve(found(B, "b.test"))
    nothing: dict[str, Any] = {"state": state, "doc": None, "pds": None, "signing_key": None, "error": "404"}
    queue.resolve(found(A, None, **nothing), found(B, None, **nothing))
    assert rows(queue.database.url, "SELECT did, handle FROM bsky.actor") == [(B, None)]
    assert (queue.row(A).state, queue.row(A).error, queue.row(B).handle) == (state, "404", None)


def test_an_event_during_a_resolution_is_not_settled_by_it(queue: Queue, stream: Stream) -> None:
    queue.want(A)
    (wanted,) = queue.take()
    index(queue.database, identity(stream, A))
    queue.save(found(A, "old.test", wanted.asked_at))
    assert queue.handles() == {A: "old.test"}
    (again,) = queue.take()
    assert again.did == A
    queue.save(found(A, "new.test", again.asked_at))
    assert queue.handles() == {A: "new.test"}
    assert queue.row().queue is None
    queue.save(found(A, "old.test", wanted.asked_at))  # an attempt that was thought dead
    assert queue.handles() == {A: "new.test"}


def test_an_account_that_was_removed_meanwhile_stays_removed(queue: Queue) -> None:
    queue.want(A)
    (wanted,) = queue.take()
    queue.sql("DELETE FROM pipeline.identity")
    queue.save(found(A, "a.test", wanted.asked_at))
    assert rows(queue.database.url, "SELECT did FROM pipeline.identity") == []
    assert rows(queue.database.url, "SELECT did FROM bsky.actor") == []


def test_another_pds_is_noted(queue: Queue) -> None:
    queue.resolve(found(A))
    queue.resolve(found(A))
    assert queue.row().pds_changed_at is None
    queue.resolve(found(A, pds="https://other.example"))
    assert queue.row().pds_changed_at is not None


def test_other_columns_of_the_account_stay(queue: Queue, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(queue.database, ann.commit(post("a", "x")), stream.account(ann.did, active=False, status="suspended"))
    queue.sql("""UPDATE bsky.actor SET "takedownRef" = 'T', "trustedVerifier" = true, "ageAssuranceStatus" = 'x'""")
    before = rows(queue.database.url, "SELECT to_jsonb(a) - 'handle' FROM bsky.actor a")
    queue.take("new")
    queue.save(found(ann.did, "ann.test", queue.row(ann.did).asked_at))
    assert rows(queue.database.url, "SELECT to_jsonb(a) - 'handle' FROM bsky.actor a") == before
    assert queue.handles() == {ann.did: "ann.test"}


def test_an_account_is_added_with_the_status_that_came_before_it(queue: Queue, stream: Stream) -> None:
    index(queue.database, stream.account(A, active=False, status="suspended"), identity(stream, A))
    queue.resolve(found(A, "a.test"))
    assert rows(queue.database.url, 'SELECT did, "upstreamStatus" FROM bsky.actor') == [(A, "suspended")]


def test_the_time_of_an_account_is_that_of_its_event(queue: Queue, stream: Stream) -> None:
    index(queue.database, identity(stream, A, "2026-11-20T12:00:01.000Z"))
    queue.save(found(A, "a.test", queue.take()[0].asked_at))
    indexed_at = 'SELECT "indexedAt" FROM bsky.actor'
    assert one(queue.database.url, indexed_at) == "2026-11-20T12:00:01.000Z"
    index(queue.database, identity(stream, A, "2026-11-20T12:00:05.123Z"))
    queue.save(found(A, "a.test", queue.take()[0].asked_at))
    assert one(queue.database.url, indexed_at) == "2026-11-20T12:00:05.123Z"
    for handle in ("a.test", "b.test"):
        queue.sql("UPDATE pipeline.identity SET next_check_at = now()")
        with queue.database.connect("writer") as connection:
            assert identities.queue_refresh(connection, 10) == 1
        queue.save(found(A, handle, queue.take("refresh")[0].asked_at))
        # A refresh that finds nothing new writes nothing for readers.
        assert (one(queue.database.url, indexed_at) == "2026-11-20T12:00:05.123Z") == (handle == "a.test")


def test_the_time_of_an_account_does_not_depend_on_how_late_it_is_resolved(queue: Queue, stream: Stream) -> None:
    """Its first commit came after its event, and was applied before the event's resolution."""
    ann = Person(stream, "ann")
    index(queue.database, identity(stream, ann.did))
    index(queue.database, ann.commit(post("a", "hello")))
    indexed_at = 'SELECT "indexedAt" FROM bsky.actor'
    assert one(queue.database.url, indexed_at) == "2025-06-15T15:06:42.000Z"
    queue.save(found(ann.did, "ann.test", queue.take()[0].asked_at))
    assert one(queue.database.url, indexed_at) == "2025-06-15T15:06:41.000Z"


HOSTILE = {
    "half of a surrogate pair": '{"a": "\\ud800"}',
    "U+0000": '{"a": "\\u0000"}',
    "a huge number": '{"a": 1e999999}',
    "deep": "[" * 100_000 + "]" * 100_000,
    "no JSON": "<html>",
}


@pytest.mark.parametrize("doc", HOSTILE.values(), ids=HOSTILE)
def test_a_document_that_postgresql_refuses_holds_up_nobody(queue: Queue, doc: str) -> None:
    queue.resolve(found(A, "a.test", doc=doc), found(B, "b.test"), found(C, None, error="\0 \ud800", doc=doc))
    assert queue.handles() == {A: "a.test", B: "b.test", C: None}
    assert queue.row(A).doc is None and queue.row(B).doc is not None
    assert "can't be stored" in str(queue.row(A).error)


def test_large_documents_are_stored(queue: Queue) -> None:
    doc = '{"id": "' + "".join(random.Random(1).choices("abcdefgh", k=200_000)) + '"}'
    queue.resolve(found(A, doc=doc), found(B, doc=doc))
    assert queue.row(A).doc == queue.row(B).doc == doc


# ---- the hosting status


def test_a_status_that_is_not_known_yet_keeps_the_account_queued(queue: Queue) -> None:
    queue.want(A, status=True)
    (wanted,) = queue.take()
    assert wanted.status_wanted
    queue.save(found(A, "a.test", wanted.asked_at, status_seconds=30.0))
    assert (queue.row().queue, queue.row().status_wanted, queue.row().handle) == ("retry", True, "a.test")
    assert queue.take("retry") == []
    queue.sql("UPDATE pipeline.identity SET wanted_at = now()")
    (wanted,) = queue.take("retry")
    queue.save(found(A, "a.test", wanted.asked_at))
    assert (queue.row().queue, queue.row().status_wanted) == (None, False)


# ---- handles that two accounts claim


def test_the_newcomer_gets_the_handle(queue: Queue) -> None:
    queue.resolve(found(A, "x.test"))
    queue.resolve(found(B, "x.test"))
    assert queue.handles() == {A: None, B: "x.test"}
    loser = queue.row(A)
    assert (loser.claimed_handle, loser.handle_source) == ("x.test", None)
    assert loser.handle_error == "did:plc:b has this handle now"
    assert loser.next_check_at is not None
    assert (loser.next_check_at - datetime.now(timezone.utc)).total_seconds() < 2 * 3_600


@pytest.mark.parametrize("order", list(itertools.permutations([A, B, C])))
@pytest.mark.parametrize("holder", [None, A, C])
def test_of_one_transaction_the_last_account_gets_the_handle(
    queue: Queue, order: tuple[str, ...], holder: str | None
) -> None:
    if holder is not None:
        queue.resolve(found(holder, "x.test"))
    queue.resolve(*(found(did, "x.test") for did in order))
    assert queue.handles() == {did: "x.test" if did == order[-1] else None for did in order}
    for did in order[:-1]:
        assert queue.row(did).handle_error == f"{order[-1]} has this handle now"


def test_accounts_exchange_handles(queue: Queue) -> None:
    queue.resolve(found(A, "a.test"), found(B, "b.test"), found(C, "c.test"))
    queue.resolve(found(A, "b.test"), found(B, "a.test"))
    assert queue.handles() == {A: "b.test", B: "a.test", C: "c.test"}
    queue.resolve(found(A, "c.test"), found(B, "b.test"), found(C, "a.test"))
    assert queue.handles() == {A: "c.test", B: "b.test", C: "a.test"}
    queue.resolve(found(B, "a.test"), unverified(C, "a.test"))
    assert queue.handles() == {A: "c.test", B: "a.test", C: None}
    assert queue.row(C).handle_error == "no TXT record"


def test_a_handle_of_an_account_without_an_identity_is_taken(queue: Queue, stream: Stream) -> None:
    """A database that the reference wrote has such rows."""
    ann = Person(stream, "ann")
    index(queue.database, ann.commit(post("a", "x")))
    queue.sql("DELETE FROM pipeline.identity")
    queue.sql("UPDATE bsky.actor SET handle = 'x.test'")
    queue.resolve(found(B, "x.test"))
    assert dict(rows(queue.database.url, "SELECT did, handle FROM bsky.actor")) == {ann.did: None, B: "x.test"}


def test_concurrent_savers_never_break_the_unique_handle(queue: Queue, stream: Stream) -> None:
    """Six accounts exchange four handles in five sessions, beside a writer with events of them all."""
    people = [Person(stream, name) for name in "abcdef"]
    dids = [person.did for person in people]

    def write() -> None:
        for number in range(15):
            index(queue.database, *(person.commit(post(f"p{number}", "x")) for person in people))
            index(queue.database, *(identity(stream, did) for did in reversed(dids)))

    def exchange(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(15):
            queue.want(*dids)
            some = rng.sample(dids, rng.randint(1, 6))
            queue.save(*(found(did, rng.choice(["w.test", "x.test", "y.test", "z.test", None])) for did in some))
            queue.postpone(*(Postponed(did, "busy", 0.0) for did in rng.sample(dids, 3)))

    with ThreadPoolExecutor(5) as pool:
        for ended in [pool.submit(exchange, seed) for seed in range(4)] + [pool.submit(write)]:
            ended.result(60)
    queue.handles()


# ---- checks without an answer


def check_failed(did: str, handle: str) -> Settled:
    return unverified(did, handle, is_handle_final=False, handle_error="SERVFAIL")


@pytest.mark.parametrize(("hours", "stays"), [(1, True), (23, True), (25, False)])
def test_a_check_without_an_answer_keeps_a_handle_for_a_day(queue: Queue, hours: int, stays: bool) -> None:
    queue.resolve(found(A, "a.test"))
    queue.sql("UPDATE pipeline.identity SET handle_checked_at = now() - make_interval(hours => %s)", hours)
    queue.resolve(check_failed(A, "a.test"))
    assert queue.handles() == {A: "a.test" if stays else None}
    row = queue.row()
    assert (row.handle_source, row.handle_error) == ("dns" if stays else None, "SERVFAIL")
    assert one(queue.database.url, "SELECT handle_checked_at < now() - interval '30 minutes' FROM pipeline.identity")


def test_a_check_without_an_answer_keeps_no_other_handle(queue: Queue) -> None:
    queue.resolve(found(A, "a.test"), found(B, "b.test"))
    queue.resolve(check_failed(A, "new.test"), unverified(B, "b.test"))
    assert queue.handles() == {A: None, B: None}


def test_a_handle_that_is_kept_yields_to_one_that_is_verified(queue: Queue) -> None:
    for batch in ([check_failed(A, "x.test"), found(B, "x.test")], [found(B, "x.test"), check_failed(A, "x.test")]):
        queue.resolve(found(A, "x.test"))
        queue.resolve(*batch)
        assert queue.handles() == {A: None, B: "x.test"}


# ---- postponing


def test_a_postponed_account_waits_with_its_reason(queue: Queue) -> None:
    queue.want(A, B)
    queue.take()
    queue.postpone(Postponed(A, "connection refused", 30.0), Postponed(B, "the host is parked", 30.0, counts=False))
    assert [(queue.row(did).queue, queue.row(did).attempts) for did in (A, B)] == [("retry", 1), ("event", 0)]
    assert queue.row().error == "connection refused"
    assert queue.take("retry") == queue.take("event") == []
    queue.sql("UPDATE pipeline.identity SET wanted_at = wanted_at - interval '30 seconds'")
    assert [it.did for name in ("retry", "event") for it in queue.take(name)] == [A, B]


def test_an_account_that_was_asked_for_meanwhile_does_not_wait(queue: Queue) -> None:
    queue.want(A)
    queue.take()
    queue.want(A)
    queue.postpone(Postponed(A, "connection refused", 30.0))
    assert [(it.did, it.attempts) for it in queue.take()] == [(A, 1)]


def test_a_handle_is_not_shown_for_ever_while_nobody_answers(queue: Queue) -> None:
    queue.resolve(found(A, "a.test"), found(B, "b.test"))
    queue.sql("UPDATE pipeline.identity SET handle_checked_at = now() - interval '25 hours' WHERE did = %s", A)
    queue.want(A, B)
    queue.take()
    queue.postpone(Postponed(A, "the PLC directory is away", 30.0), Postponed(B, "the PLC directory is away", 30.0))
    assert queue.handles() == {A: None, B: "b.test"}
    assert "the PLC directory is away" in str(queue.row(A).handle_error)


# ---- refreshing


@pytest.mark.parametrize(
    ("values", "is_asked"),
    [
        ("false, 'deleted', false, NULL", True),
        ("false, 'deleted', false, 'deactivated'", True),
        ("false, 'deleted', false, 'gone'", True),  # it said so before: otherwise there would be a removal
        ("false, 'deactivated', true, 'active'", True),
        ("false, 'deactivated', false, 'deactivated'", False),
        ("true, NULL, false, 'active'", False),
    ],
)
def test_a_refresh_asks_for_a_hosting_status_that_is_not_confirmed(queue: Queue, values: str, is_asked: bool) -> None:
    """The PDS of an account that was deleted may have been away for as long as it was asked."""
    queue.resolve(found(A))
    repo = "INSERT INTO pipeline.repo (did, active, status, status_doubtful, pds_status) VALUES "
    queue.sql(f"{repo} (%s, {values})", A)
    queue.sql("UPDATE pipeline.identity SET next_check_at = now() - interval '1 hour'")
    with queue.database.connect("writer") as connection:
        assert identities.queue_refresh(connection, 1) == 1
    assert [it.status_wanted for it in queue.take("refresh")] == [is_asked]


def test_due_accounts_are_queued_for_a_refresh(queue: Queue) -> None:
    queue.resolve(*(found(did) for did in (A, B, C)))
    queue.sql("UPDATE pipeline.identity SET next_check_at = now() - interval '1 hour' WHERE did = %s", A)
    queue.sql("UPDATE pipeline.identity SET next_check_at = now() - interval '2 hours' WHERE did = %s", B)
    with queue.database.connect("writer") as connection:
        assert identities.queue_refresh(connection, 1) == 1
    assert [it.did for it in queue.take("refresh")] == [B]
    with queue.database.connect("writer") as connection:
        assert identities.queue_refresh(connection, 10) == 1
        state = identities.queue_state(connection)
    assert {name: it.length for name, it in state.queues.items()} == {"event": 0, "new": 0, "retry": 0, "refresh": 2}
    assert (state.urgent, state.oldest_seconds) == (0, None)


def test_the_state_of_the_queues(queue: Queue) -> None:
    queue.want(A, B, C)
    queue.sql("UPDATE pipeline.identity SET wanted_at = now() - interval '1 hour' WHERE did = %s", A)
    with queue.database.connect("reader") as connection:
        state = identities.queue_state(connection)
        assert identities.queue_state(connection, limit=2).urgent == 2
    assert state.urgent == 3
    assert state.oldest_seconds is not None and 3_600 <= state.oldest_seconds < 3_700


def test_who_has_a_handle(queue: Queue) -> None:
    queue.resolve(found(A, "x.test"), found(C, "x.test"), unverified(B, "x.test"))
    with queue.database.connect("reader") as connection:
        assert [it.did for it in identities.with_handle(connection, "x.test")] == [C, A, B]


# ---- plans


def test_no_statement_reads_a_long_queue(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 100,000 accounts queued, and many that are due."""
    queue.sql("""
        INSERT INTO pipeline.identity (did, queue, wanted_at, next_check_at, claimed_handle, handle, handle_checked_at)
        SELECT 'did:plc:' || q || n, nullif(q, 'none'), CASE WHEN q <> 'none' THEN now() - n * interval '1 second' END,
            now() - n * interval '1 second', q || n || '.test', q || n || '.test', now()
        FROM generate_series(1, 25000) n, unnest(ARRAY['event', 'new', 'retry', 'refresh', 'none']) q""")
    queue.sql("INSERT INTO bsky.actor (did, handle, \"indexedAt\") SELECT did, handle, '2026' FROM pipeline.identity")
    queue.sql("ANALYZE pipeline.identity, bsky.actor")
    read: set[tuple[str, str]] = set()
    execute = identities._execute
    fetch = identities._fetch

    def explain(connection: Connection, file: str, name: str, parameters: dict[str, Any]) -> None:
        statement = identities._statement(file, name)
        if statement.startswith(("WITH", "SELECT", "INSERT", "UPDATE", "DELETE")):
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (VERBOSE, FORMAT JSON) {statement}", parameters)
                plan = cursor.fetchall()[0][0][0]["Plan"]
            read.update((f"{file}.{name}", table) for table in whole_tables(plan))

    def explained_execute(connection: Connection, file: str, name: str, **parameters: Any) -> int:
        explain(connection, file, name, parameters)
        return execute(connection, file, name, **parameters)

    def explained_fetch(connection: Connection, file: str, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        explain(connection, file, name, parameters)
        return fetch(connection, file, name, **parameters)

    monkeypatch.setattr(identities, "_execute", explained_execute)
    monkeypatch.setattr(identities, "_fetch", explained_fetch)
    for limit in (1, 15, 500):
        with queue.database.connect("writer") as connection:
            for name in identities.QUEUES:
                taken = identities.take(connection, name, limit, 60.0)
                assert len(taken) == limit
                settled = [found(it.did, f"{number}.test", it.asked_at) for number, it in enumerate(taken)]
                settled[0] = found(taken[0].did, f"none{limit}.test", taken[0].asked_at)  # somebody else's
                identities.save(connection, settled[: limit // 2 + 1], usable_seconds=USABLE)
                rest = [Postponed(it.did, "no", 5.0) for it in taken[limit // 2 + 1 :]]
                identities.postpone(connection, rest, usable_seconds=0.0)
            assert identities.queue_refresh(connection, limit) == limit
            identities.want(connection, [f"did:plc:none{number}" for number in range(limit)])
            identities.with_handle(connection, "none7.test")
    assert read == set()


def test_status_says_who_waits(queue: Queue) -> None:
    def shown() -> str:
        with queue.database.connect("reader") as connection:
            status = read_status(connection, queue.database.url)
        json.dumps(status.as_json())
        return next(line for line in status.lines() if line.startswith("Identities"))

    assert shown() == "Identities    to be resolved: none"
    queue.want(A, B)
    queue.sql("UPDATE pipeline.identity SET wanted_at = now() - interval '61.1 seconds' WHERE did = %s", A)
    queue.sql("UPDATE pipeline.identity SET queue = 'refresh', wanted_at = now() + interval '1 h' WHERE did = %s", B)
    assert shown() == "Identities    to be resolved: event 1 (for 61 s), refresh 1"
