"""The loop of resolution against a real database: nobody is forgotten, nobody is held up, whatever goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg2
import pytest

from appview_pipeline import backoff
from appview_pipeline.identity.dids import Resolution
from appview_pipeline.identity.slots import refresh_limits
from appview_pipeline.settings import Settings
from appview_pipeline.store import identities
from appview_pipeline.store.accounts import PdsStatus
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import RefusedData, Transient
from appview_pipeline.store.identity_claims import release_queues
from appview_pipeline_tests.support.resolution import (
    Hanging,
    Script,
    did_of,
    found,
    no_answer,
    queue_accounts,
    states,
    working,
)
from appview_pipeline_tests.support.tables import rows
from appview_pipeline_tests.support.waiting import wait_for


def names(mark: str, count: int) -> list[str]:
    return [f"{mark}{number}" for number in range(count)]


def settled(database: Database, dids: list[str]) -> Callable[[], bool]:
    return lambda: all(state == "found" and queue is None for state, _, queue, _ in states(database.url, dids))


def test_a_backlog_is_worked_off_and_readers_see_the_handles(database: Database) -> None:
    dids = queue_accounts(database.url, "new", names("n", 300))
    script = Script()
    with working(database, script) as worker:
        wait_for(settled(database, dids), 30)
    assert worker.counts.resolved == worker.counts.verified == 300 and worker.is_idle
    assert sorted(script.asked) == sorted(dids), "each of them once"
    assert rows(database.url, "SELECT count(*) FROM bsky.actor WHERE handle LIKE 'n%.test'") == [(300,)]


def test_new_work_is_noticed_within_a_second(database: Database) -> None:
    with working(database, Script()):
        time.sleep(1.0)  # it has looked, and found nothing
        for queue in ("new", "event", "retry"):
            began = time.monotonic()
            (did,) = queue_accounts(database.url, queue, [queue])
            wait_for(settled(database, [did]), 10)
            assert time.monotonic() - began < 2.0, queue


def test_accounts_that_hang_hold_up_nobody(database: Database) -> None:
    """While the directory is silent about some, at every attempt, others are resolved at once."""
    hanging = Hanging()
    stuck = queue_accounts(database.url, "new", names("h", 4)) + queue_accounts(database.url, "retry", names("r", 60))
    script = Script(dict.fromkeys(stuck, hanging))
    with working(database, script) as worker:
        wait_for(lambda: hanging.count == 4 + 5, 10)
        began = time.monotonic()
        new, asked = queue_accounts(database.url, "new", names("n", 20)), queue_accounts(database.url, "event", ["e"])
        wait_for(settled(database, new + asked), 10)
        assert time.monotonic() - began < 3.0
        assert hanging.count == 9, "at most a third are retries"
        hanging.release()
        wait_for(lambda: worker.counts.failed == 64, 20)
    assert {(queue, attempts) for _, _, queue, attempts in states(database.url, stuck)} == {("retry", 1)}


def test_events_are_served_while_every_new_account_hangs(database: Database) -> None:
    hanging = Hanging()
    stuck = queue_accounts(database.url, "new", names("h", 30)) + queue_accounts(database.url, "retry", names("r", 30))
    with working(database, Script(dict.fromkeys(stuck, hanging))):
        wait_for(lambda: hanging.count == 12, 10)
        wait_for(settled(database, queue_accounts(database.url, "event", names("e", 20))), 5)
        assert hanging.count == 12
        hanging.release()


def test_a_worker_that_ends_gives_back_what_it_took(database: Database) -> None:
    """Also while every slot hangs, and soon."""
    hanging = Hanging()
    dids = queue_accounts(database.url, "new", names("h", 50))
    script = Script(dict.fromkeys(dids, hanging))
    with working(database, script):
        wait_for(lambda: hanging.count == 10, 10)
        assert rows(database.url, "SELECT count(*) FROM pipeline.identity WHERE wanted_at > now()")[0][0] > 10
        began = time.monotonic()
    assert time.monotonic() - began < backoff.GRACE_SECONDS - 1
    waiting = "SELECT count(*), min(queue), max(attempts) FROM pipeline.identity WHERE wanted_at <= now()"
    assert rows(database.url, waiting) == [(50, "new", 0)]
    hanging.release()
    with working(database, Script()):
        wait_for(settled(database, dids), 20)


def test_what_a_killed_process_had_taken_comes_back(database: Database) -> None:
    dids = queue_accounts(database.url, "new", names("k", 8)) + queue_accounts(database.url, "event", ["e"])
    with database.connect("writer") as connection:
        taken = identities.take(connection, "new", 5, 300.0) + identities.take(connection, "event", 5, 300.0)
        assert len(taken) == 6
    with database.connect("writer") as connection:
        assert release_queues(connection, ("new", "event")) == 6
    with working(database, Script()):
        wait_for(settled(database, dids), 20)


def test_who_is_asked_for_again_during_the_attempt_is_resolved_again(database: Database) -> None:
    hanging = Hanging()
    (did,) = queue_accounts(database.url, "event", ["e"])
    script = Script({did: hanging})
    with working(database, script):
        wait_for(lambda: hanging.count == 1, 10)
        with database.connect("writer") as connection:
            identities.want(connection, [did])
        script.resolutions.clear()
        hanging.release()
        wait_for(settled(database, [did]), 10)
    assert script.asked == [did, did]


@pytest.mark.parametrize("is_answered", [True, False])
def test_an_event_during_a_long_attempt_is_served_soon_after_it(database: Database, is_answered: bool) -> None:
    """The worker looks into the queues while the attempt goes on, and must not take the account in vain."""
    gate = threading.Event()

    def slow(did: str) -> Resolution:
        gate.wait(20)
        return found(did) if is_answered else no_answer(did)

    (did,) = queue_accounts(database.url, "new", ["n"])
    script = Script({did: slow})
    with working(database, script):
        wait_for(lambda: script.asked, 10)
        with database.connect("writer") as connection:
            identities.want(connection, [did])
        time.sleep(2 * backoff.RESOLUTION_POLL_SECONDS + 0.2)
        script.resolutions.clear()
        gate.set()
        wait_for(settled(database, [did]), 5)
    assert script.asked == [did, did]


def test_a_server_left_alone_costs_an_account_neither_its_queue_nor_an_attempt(database: Database) -> None:
    (parked, other) = queue_accounts(database.url, "new", ["p", "o"])
    turned_away = no_answer(parked, "the directory asked to be left alone", retry_after=900, blames_account=False)
    with working(database, Script({parked: lambda did: turned_away})) as worker:
        wait_for(settled(database, [other]), 10)
        wait_for(lambda: worker.counts.turned_away == 1, 10)
    assert states(database.url, [parked]) == [(None, None, "new", 0)]
    wait = "SELECT extract(epoch FROM wanted_at - now()) FROM pipeline.identity WHERE did = %s"
    (seconds,) = rows(database.url, wait, parked)[0]
    assert 880 < seconds < 970 and worker.counts.failed == 0


def test_a_backlog_whose_server_is_left_alone_is_not_turned_over(database: Database) -> None:
    """Taking accounts in vain costs the database as much as others."""
    rows(database.url, "INSERT INTO pipeline.identity (did, queue, wanted_at, asked_at) "
                       "SELECT 'did:plc:b' || n, 'new', now(), now() FROM generate_series(1, 5000) n")  # fmt: skip

    class LeftAlone(Script):
        def resolve(self, did: str, is_repeated: bool = False) -> Resolution:
            self.asked.append(did)
            return found(did) if did == event else no_answer(did, "parked", retry_after=60, blames_account=False)

    event = did_of("e")
    script = LeftAlone()
    with working(database, script):
        time.sleep(2.0)
        assert 100 < len(script.asked) < 1_000
        began = time.monotonic()
        wait_for(settled(database, queue_accounts(database.url, "event", ["e"])), 5)
        assert time.monotonic() - began < 2.0


def test_the_hosting_status_is_stored_and_asked_for_until_it_is_known(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "resolution", lambda attempts: 0.05)
    (known, silent) = queue_accounts(database.url, "event", ["k", "s"], status=True)
    rows(database.url, "INSERT INTO pipeline.repo (did, rev, active, status) SELECT did, '3aaaaaaaaaa2a', false, "
                       "'deactivated' FROM pipeline.identity")  # fmt: skip
    script = Script(
        statuses={known: PdsStatus(known, "deactivated", is_final=True), silent: PdsStatus(silent, None, "no answer")}
    )
    with working(database, script) as worker:
        wait_for(settled(database, [known, silent]), 20)
    assert rows(database.url, "SELECT pds_status FROM pipeline.repo WHERE did = %s", known) == [("deactivated",)]
    assert worker.counts.statuses == 1
    assert script.asked.count(silent) == backoff.HOSTING_STATUS_TRIES + 1, "then the relay's word stands"


def test_a_database_that_goes_away_is_waited_for(database: Database) -> None:
    said: list[str | None] = []
    hanging = Hanging()
    dids = queue_accounts(database.url, "new", names("d", 40))
    script = Script({dids[0]: hanging})
    with working(database, script) as worker:
        worker.trouble = said.append
        wait_for(settled(database, dids[1:]), 20)
        worker.database = Away()  # type: ignore[assignment]
        wait_for(lambda: said, 10)
        hanging.release()  # its answer comes meanwhile, and waits
        time.sleep(0.5)
        worker.database = database
        wait_for(lambda: states(database.url, dids[:1]) == [(None, None, "retry", 1)], 20)
        wait_for(lambda: said[-1] is None, 10)
    assert said[0] is not None and "gone" in said[0] and len(said) == 2


class Away:
    """A database whose server is gone."""

    def connect(self, role: str) -> object:
        raise Transient("the server is gone")


def test_what_postgresql_refuses_is_a_failed_attempt_of_one_account(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = queue_accounts(database.url, "new", ["g", "b"])
    save = identities.save

    def refusing(connection: object, found: list[identities.Settled], **options: float) -> None:
        if any(it.did == bad for it in found):
            raise RefusedData("value out of range")
        save(connection, found, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(identities, "save", refusing)
    with working(database, Script()):
        wait_for(settled(database, [good]), 10)
        wait_for(lambda: states(database.url, [bad]) == [(None, None, "retry", 1)], 10)
    (error,) = rows(database.url, "SELECT error FROM pipeline.identity WHERE did = %s", bad)[0]
    assert error == "what was found can't be stored: value out of range"


def test_a_worker_of_another_queue_leaves_the_others_alone(database: Database) -> None:
    refreshed, new = queue_accounts(database.url, "refresh", ["r"]), queue_accounts(database.url, "new", ["n"])
    with working(database, Script(), refresh_limits(Settings())):
        wait_for(settled(database, refreshed), 10)
    assert states(database.url, new) == [(None, None, "new", 0)]


def test_an_idle_worker_asks_the_database_little(database: Database) -> None:
    with working(database, Script()) as worker:
        time.sleep(0.3)
        looks = 0
        action = worker.with_database

        def counted(it: Callable[[psycopg2.extensions.connection], object]) -> object:
            nonlocal looks
            looks += 1
            return action(it)

        worker.with_database = counted  # type: ignore[method-assign, assignment]
        time.sleep(2.0)
    assert 2 <= looks <= 6
