"""Who is resolved next: accounts that hang leave slots to the others."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from appview_pipeline.identity.slots import EVENT, NEW, REFRESH, RETRY, Limits, Slots, live_limits, refresh_limits
from appview_pipeline.settings import Settings


@dataclass(frozen=True)
class Account:
    did: str
    queue: str


def accounts(queue: str, count: int, mark: str = "") -> list[Account]:
    return [Account(f"did:plc:{mark}{queue}{number}", queue) for number in range(count)]


def started(slots: Slots[Account]) -> list[Account]:
    found = []
    while (account := slots.start()) is not None:
        found.append(account)
    return found


def by_queue(found: list[Account]) -> dict[str, int]:
    return {queue: sum(one.queue == queue for one in found) for queue in (EVENT, NEW, RETRY)}


def test_the_slots_of_a_backlog_of_everything() -> None:
    slots = Slots[Account](live_limits(Settings()))
    for queue in (RETRY, NEW, EVENT):
        slots.add(accounts(queue, 50))
    assert by_queue(started(slots)) == {EVENT: 12, NEW: 3, RETRY: 0}, "events first"
    slots = Slots(live_limits(Settings()))
    for queue in (RETRY, NEW):
        slots.add(accounts(queue, 50))
    hanging = started(slots)
    assert by_queue(hanging) == {EVENT: 0, NEW: 10, RETRY: 2}
    slots.add(accounts(EVENT, 9))
    assert by_queue(started(slots)) == {EVENT: 3, NEW: 0, RETRY: 0}, "a fifth is left to events"


def test_retries_that_hang_leave_slots_to_new_accounts() -> None:
    slots = Slots[Account](live_limits(Settings()))
    slots.add(accounts(RETRY, 50))
    assert len(started(slots)) == 5
    slots.add(accounts(NEW, 50))
    assert by_queue(started(slots)) == {EVENT: 0, NEW: 7, RETRY: 0}


@pytest.mark.parametrize("resolutions", [1, 2, 3, 4, 15, 100])
@pytest.mark.parametrize("new_accounts", [1, 10, 1_000])
def test_no_queue_is_ever_shut_out(resolutions: int, new_accounts: int) -> None:
    """Whatever the numbers: every queue gets a slot while the others hang, as far as there are slots."""
    limits = live_limits(Settings(resolutions=resolutions, new_accounts=new_accounts))
    assert all(1 <= limit <= resolutions for limit in limits.queues.values())
    assert limits.queues[NEW] <= new_accounts
    if resolutions >= 4:
        for hangs, others in ((NEW, (RETRY,)), (RETRY, (NEW,)), (EVENT, (NEW,)), (EVENT, (RETRY,))):
            slots = Slots[Account](limits)
            slots.add(accounts(hangs, 2_000))
            started(slots)
            for queue in others:
                slots.add(accounts(queue, 1))
                assert [one.queue for one in started(slots)] == [queue]
    assert refresh_limits(Settings(resolutions=resolutions)) == Limits(resolutions, {REFRESH: resolutions}, resolutions)


def test_at_no_time_are_there_more_than_allowed() -> None:
    draw = random.Random(5)
    limits = live_limits(Settings())
    slots = Slots[Account](limits)
    at_work: list[Account] = []
    done: list[Account] = []
    for step in range(3_000):
        queue = draw.choice((EVENT, NEW, RETRY))
        if wanted := slots.wanted(queue):
            slots.add(accounts(queue, draw.randint(0, wanted), mark=str(step)))
        at_work += started(slots)
        assert len(at_work) == slots.at_work <= limits.total
        assert all(sum(one.queue == queue for one in at_work) <= limit for queue, limit in limits.queues.items())
        for account in draw.sample(at_work, draw.randint(0, len(at_work))):
            at_work.remove(account)
            slots.finish(account.did)
            slots.forget(account.did)
            done.append(account)
    assert len(set(done)) == len(done) > 1_000
    assert {account.queue for account in done} == {EVENT, NEW, RETRY}


def test_an_account_whose_claim_has_run_out_is_not_resolved_twice_at_once() -> None:
    slots = Slots[Account](live_limits(Settings()))
    (account,) = accounts(NEW, 1)
    slots.add([account, account])
    assert started(slots) == [account]
    slots.add([Account(account.did, RETRY)])
    slots.finish(account.did)
    assert started(slots) == [], "not before its answer is saved"
    slots.forget(account.did)
    slots.add([account])
    assert started(slots) == [account]


def test_a_process_that_ends_gives_everything_back() -> None:
    slots = Slots[Account](live_limits(Settings()))
    taken = [*accounts(NEW, 20), *accounts(EVENT, 3)]
    slots.add(taken)
    busy = started(slots)
    assert len(busy) == 13
    slots.finish(busy[0].did)
    assert set(slots.drain()) == set(taken) - {busy[0]}
    assert started(slots) == []
