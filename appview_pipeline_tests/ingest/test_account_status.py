"""The status of an account, whatever upstream sends, and whatever contradicts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from appview_pipeline import backoff
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.settings import Settings
from appview_pipeline.store.accounts import PdsStatus, save_statuses
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import START, Person, Stream, post
from appview_pipeline_tests.support.replays import Replay
from appview_pipeline_tests.support.tables import one, rows

LATER = iso(START + 3_600_000_000)
"""A time after all commits of these tests."""
SEEN = 'SELECT "upstreamStatus" FROM bsky.actor'


@pytest.mark.parametrize("status", ["deactivated", "suspended", "takendown", "deleted"])
def test_a_status_that_readers_know_is_kept(replay: Replay, status: str) -> None:
    ann = Person(Stream(), "ann")
    database = replay(ann.commit(post("a", "x")), ann.stream.account(ann.did, active=False, status=status))
    assert one(database.url, SEEN) == status


@pytest.mark.parametrize(
    "status", ["throttled", "desynchronized", "", "Suspended", "suspended ", "x" * 5_000, "\0", None, 5]
)
@pytest.mark.parametrize("is_known", [True, False], ids=["seen before", "seen after"])
def test_no_other_status_reaches_readers(replay: Replay, status: Any, is_known: bool) -> None:
    """Whether the account is known before or not; active again, it has none."""
    stream = Stream()
    ann = Person(stream, "ann")
    account = stream.frame("#account", {"did": ann.did, "active": False, "status": status, "time": LATER})
    frames = [ann.commit(post("a", "x")), account] if is_known else [account, ann.commit(post("a", "x"))]
    database = replay(*frames, batch_size=1)
    assert one(database.url, SEEN) == "deactivated"
    sent = status.replace("\0", "")[:1_024] if isinstance(status, str) else None
    assert rows(database.url, "SELECT active, status FROM pipeline.repo") == [(False, sent)]
    active = {"did": ann.did, "active": True, "status": "throttled", "time": LATER}
    database = replay(stream.frame("#account", active))
    assert one(database.url, SEEN) is None


@dataclass
class Scene:
    """An account with a post, and what readers see of it."""

    database: Database
    person: Person
    stream: Stream

    @property
    def did(self) -> str:
        return self.person.did

    def seen(self) -> str | None:
        """Its status for readers."""
        status: str | None = one(self.database.url, SEEN)
        return status

    @property
    def doubtful(self) -> bool:
        return bool(one(self.database.url, "SELECT status_doubtful FROM pipeline.repo WHERE did = %s", self.did))

    @property
    def asks(self) -> bool:
        """Whether its PDS is to be asked."""
        found = "SELECT status_wanted FROM pipeline.identity WHERE did = %s AND queue = 'event'"
        return rows(self.database.url, found, self.did) == [(True,)]

    def account(self, active: bool, status: str | None = None, **more: Any) -> None:
        index(self.database, self.stream.account(self.did, active, status, **more))

    def pds_says(self, status: str | None, **more: Any) -> None:
        with self.database.connect("writer") as connection:
            save_statuses(connection, [PdsStatus(self.did, status, **more)])

    def settle(self) -> None:
        """Its resolution leaves the queue."""
        rows(self.database.url, "UPDATE pipeline.identity SET queue = NULL, wanted_at = NULL, status_wanted = false")

    def removals(self) -> list[tuple[Any, ...]]:
        return rows(self.database.url, "SELECT did, reason FROM pipeline.removal")


@pytest.fixture
def scene(database: Database, stream: Stream) -> Scene:
    ann = Person(stream, "ann")
    index(database, ann.commit(post("a", "x")))
    made = Scene(database, ann, stream)
    made.settle()
    return made


# ---- which event counts


def test_of_one_time_the_later_number_counts(scene: Scene) -> None:
    for batches in (1, 2):
        moment = iso(START + batches * 3_600_000_000)
        frames = [
            scene.stream.account(scene.did, True, time=moment, seq=batches * 100 + 5),
            scene.stream.account(scene.did, False, "suspended", time=moment, seq=batches * 100 + 3),
        ]
        if batches == 1:
            index(scene.database, *frames)
        else:
            for frame in frames:
                index(scene.database, frame)
        assert scene.seen() is None
    scene.account(False, "suspended", time=moment, seq=206)
    assert scene.seen() == "suspended"
    scene.account(True, time=moment, seq=206)
    assert scene.seen() == "suspended", "the same event again, with other words"


@pytest.mark.parametrize("together", [True, False])
def test_a_clock_that_is_years_ahead_holds_up_nothing(scene: Scene, together: bool) -> None:
    soon = "2999-01-01T00:00:00.000Z"
    frames = [scene.stream.account(scene.did, False, "suspended", time=soon)]
    frames.append(scene.stream.account(scene.did, True, time=soon))
    if together:
        index(scene.database, *frames)
    else:
        for frame in frames:
            index(scene.database, frame)
    assert scene.seen() is None
    assert one(scene.database.url, "SELECT account_at < now() + interval '1 minute' FROM pipeline.repo")


# ---- what contradicts an event


def test_a_status_is_honoured_at_once_and_confirmed(scene: Scene) -> None:
    scene.account(False, "deactivated")
    assert (scene.seen(), scene.doubtful, scene.asks) == ("deactivated", False, True)
    scene.pds_says("deactivated")
    assert (scene.seen(), scene.doubtful) == ("deactivated", False)


@pytest.mark.parametrize("order", ["before", "after", "one batch"])
@pytest.mark.parametrize("status", ["deactivated", "deleted", "desynchronized", None])
def test_a_newer_commit_contradicts(scene: Scene, order: str, status: str | None) -> None:
    account = scene.stream.account(scene.did, False, status)
    commit = scene.person.commit(post("b", "x"))
    frames = {"before": [[commit], [account]], "after": [[account], [commit]], "one batch": [[account, commit]]}
    for batch in frames[order]:
        scene.settle()
        index(scene.database, *batch)
    assert (scene.seen(), scene.doubtful, scene.asks) == (None, True, True)
    scene.settle()
    index(scene.database, account)
    assert (scene.seen(), scene.asks) == (None, False), "the same event again changes nothing"
    scene.pds_says("deactivated")
    assert (scene.seen(), scene.doubtful) == ("deleted" if status == "deleted" else "deactivated", False)
    index(scene.database, account, commit)
    assert (scene.seen(), scene.asks) == ("deleted" if status == "deleted" else "deactivated", False)


@pytest.mark.parametrize("status", ["takendown", "suspended"])
def test_nothing_contradicts_a_decision(scene: Scene, status: str) -> None:
    scene.account(False, status)
    index(scene.database, scene.person.commit(post("b", "x")))
    assert (scene.seen(), scene.doubtful) == (status, False)
    scene.pds_says("active")
    assert (scene.seen(), scene.doubtful) == (status, False)
    assert one(scene.database.url, "SELECT pds_status FROM pipeline.repo") == "active"
    scene.pds_says("gone")
    assert scene.removals() == []


def test_a_move_to_another_pds_contradicts_for_a_day(scene: Scene) -> None:
    """In a migration the old PDS says, late, that the account is deactivated, or deleted: nothing is lost or hidden."""
    moved = "UPDATE pipeline.identity SET pds = 'https://new.example', pds_changed_at = %s"
    rows(scene.database.url, moved, iso(START + 30_000_000))
    scene.account(False, "deactivated", time=iso(START + 60_000_000))
    scene.account(False, "deleted", time=iso(START + 61_000_000))
    assert (scene.seen(), scene.doubtful, scene.asks) == (None, True, True)
    scene.pds_says("active")
    index(scene.database, scene.person.commit(post("b", "x")))
    assert scene.seen() is None and scene.removals() == []
    assert one(scene.database.url, "SELECT count(*) FROM bsky.post") == 2
    scene.account(True, time=iso(START + 90_000_000))
    assert (scene.seen(), scene.doubtful) == (None, False)
    scene.account(False, "deactivated", time=iso(START + 3 * 86_400_000_000))
    scene.pds_says("deactivated")
    assert scene.seen() == "deactivated"


def test_a_move_that_is_found_out_later_shows_the_account_again(scene: Scene) -> None:
    scene.account(False, "deleted")
    assert scene.seen() == "deleted"
    scene.pds_says("active")
    assert (scene.seen(), scene.doubtful, scene.removals()) == (None, True, [])


def test_what_the_pds_said_after_the_event_contradicts_it(scene: Scene) -> None:
    scene.account(False, "deactivated", time=iso(START + 100_000_000))
    scene.pds_says("active")
    scene.account(False, "deactivated", time=iso(START + 101_000_000))
    assert (scene.seen(), scene.doubtful, scene.asks) == (None, True, True)


def test_without_an_answer_the_relays_word_stands_after_some_tries(scene: Scene) -> None:
    scene.account(False, "deactivated")
    scene.pds_says(None, reason="no answer")
    assert scene.seen() == "deactivated"
    index(scene.database, scene.person.commit(post("b", "x")))
    failed = "UPDATE pipeline.identity SET attempts = %s"
    rows(scene.database.url, failed, backoff.HOSTING_STATUS_TRIES - 1)
    scene.pds_says(None, reason="no answer")
    assert (scene.seen(), scene.doubtful) == (None, True)
    rows(scene.database.url, failed, backoff.HOSTING_STATUS_TRIES)
    scene.pds_says(None, reason="no answer")
    assert (scene.seen(), scene.doubtful) == ("deactivated", False)


# ---- who is removed, who returns


@pytest.mark.parametrize(
    ("relay", "pds", "is_removed"),
    [
        ("deleted", "gone", True),
        ("deleted", "deleted", True),
        ("deleted", "deactivated", False),
        ("deleted", "active", False),
        ("deleted", None, False),
        ("deactivated", "gone", False),
        ("takendown", "gone", False),
        ("takendown", "tombstoned", True),
        ("deactivated", "tombstoned", True),
    ],
)
def test_who_is_removed(scene: Scene, relay: str, pds: str | None, is_removed: bool) -> None:
    scene.account(False, relay)
    scene.pds_says(pds)
    assert scene.removals() == ([(scene.did, "deleted")] if is_removed else [])


def test_an_active_account_is_removed_only_when_its_did_was_given_up(scene: Scene) -> None:
    for status in ("gone", "deleted", "deactivated", None):
        scene.pds_says(status, is_final=True)
        assert (scene.seen(), scene.removals()) == (None, [])
    scene.pds_says("tombstoned")
    assert (scene.seen(), scene.removals()) == ("deleted", [(scene.did, "deleted")])
    scene.account(True)
    assert (scene.seen(), scene.removals(), scene.asks) == (None, [], True)


@pytest.mark.parametrize("opted_out", [False, True])
def test_an_account_whose_return_was_missed_is_found_by_its_commits(scene: Scene, opted_out: bool) -> None:
    """It was deleted and removed; the event that says that it is active is lost, and commits arrive."""
    url, did = scene.database.url, scene.did
    scene.account(False, "deleted")
    scene.pds_says("gone")
    if opted_out:
        rows(url, "SELECT pipeline.forbid_data_collection(%s)", did)
    assert remove_accounts(Settings(database_url=url), scene.database).accounts == 1
    rows(url, "UPDATE pipeline.repo SET pds_asked_at = account_at")
    index(scene.database, scene.person.commit(post("b", "x")))
    assert scene.asks is not opted_out
    assert rows(url, "SELECT did FROM bsky.record") == rows(url, "SELECT did FROM bsky.actor") == []
    scene.pds_says("gone")
    assert scene.removals() == [(did, "deleted")]
    scene.pds_says("active")
    assert (scene.removals(), scene.doubtful) == ([], True)
    index(scene.database, scene.person.commit(post("c", "x")))
    queued = rows(url, "SELECT reason FROM pipeline.backfill_queue")
    if opted_out:
        assert (rows(url, "SELECT uri FROM bsky.post"), queued) == ([], [])
    else:
        assert rows(url, "SELECT uri FROM bsky.post") == [(scene.person.uri("app.bsky.feed.post/c"),)]
        assert (queued, rows(url, 'SELECT "upstreamStatus" FROM bsky.actor')) == ([("returned",)], [(None,)])


def test_answers_about_unknown_accounts_do_nothing(scene: Scene) -> None:
    with scene.database.connect("writer") as connection:
        save_statuses(connection, [])
        save_statuses(connection, [PdsStatus("did:plc:nobody", "gone", is_final=True)])
    assert scene.removals() == []
    assert one(scene.database.url, "SELECT count(*) FROM pipeline.repo") == 1


@pytest.mark.parametrize("status", ["deactivated", "takendown", "deleted"])
def test_what_an_inactive_account_writes_is_there_when_it_returns(scene: Scene, status: str) -> None:
    scene.account(False, status, time=LATER)
    index(scene.database, scene.person.commit(post("b", "x")))
    assert scene.seen() == status
    assert one(scene.database.url, "SELECT count(*) FROM bsky.post") == 2
    scene.account(True, time=iso(START + 2 * 3_600_000_000))
    assert scene.seen() is None
    assert one(scene.database.url, 'SELECT "postsCount" FROM bsky.profile_agg') == 2


def test_an_account_that_is_active_again_is_fetched_at_once(replay: Replay) -> None:
    """Its PDS did not give its repository out, and fetching it was given up for a day; nobody said that it was away."""
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    database = replay(ann.commit(post("a", "x")), ben.commit(post("b", "x")))
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline.backfill_queue (did, reason, not_before, attempts, parked_at) "
            "SELECT did, 'discovered', now() + interval '1 day', 1, now() FROM unnest(%s) AS did",
            ([ann.did, ben.did],),
        )
    waiting = "SELECT did FROM pipeline.backfill_queue WHERE not_before > now() AND parked_at IS NOT NULL ORDER BY did"
    replay(stream.frame("#account", {"did": ann.did, "active": False, "status": "suspended", "time": LATER}))
    assert len(rows(database.url, waiting)) == 2
    much_later = iso(START + 7_200_000_000)
    replay(stream.frame("#account", {"did": ann.did, "active": True, "time": much_later}))
    assert rows(database.url, waiting) == [(ben.did,)]


@pytest.mark.parametrize("missed", [True, False], ids=["a gap of the stream since", "no gap since"])
def test_what_an_account_wrote_in_a_gap_before_it_went_away_is_fetched(replay: Replay, missed: bool) -> None:
    """The list that closes the gap leaves out accounts that are not active: nothing else would show what was missed."""
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    database = replay(ann.commit(post("a", "x")), ben.commit(post("b", "x")))
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO pipeline.cursor (relay, shard, seq) VALUES ('wss://relay.test', '0/1', 9)")
        if missed:
            cursor.execute(
                "INSERT INTO pipeline.gap (kind, relay, shard, from_text, to_text, detected_at, resolved_at) "
                "VALUES ('outdated_cursor', 'wss://relay.test', '0/1', '2', '8', %s, now())",
                (iso(START + 1_800_000_000),),
            )
            cursor.execute("UPDATE pipeline.repo SET sync_at = NULL")
    returned = stream.frame("#account", {"did": ann.did, "active": True, "time": LATER})
    replay(returned)
    queued = rows(database.url, "SELECT did, reason, priority FROM pipeline.backfill_queue WHERE finished_at IS NULL")
    state = one(database.url, "SELECT sync_state FROM pipeline.repo WHERE did = %s", ann.did)
    assert (queued, state) == (([(ann.did, "repository", 2)], "desynchronized") if missed else ([], "synchronized"))
