"""The queue of repositories: who is taken, in which order, what happens when something fails, and what it costs."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import pytest
from psycopg2.extensions import connection as Connection

from appview_pipeline.store import backfill_queue as queue
from appview_pipeline.store import hosts
from appview_pipeline.store.backfill_queue import URGENT, Fetched, Postponed, Queued, Scope
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.tables import one, rows

A, B, C = "did:plc:a", "did:plc:b", "did:plc:c"
ONE, TWO = "https://one.example", "https://two.example"

_T = TypeVar("_T")


def on(database: Database, action: Callable[[Connection], _T]) -> _T:
    """What an action gives, in a transaction of its own."""
    with database.connect("writer") as connection:
        return action(connection)


def enqueue(database: Database, *dids: str, priority: int = queue.REST, host: str = ONE, reason: str = "gap") -> int:
    known = dict.fromkeys(dids, host)
    return on(database, lambda c: queue.enqueue(c, dids, reason=reason, priority=priority, hosts=known))


def bucket_of(database: Database, did: str) -> int:
    return int(one(database.url, "SELECT bucket FROM pipeline.backfill_queue WHERE did = %s", did))


def take(database: Database, *dids: str, seconds: float = 60.0) -> list[Queued]:
    return on(database, lambda c: queue.take_given(c, dids or (A, B, C), seconds))


def fetched(it: Queued) -> Fetched:
    return Fetched(it.did, it.enqueued_at, "3l", 5, 100, 60.0)


def postponed(it: Queued, seconds: float = 60.0, **others: Any) -> Postponed:
    return Postponed(it.did, it.enqueued_at, "no answer", seconds, **{"counts": True, **others})


def row(database: Database, did: str, columns: str) -> tuple[Any, ...]:
    (found,) = rows(database.url, f"SELECT {columns} FROM pipeline.backfill_queue WHERE did = %s", did)
    return found


def test_what_is_taken_belongs_to_the_process_until_its_time_is_over(database: Database) -> None:
    assert enqueue(database, A, A, B) == 2
    assert {it.did for it in take(database)} == {A, B}
    assert take(database) == []
    on(database, lambda c: queue.renew(c, [A], 0.0))  # as if its time were over
    assert [it.did for it in take(database)] == [A]
    on(database, lambda c: queue.release(c, [A, B, C]))
    assert {it.did for it in take(database)} == {A, B}


def test_the_highest_priority_goes_first_and_then_who_waits_longest(database: Database) -> None:
    enqueue(database, A)
    enqueue(database, B, priority=queue.DESYNCHRONIZED)
    enqueue(database, C, priority=queue.ASKED)
    found = on(database, lambda c: queue.take(c, URGENT, {ONE: 1}, 60.0))
    assert [it.did for it in found] == [C]
    found = on(database, lambda c: queue.take(c, URGENT, {ONE: 10}, 60.0))
    assert [it.did for it in found] == [B], "of what is urgent"
    bucket = Scope(bucket_of(database, A))
    assert [it.did for it in on(database, lambda c: queue.take(c, bucket, {ONE: 10, TWO: 10}, 60.0))] == [A]


def test_of_one_priority_the_one_that_waits_longest_goes_first(database: Database) -> None:
    for did in (B, C, A):  # each in a transaction of its own, and so at its own time
        enqueue(database, did, priority=queue.DESYNCHRONIZED)
    taken = [on(database, lambda c: queue.take(c, URGENT, {ONE: 1}, 60.0)) for _ in range(3)]
    assert [[it.did for it in some] for some in taken] == [[B], [C], [A]]


def test_a_priority_is_raised_and_never_lowered(database: Database) -> None:
    enqueue(database, A, priority=queue.NEW, reason="new")
    assert enqueue(database, A, priority=queue.ASKED, reason="requested") == 0, "it waited before"
    enqueue(database, A, priority=queue.DESYNCHRONIZED, reason="chain")
    assert row(database, A, "priority, reason") == (3, "requested")
    on(database, lambda c: queue.finish(c, [fetched(it) for it in take(database)]))
    assert enqueue(database, A, priority=queue.DESYNCHRONIZED, reason="chain") == 1
    assert row(database, A, "priority, reason, finished_at, attempts") == (2, "chain", None, 0)


def test_lists_queue_only_what_nobody_has_queued(database: Database) -> None:
    enqueue(database, A)
    on(database, lambda c: queue.finish(c, [fetched(it) for it in take(database)]))
    rows(database.url, "INSERT INTO pipeline.repo (did, sync_state) VALUES (%s, 'synchronized')", B)
    added = on(database, lambda c: queue.enqueue_new(c, [A, B, C, C], reason="discovered", priority=0, host=TWO))
    assert added == 1 and row(database, C, "host, priority") == (TWO, 0)
    assert row(database, A, "finished_at IS NOT NULL, rev, records, bytes") == (True, "3l", 5, 100)


def test_accounts_that_are_not_active_are_not_queued(database: Database) -> None:
    rows(database.url, "INSERT INTO pipeline.repo (did, active, status) VALUES (%s, false, 'deactivated')", A)
    rows(database.url, "INSERT INTO pipeline.repo (did, active, status_doubtful) VALUES (%s, false, true)", B)
    assert enqueue(database, A, B) == 1
    assert rows(database.url, "SELECT did FROM pipeline.backfill_queue") == [(B,)]


def test_the_host_is_known_from_the_identity(database: Database) -> None:
    rows(database.url, "INSERT INTO pipeline.identity (did, pds) VALUES (%s, %s)", A, TWO)
    on(database, lambda c: queue.enqueue(c, [A, B], reason="chain", priority=2))
    assert row(database, A, "host") == (TWO,) and row(database, B, "host") == ("",)
    assert on(database, lambda c: queue.hosts_with_work(c, URGENT)) == ([TWO], None), "B has none to be found by"
    (it,) = on(database, lambda c: queue.take(c, URGENT, {"": 5}, 60.0))
    on(database, lambda c: queue.set_hosts(c, {it.did: ONE}))
    assert on(database, lambda c: queue.hosts_with_work(c, URGENT)) == ([ONE, TWO], None)


def test_what_fails_comes_back_after_its_pause(database: Database) -> None:
    enqueue(database, A, B, C, priority=queue.DESYNCHRONIZED)
    taken = {it.did: it for it in take(database)}
    items = [
        postponed(taken[A], 0.0),
        postponed(taken[B], 0.0, counts=False),
        postponed(taken[C], 3600.0, parked=True),
    ]
    on(database, lambda c: queue.postpone(c, items))
    again = {it.did: it.attempts for it in take(database)}
    assert again == {A: 1, B: 0}
    assert row(database, C, "attempts, error, parked_at IS NOT NULL") == (1, "no answer", True)
    assert [it.did for it in on(database, queue.list_parked)] == [C]
    state = on(database, queue.queue_state)
    assert (state.waiting, state.parked, state.fetching, state.due) == ({2: 2}, 1, 2, 0)
    # Another gap does not unpark it, nor does it end a pause; a person does.
    enqueue(database, C, priority=queue.DESYNCHRONIZED)
    assert row(database, C, "parked_at IS NOT NULL, not_before > now()") == (True, True)
    enqueue(database, C, priority=queue.ASKED)
    assert row(database, C, "parked_at, not_before <= now(), attempts, error") == (None, True, 0, None)


def test_one_that_is_asked_for_while_it_is_fetched_is_fetched_again(database: Database) -> None:
    enqueue(database, A, priority=queue.DESYNCHRONIZED)
    (it,) = take(database)
    enqueue(database, A, priority=queue.DESYNCHRONIZED)
    assert take(database) == [], "not by two at once"
    on(database, lambda c: queue.finish(c, [fetched(it)]))
    (again,) = take(database)
    on(database, lambda c: queue.finish(c, [fetched(again)]))
    assert row(database, A, "finished_at IS NOT NULL, attempts, error") == (True, 0, None)


def test_one_that_is_not_complete_yet_stays_with_growing_pauses(database: Database) -> None:
    rows(database.url, "INSERT INTO pipeline.repo (did, sync_state) VALUES (%s, 'desynchronized')", A)
    enqueue(database, A, priority=queue.DESYNCHRONIZED)
    (it,) = take(database)
    on(database, lambda c: queue.finish(c, [fetched(it)]))
    (it,) = take(database)
    on(database, lambda c: queue.finish(c, [fetched(it)]))
    assert take(database) == []
    assert row(database, A, "finished_at, attempts, not_before > now() + interval '50 s'") == (None, 2, True)
    assert on(database, lambda c: queue.finish(c, [replace(fetched(it), parked=True)])) == [A], "given up for now"
    assert row(database, A, "finished_at, parked_at IS NOT NULL, left(error, 11)") == (None, True, "its export ")


def test_hosts_are_found_without_those_that_are_parked(database: Database) -> None:
    for number in range(30):
        enqueue(database, f"did:plc:x{number}", priority=queue.ASKED, host=f"https://h{number:02}.example")
    news = [hosts.HostNews(f"https://h{number:02}.example", 0, 3, "it hangs", 600.0) for number in range(10)]
    on(database, lambda c: hosts.note_hosts(c, news))
    found, after = on(database, lambda c: queue.hosts_with_work(c, URGENT, limit=20))
    assert (found, after) == ([f"https://h{number}.example" for number in range(10, 20)], "https://h19.example")
    found, after = on(database, lambda c: queue.hosts_with_work(c, URGENT, after or "", limit=20))
    assert (found, after) == ([f"https://h{number}.example" for number in range(20, 30)], None)
    assert on(database, hosts.count_parked_hosts) == 10
    (parked, *_) = on(database, hosts.parked_hosts)
    assert parked.failures == 3 and parked.reason == "it hangs" and 590 < parked.seconds <= 600
    # It delivers: the park is over, for all processes.
    on(database, lambda c: hosts.note_hosts(c, [hosts.HostNews("https://h00.example", 2, 0, None, 0.0)]))
    known = on(database, lambda c: hosts.read_hosts(c, ["https://h00.example"]))["https://h00.example"]
    assert (known.is_proven, known.failures, known.parked_seconds, known.reason) == (True, 0, 0.0, None)


def test_new_accounts_of_the_stream_are_queued_once(database: Database) -> None:
    rows(database.url, "INSERT INTO pipeline.repo (did, rev) VALUES (%s, '3k'), (%s, '3k')", A, B)
    rows(database.url, "INSERT INTO pipeline.repo (did, active) VALUES (%s, false)", C)
    assert on(database, queue.queue_unknown) == 2
    assert on(database, queue.queue_unknown) == 0, "and not looked at again"
    assert rows(database.url, "SELECT did, priority FROM pipeline.backfill_queue ORDER BY did") == [(A, 1), (B, 1)]


def test_what_is_not_complete_and_not_queued_is_found(database: Database) -> None:
    """An account that was not active when something of it was missing, say."""
    rows(database.url, "INSERT INTO pipeline.repo (did, sync_state) VALUES (%s, 'desynchronized'), (%s, 'error')", A, B)
    rows(database.url, "INSERT INTO pipeline.repo (did, sync_state) VALUES (%s, 'synchronized')", C)
    enqueue(database, B, priority=queue.DESYNCHRONIZED)
    assert on(database, lambda c: queue.queue_incomplete(c, limit=1)) == (1, A)
    assert on(database, lambda c: queue.queue_incomplete(c, A)) == (0, None)
    assert row(database, A, "priority") == (2,)


def test_processes_that_take_side_by_side_take_each_once(database: Database) -> None:
    dids = [f"did:plc:x{number}" for number in range(400)]
    known = dict.fromkeys(dids, ONE)
    on(database, lambda c: queue.enqueue(c, dids, reason="chain", priority=2, hosts=known))

    def work(_: int) -> list[str]:
        mine = []
        while taken := on(database, lambda c: queue.take(c, URGENT, {ONE: random.randint(1, 20)}, 60.0)):
            mine += [it.did for it in taken]
        return mine

    with ThreadPoolExecutor(4) as pool:
        found = [did for some in pool.map(work, range(4)) for did in some]
    assert sorted(found) == sorted(dids)


def test_statements_read_no_whole_table(database: Database) -> None:
    many = [f"did:plc:y{number}" for number in range(3_000)]
    on(database, lambda c: queue.enqueue_new(c, many, reason="discovered", priority=0, host=ONE))
    on(database, lambda c: queue.enqueue(c, many[:50], reason="chain", priority=2))
    rows(database.url, "INSERT INTO pipeline.repo (did) SELECT did FROM pipeline.backfill_queue")
    rows(database.url, "INSERT INTO pipeline.identity (did) SELECT did FROM pipeline.backfill_queue")
    rows(database.url, "INSERT INTO pipeline.pds_host (host) SELECT did FROM pipeline.backfill_queue")
    rows(database.url, "ANALYZE pipeline.backfill_queue, pipeline.repo, pipeline.identity, pipeline.pds_host")
    now = datetime.now().astimezone()
    moved = ["did:plc:y1"]
    scope = {"bucket": 3, "priority": 0, "claim": 60.0, "limit": 100}
    parameters: dict[str, dict[str, Any]] = {
        "enqueue": {"dids": moved, "hosts": [ONE], "reason": "chain", "priority": 2},
        "enqueue_new": {"dids": moved, "hosts": [ONE], "reason": "chain", "priority": 2},
        "hosts": {**scope, "after": "", "looked_at": 20},
        "take": {**scope, "hosts": [ONE], "counts": [5]},
        "take_given": {"dids": moved, "claim": 60.0},
        "renew": {"dids": moved, "claim": 60.0},
        "release": {"dids": moved},
        "set_hosts": {"dids": moved, "hosts": [ONE]},
        "finish": {
            "dids": moved, "enqueued_at": [now], "revs": ["3l"], "records": [1], "bytes": [1], "seconds": [1.0],
            "parked": [False]
        },
        "postpone": {
            "dids": moved, "errors": ["x"], "seconds": [1.0], "counts": [True], "parked": [True], "enqueued_at": [now]
        },
        "unknown": {"limit": 10},
        "incomplete": {"limit": 10, "after": ""},
        "waiting_of_bucket": scope,
        "urgent": scope,
        "parked": scope,
    }  # fmt: skip
    scans = set()
    for name, values in parameters.items():
        for is_urgent in (True, False) if name in ("hosts", "take") else (False,):
            with database.connect("writer") as connection, connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN {queue._statement(name, is_urgent)}", values)
                plan = [line for (line,) in cursor.fetchall()]
            scans |= {(name, line.strip()) for line in plan if "Seq Scan on" in line}
    assert scans == set()


@pytest.mark.slow
def test_picking_costs_the_same_however_long_the_queue_is(database: Database) -> None:
    """400,000 rows, half of them finished; one host has most of them. In milliseconds."""
    rows(
        database.url,
        "INSERT INTO pipeline.backfill_queue (did, reason, priority, host, finished_at)"
        " SELECT 'did:plc:' || md5(n::text), 'discovered', 0,"
        " CASE WHEN n % 10 < 8 THEN 'https://big.example' ELSE 'https://h' || (n % 5000) || '.example' END,"
        " CASE WHEN n % 2 = 0 THEN now() END FROM generate_series(1, 400000) n",
    )
    rows(database.url, "ANALYZE pipeline.backfill_queue")
    seconds = []
    for number in range(40):
        began = datetime.now()
        found, _ = on(database, lambda c, number=number: queue.hosts_with_work(c, Scope(number % 64), limit=100))  # type: ignore[misc]
        taken = on(
            database,
            lambda c, number=number, found=found: queue.take(  # type: ignore[misc]
                c, Scope(number % 64), dict.fromkeys(found[:16], 4), 60.0
            ),
        )
        seconds.append((datetime.now() - began).total_seconds())
        assert len(taken) >= 16
    middle = sorted(seconds)[20]
    print(f"a look for hosts and a take: {1000 * middle:.1f} ms")
    assert middle < 0.05
