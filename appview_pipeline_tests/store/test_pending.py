"""Single records that are missing: what is waited for, what is fetched, and when that ends."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from appview_pipeline.store.database import Database
from appview_pipeline.store.pending import (
    ON_DEMAND,
    Miss,
    Missing,
    PendingState,
    missed,
    pending_state,
    postpone,
    take_missing,
)
from appview_pipeline.store.sweeps import sweep_to_its_end
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.batches import changes_of, feed, index, writer_for
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, post
from appview_pipeline_tests.support.keys import save_key
from appview_pipeline_tests.support.records import strong_ref
from appview_pipeline_tests.support.tables import one, rows

POST, LIST = "app.bsky.feed.post", "app.bsky.graph.list"


@pytest.fixture
def people() -> tuple[Person, Person]:
    """One who writes, and one whose records are missing."""
    stream = Stream()
    return Person(stream, "ann"), Person(stream, "bob")


def pending(database: Database) -> set[tuple[str, str, str]]:
    """Of what waits: record key, kind, and the missing record without its account."""
    found = rows(database.url, "SELECT uri, kind, missing FROM pipeline.pending")
    return {(uri.rpartition("/")[2], kind, missing.split("/", 3)[3]) for uri, kind, missing in found}


def fetched(database: Database) -> set[str]:
    """The record keys of those whose missing record is fetched."""
    found = rows(database.url, "SELECT uri FROM pipeline.pending WHERE not_before <= now() AND expires_at > now()")
    return {uri.rpartition("/")[2] for (uri,) in found}


def take(database: Database, limit: int = 100, seconds: float = 60.0) -> list[Missing]:
    with database.connect("writer") as connection:
        return take_missing(connection, limit, seconds)


def miss(database: Database, *failures: Miss) -> None:
    with database.connect("writer") as connection:
        missed(connection, failures)


def state(database: Database) -> PendingState:
    with database.connect("reader") as connection:
        return pending_state(connection)


def later(database: Database, interval: str = "1 hour") -> None:
    """Lets time pass."""
    rows(
        database.url,
        "UPDATE pipeline.pending SET since = since - %s::interval, not_before = not_before - %s::interval, "
        "expires_at = expires_at - %s::interval",
        *(interval,) * 3,
    )


def reply(rkey: str, parent: str, root: str | None = None) -> Write:
    return post(rkey, "so?", reply={"root": strong_ref(root or parent), "parent": strong_ref(parent)})


def quote(rkey: str, uri: str) -> Write:
    return post(rkey, "see", embed={"$type": "app.bsky.embed.record", "record": strong_ref(uri)})


def repost(rkey: str, uri: str) -> Write:
    return create(f"app.bsky.feed.repost/{rkey}", {"subject": strong_ref(uri), "createdAt": WHEN})


# ---- what is waited for


def test_every_kind(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    gate_rules = [{"$type": "app.bsky.feed.threadgate#listRule", "list": bob.uri(f"{LIST}/{name}")} for name in "xy"]
    media = {"$type": "app.bsky.embed.external", "external": {"uri": "https://x.test", "title": "", "description": ""}}
    both = {"$type": "app.bsky.embed.recordWithMedia", "media": media}
    index(
        database,
        ann.commit(
            reply("reply", bob.uri(f"{POST}/parent"), bob.uri(f"{POST}/root")),
            reply("answer", bob.uri(f"{POST}/root")),
            quote("quote", bob.uri(f"{POST}/quoted")),
            post("both", "x", embed={**both, "record": {"record": strong_ref(bob.uri(f"{POST}/quoted"))}}),
            quote("feed", bob.uri("app.bsky.feed.generator/a")),
            quote("pack", bob.uri("app.bsky.graph.starterpack/a")),
            quote("labeler", bob.uri("app.bsky.labeler.service/self")),
            quote("list", bob.uri(f"{LIST}/a")),
            repost("repost", bob.uri(f"{POST}/a")),
            create("app.bsky.feed.like/like", {"subject": strong_ref(bob.uri(f"{POST}/liked")), "createdAt": WHEN}),
            create(f"{LIST}item/item", {"list": ann.uri(f"{LIST}/a"), "subject": bob.did, "createdAt": WHEN}),
            create(f"{LIST}block/block", {"subject": bob.uri(f"{LIST}/a"), "createdAt": WHEN}),
            post("gated", "x"),
            create(
                "app.bsky.feed.threadgate/gated",
                {"post": ann.uri(f"{POST}/gated"), "allow": gate_rules, "createdAt": WHEN},
            ),
            create("app.bsky.graph.starterpack/s", {"name": "s", "list": bob.uri(f"{LIST}/s"), "createdAt": WHEN}),
        ),
    )
    assert pending(database) == {
        ("reply", "reply", f"{POST}/parent"),
        ("reply", "root", f"{POST}/root"),
        ("answer", "reply", f"{POST}/root"),
        ("quote", "quote", f"{POST}/quoted"),
        ("both", "quote", f"{POST}/quoted"),
        ("feed", "embed", "app.bsky.feed.generator/a"),
        ("pack", "embed", "app.bsky.graph.starterpack/a"),
        ("labeler", "embed", "app.bsky.labeler.service/self"),
        ("list", "embed", f"{LIST}/a"),
        ("repost", "subject", f"{POST}/a"),
        ("item", "list", f"{LIST}/a"),
        ("block", "list", f"{LIST}/a"),
        ("gated", "list", f"{LIST}/x"),
        ("gated", "list", f"{LIST}/y"),
        ("s", "list", f"{LIST}/s"),
    }
    found = {it.uri: it for it in take(database)}
    assert found[bob.uri(f"{POST}/root")] == Missing(
        bob.uri(f"{POST}/root"), frozenset(("reply", "root")), waiting=2, attempts=0
    )
    assert found[bob.uri(f"{POST}/quoted")].waiting == 2
    assert take(database) == [], "they are somebody's now"
    later(database)
    assert {it.uri for it in take(database)} == found.keys()


def test_what_is_there_or_was_deleted_is_not_waited_for(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    index(database, bob.commit(post("there", "x"), post("gone", "x")), bob.commit(delete(f"{POST}/gone")))
    index(
        database,
        bob.commit(post("meanwhile", "x")),
        ann.commit(
            *(repost(rkey, bob.uri(f"{POST}/{rkey}")) for rkey in ("there", "gone", "meanwhile")),
            quote("q", bob.uri(f"{POST}/gone")),
            reply("r", bob.uri(f"{POST}/there"), bob.uri(f"{POST}/gone")),
        ),
    )
    assert pending(database) == set()


@pytest.mark.parametrize(
    "uri",
    [
        "at://did:plc:short/app.bsky.feed.post/a",
        "at://did:key:zabc/app.bsky.feed.post/a",
        "at://did:web:x.test/app.bsky.feed.post/" + "a" * 700,
    ],
)
def test_only_what_can_be_asked_for(database: Database, people: tuple[Person, Person], uri: str) -> None:
    ann, _ = people
    index(database, ann.commit(quote("q", uri), repost("r", uri), reply("a", uri)))
    assert {kind for _, kind, _ in pending(database)} <= {"reply"}
    assert fetched(database) == set() and take(database) == []


def test_the_parent_of_a_reply_may_be_no_record_that_is_indexed(
    database: Database, people: tuple[Person, Person]
) -> None:
    ann, bob = people
    index(database, ann.commit(reply("a", bob.uri("com.example.blog/a"))))
    assert {kind for _, kind, _ in pending(database)} == {"reply"} and fetched(database) == set()


def test_excluded_accounts(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    index(database, ann.commit(repost("before", bob.uri(f"{POST}/a")), reply("early", bob.uri(f"{POST}/a"))))
    assert one(database.url, "SELECT pipeline.forbid_data_collection(%s)", bob.did)
    index(database, ann.commit(repost("after", bob.uri(f"{POST}/b")), reply("late", bob.uri(f"{POST}/b"))))
    assert {rkey for rkey, *_ in pending(database)} == {"before", "early", "late"}
    assert fetched(database) == {"before", "early"}
    assert take(database) == [] and fetched(database) == set()


def test_quiet_records_ask_for_nothing(database: Database, people: tuple[Person, Person]) -> None:
    """A reply keeps its row: its evaluation waits for the parent."""
    ann, bob = people
    (change,) = changes_of(ann.commit(repost("r", bob.uri(f"{POST}/a")), reply("a", bob.uri(f"{POST}/a"))))
    change.writes = [it._replace(is_quiet=True) for it in change.writes]
    feed(database, [[change]])
    assert pending(database) == {("a", "reply", f"{POST}/a")}
    assert fetched(database) == set()
    index(database, ann.commit(reply("live", bob.uri(f"{POST}/a"))))
    assert fetched(database) == {"live"}


def test_a_thread_is_fetched_up_to_its_root(database: Database, people: tuple[Person, Person]) -> None:
    """Record by record: the parent of one that was fetched is fetched in turn."""
    ann, bob = people
    (change,) = changes_of(
        ann.commit(reply("a", bob.uri(f"{POST}/above"), bob.uri(f"{POST}/root")), quote("q", bob.uri(f"{POST}/quoted")))
    )
    change.writes = [it._replace(is_quiet=True) for it in change.writes]
    writer_for(database, source=ON_DEMAND).write([change], 0.0)
    assert [it.uri for it in take(database)] == [bob.uri(f"{POST}/above")]


PDS = "https://pds.test"


def test_the_profile_of_an_account_that_is_met(database: Database, people: tuple[Person, Person]) -> None:
    """Resolution asks for it: by then the PDS is known. It may be older than the index."""
    ann, bob = people
    ann.commit(create("app.bsky.actor.profile/self", {"displayName": "Ann"}))
    index(
        database, ann.commit(post("a", "x")), bob.commit(create("app.bsky.actor.profile/self", {"displayName": "Bob"}))
    )
    assert pending(database) == set(), "the stream does not pay for it"
    for person in people:
        save_key(database, person.did, None, PDS)
    assert rows(database.url, "SELECT uri, kind, missing FROM pipeline.pending") == [
        (ann.uri("app.bsky.actor.profile/self"), "profile", ann.uri("app.bsky.actor.profile/self"))
    ]
    assert [it.uri for it in take(database)] == [ann.uri("app.bsky.actor.profile/self")]
    rows(database.url, "DELETE FROM pipeline.pending")
    save_key(database, ann.did, None, PDS)
    assert pending(database) == set(), "a refresh does not ask again"


@pytest.mark.parametrize(
    "why",
    [
        "UPDATE pipeline.repo SET sync_state = 'synchronized'",
        "UPDATE pipeline.repo SET active = false, status = 'takendown'",
        "INSERT INTO pipeline.tombstone (uri, rev, collection) "
        "SELECT pipeline.profile_of(did), 'zz', 'app.bsky.actor.profile' FROM pipeline.repo",
    ],
    ids=["all is here", "not active", "deleted"],
)
def test_there_is_no_profile_to_fetch(database: Database, people: tuple[Person, Person], why: str) -> None:
    ann, _ = people
    ann.commit(post("before", "x"))
    index(database, ann.commit(post("a", "x")))
    rows(database.url, why)
    save_key(database, ann.did, None, PDS)
    assert pending(database) == set()


# ---- how much of it


def test_no_account_makes_us_fetch_more_than_a_hundred_records_a_day(
    database: Database, people: tuple[Person, Person]
) -> None:
    ann, bob = people
    flood = [repost(f"r{number}", bob.uri(f"{POST}/r{number}")) for number in range(70)]
    more = [reply(f"a{number}", bob.uri(f"{POST}/a{number}")) for number in range(70)]
    index(database, ann.commit(*flood))
    index(database, ann.commit(*more))
    index(database, ann.commit(repost("one", bob.uri(f"{POST}/one"))))
    assert len(fetched(database)) == 100
    assert len(pending(database)) == 140, "replies are evaluated when the parent arrives, fetched or not"
    # What was tried in vain counts as well.
    taken = take(database, 200)
    assert len(taken) == 100
    miss(database, *(Miss(it.uri, "there is no such record", 1.0, True) for it in taken))
    index(database, ann.commit(repost("two", bob.uri(f"{POST}/two"))))
    assert len(pending(database)) == 140
    index(database, bob.commit(repost("three", ann.uri(f"{POST}/three"))))
    assert fetched(database) == {"three"}, "others are not held up by it"
    later(database, "25 hours")
    index(database, ann.commit(repost("tomorrow", bob.uri(f"{POST}/tomorrow"))))
    assert fetched(database) == {"tomorrow"}


# ---- how it ends


def test_what_has_arrived_is_not_fetched(database: Database, people: tuple[Person, Person]) -> None:
    """Only the evaluation removes the row of a reply."""
    ann, bob = people
    parent = bob.commit(post("a", "x"))
    index(
        database,
        ann.commit(repost("repost", bob.uri(f"{POST}/a")), reply("reply", bob.uri(f"{POST}/a"))),
        ann.commit(repost("other", bob.uri(f"{POST}/b"))),
    )
    assert fetched(database) == {"repost", "reply", "other"}
    index(database, parent)
    assert {rkey for rkey, *_ in pending(database)} == {"repost", "other"}
    assert [it.uri for it in take(database)] == [bob.uri(f"{POST}/b")]
    assert {rkey for rkey, *_ in pending(database)} == {"other"}


def test_what_nobody_shows_any_more_is_not_fetched(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    index(database, ann.commit(repost("r", bob.uri(f"{POST}/a")), quote("q", bob.uri(f"{POST}/a"))))
    index(database, ann.commit(delete("app.bsky.feed.repost/r")))
    assert [(it.uri, it.kinds) for it in take(database)] == [(bob.uri(f"{POST}/a"), frozenset(("quote",)))]
    assert pending(database) == {("q", "quote", f"{POST}/a")}


def test_a_missing_record_that_is_deleted(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    index(database, ann.commit(repost("r", bob.uri(f"{POST}/a"))))
    bob.commit(post("a", "never seen"))
    index(database, bob.commit(delete(f"{POST}/a")))
    assert take(database) == [] and fetched(database) == set()


def test_three_attempts(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    parent = bob.commit(post("a", "late"))
    uri = bob.uri(f"{POST}/a")
    index(database, ann.commit(reply("r", uri), repost("r", uri)))
    for attempt in range(3):
        assert [(it.uri, it.attempts) for it in take(database)] == [(uri, attempt)]
        miss(database, Miss(uri, f"failure {attempt}", 600.0, False))
        assert take(database) == [], "not yet"
        later(database)
    assert rows(database.url, "SELECT DISTINCT attempts, error, not_before FROM pipeline.pending") == [
        (3, "failure 2", None)
    ]
    index(database, ann.commit(quote("q", uri)))
    assert take(database) == [], "and nobody else asks for it so soon"
    index(database, parent)
    assert ("r", "reply", f"{POST}/a") not in pending(database), "a late arrival is evaluated all the same"
    assert one(database.url, 'SELECT "invalidReplyRoot" FROM bsky.post WHERE uri = %s', ann.uri(f"{POST}/r")) is None


def test_a_final_failure_ends_it_at_once(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    index(database, ann.commit(reply("a", bob.uri(f"{POST}/a")), reply("b", bob.uri(f"{POST}/b"))))
    take(database)
    miss(database, Miss(bob.uri(f"{POST}/a"), "no\0ne", 0.0, True), Miss(bob.uri(f"{POST}/b"), "away", 0.0, False))
    assert [it.uri for it in take(database)] == [bob.uri(f"{POST}/b")]
    assert len(pending(database)) == 2
    assert state(database).given_up == 1


def test_what_has_arrived_is_no_failure(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    uri = bob.uri(f"{POST}/a")
    parent = bob.commit(post("a", "x"))
    index(database, ann.commit(repost("r", uri), quote("q", uri)))
    take(database)
    index(database, parent)
    miss(database, Miss(uri, "it was fetched, and is not stored", 600.0, False))
    assert pending(database) == set()


def test_postponing_is_no_attempt(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    uri = bob.uri(f"{POST}/a")
    index(database, ann.commit(repost("r", uri)))
    take(database, seconds=10_000.0)
    with database.connect("writer") as connection:
        postpone(connection, [uri], 60.0)
    assert take(database) == []
    later(database)
    assert [(it.uri, it.attempts) for it in take(database)] == [(uri, 0)]


def test_after_a_day_only_fetching_ends(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    parent = bob.commit(post("a", "late"))
    index(database, ann.commit(reply("r", bob.uri(f"{POST}/a")), repost("r", bob.uri(f"{POST}/b"))))
    later(database, "25 hours")
    assert take(database) == [] and len(pending(database)) == 2
    now = datetime.now(timezone.utc)
    with database.connect("maintenance") as connection:
        assert sweep_to_its_end(connection, "pending", now - timedelta(days=3)) == 0
        assert sweep_to_its_end(connection, "pending", now) == 1
    assert pending(database) == {("r", "reply", f"{POST}/a")}
    index(database, parent)
    assert pending(database) == set()


def test_those_that_waited_longest_first(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    for number in range(4):
        index(database, ann.commit(repost(f"r{number}", bob.uri(f"{POST}/{number}"))))
    assert [it.uri[-1] for _ in range(3) for it in take(database, 2)] == ["0", "1", "2", "3"]


def test_the_state(database: Database, people: tuple[Person, Person]) -> None:
    ann, bob = people
    assert state(database) == PendingState(0, 0, None, 0, {})
    index(database, ann.commit(reply("a", bob.uri(f"{POST}/a")), *(repost(it, bob.uri(f"{POST}/{it}")) for it in "ab")))
    take(database)
    miss(database, Miss(bob.uri(f"{POST}/b"), "gone", 1.0, True))
    found = state(database)
    assert (found.open, found.due, found.given_up, found.by_kind) == (2, 0, 1, {"reply": 1, "subject": 1})
    later(database)
    found = state(database)
    assert found.due == 2 and found.oldest_seconds is not None and 3_000 < found.oldest_seconds < 3_600


def test_a_row_that_a_writer_holds_is_skipped(database: Database, people: tuple[Person, Person]) -> None:
    """Neither waits for the other."""
    ann, bob = people
    index(database, ann.commit(*(repost(it, bob.uri(f"{POST}/{it}")) for it in "ab")))
    with database.connect("writer") as holder, holder.cursor() as cursor:
        cursor.execute("SELECT FROM pipeline.pending WHERE missing LIKE %s FOR UPDATE", ("%/a",))
        assert [it.uri[-1] for it in take(database)] == ["b"]
        miss(database, Miss(bob.uri(f"{POST}/a"), "", 1.0, True))
        holder.rollback()
    assert [it.uri[-1] for it in take(database)] == ["a"]


def test_what_is_due_is_found_by_an_index(database: Database) -> None:
    rows(
        database.url,
        "INSERT INTO pipeline.pending (uri, kind, missing, not_before) "
        "SELECT 'at://did:plc:x' || i %% 500 || '/c/' || i, 'reply', 'at://did:plc:y/c/' || i, "
        "CASE WHEN i %% 100 = 0 THEN now() END FROM generate_series(1, %s) i",
        20_000,
    )
    rows(database.url, "ANALYZE pipeline.pending")
    due = "SELECT FROM pipeline.pending WHERE not_before <= now() ORDER BY not_before LIMIT 10"
    assert "pending_not_before_idx" in str(rows(database.url, f"EXPLAIN {due}"))
    of_account = "SELECT FROM pipeline.pending WHERE split_part(uri, '/', 3) = 'did:plc:x1' AND expires_at > now()"
    assert "pending_account_idx" in str(rows(database.url, f"EXPLAIN {of_account}"))
