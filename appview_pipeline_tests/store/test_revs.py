"""An older rev never wins, and the newest state of an account does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, did_of, post, update
from appview_pipeline_tests.support.records import like, ref
from appview_pipeline_tests.support.tables import Fresh, one, record_keys, rows

# ---- revs


def orders(frames: Sequence[bytes]) -> list[list[list[bytes]]]:
    """Ways for frames to arrive: in order or reversed, one by one or at once, and each once more at the end."""
    ways = []
    for sequence in (list(frames), list(reversed(frames))):
        ways += [[[frame] for frame in sequence], [sequence], [[frame] for frame in [*sequence, *frames]]]
    return ways


@pytest.mark.parametrize("way", range(6))
def test_an_older_rev_never_wins(fresh: Fresh, way: int) -> None:
    """Not over an update, and not over a deletion: nothing is resurrected, nothing newer is deleted."""
    stream = Stream()
    ann = Person(stream, "ann")
    frames = [
        ann.commit(post("a", "first"), post("b", "doomed"), post("c", "comes back")),
        ann.commit(update("app.bsky.feed.post/a", {"text": "second", "createdAt": WHEN})),
        ann.commit(delete("app.bsky.feed.post/b"), delete("app.bsky.feed.post/c")),
        ann.commit(post("c", "is back")),
    ]
    with fresh() as database:
        for batch in orders(frames)[way]:
            index(database, *batch)
        assert dict(rows(database.url, "SELECT right(uri, 1), text FROM bsky.post")) == {"a": "second", "c": "is back"}
        assert record_keys(database) == {"a", "c"}
        assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg') == 2
        assert {uri[-1] for (uri,) in rows(database.url, "SELECT uri FROM pipeline.tombstone")} >= {"b"}
        assert one(database.url, 'SELECT "repoRev" FROM bsky.actor_sync') == ann.repository.rev
        assert rows(database.url, "SELECT uri FROM bsky.feed_item WHERE uri LIKE '%%/b'") == []


def test_an_edited_post_keeps_what_others_made_of_it(database: Database, stream: Stream) -> None:
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    uri = ann.uri("app.bsky.feed.post/a")
    quote = {"embed": {"$type": "app.bsky.embed.record", "record": ref(uri)}}
    index(
        database,
        ann.commit(post("a", "before")),
        ben.commit(create("app.bsky.feed.repost/r", {"subject": ref(uri), "createdAt": WHEN})),
        ben.commit(post("q", "look", **quote)),
    )
    index(database, ann.commit(update("app.bsky.feed.post/a", {"text": "after", "createdAt": WHEN})))
    assert one(database.url, "SELECT text FROM bsky.post WHERE uri = %s", uri) == "after"
    assert record_keys(database, "quote") == {"q"} and record_keys(database, "repost") == {"r"}
    assert {(kind, uri[-1]) for kind, uri in rows(database.url, "SELECT type, uri FROM bsky.feed_item")} == {
        ("post", "a"),
        ("post", "q"),
        ("repost", "r"),
    }
    counts = rows(database.url, 'SELECT "quoteCount", "repostCount" FROM bsky.post_agg WHERE uri = %s', uri)
    assert counts == [(1, 1)]


@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_gate_is_flagged_on_its_post_whichever_comes_first(fresh: Fresh, gate_first: bool, at_once: bool) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    uri = ann.uri("app.bsky.feed.post/a")
    frames = [
        ann.commit(post("a", "gated")),
        ann.commit(
            create("app.bsky.feed.threadgate/a", {"post": uri, "createdAt": WHEN}),
            create("app.bsky.feed.postgate/a", {"post": uri, "createdAt": WHEN}),
        ),
    ]
    if gate_first:
        frames.reverse()
    with fresh() as database:
        for batch in [frames] if at_once else [[frame] for frame in frames]:
            index(database, *batch)
        assert rows(database.url, 'SELECT "hasThreadGate", "hasPostGate" FROM bsky.post') == [(True, True)]


def test_an_edited_verification_does_not_notify_that_it_is_gone(database: Database, stream: Stream) -> None:
    ann, record = Person(stream, "ann"), {"subject": did_of("ben"), "handle": "ben.test", "createdAt": WHEN}
    path = "app.bsky.graph.verification/v"
    index(database, ann.commit(create(path, {**record, "displayName": "Ben"})))
    index(database, ann.commit(update(path, {**record, "displayName": "Benjamin"})))
    assert rows(database.url, "SELECT reason FROM bsky.notification") == [("verified",)]
    index(database, ann.commit(delete(path)))
    reasons = rows(database.url, "SELECT reason FROM bsky.notification ORDER BY id")
    assert reasons == [("verified",), ("unverified",)]


def test_a_like_in_a_muted_thread_is_indexed_and_does_not_notify(database: Database, stream: Stream) -> None:
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    uri = ann.uri("app.bsky.feed.post/a")
    rows(database.url, "INSERT INTO bsky.thread_mute VALUES (%s, %s, %s)", uri, ann.did, WHEN)
    index(database, ann.commit(post("a", "noisy")), ben.commit(like("l", uri)))
    assert record_keys(database, "like") == {"l"}
    assert one(database.url, 'SELECT "likeCount" FROM bsky.post_agg') == 1
    assert rows(database.url, "SELECT 1 FROM bsky.notification") == []


# ---- accounts


def upstream(database: Database, person: Person) -> Any:
    return one(database.url, 'SELECT "upstreamStatus" FROM bsky.actor WHERE did = %s', person.did)


@pytest.mark.parametrize("way", range(6))
def test_the_newest_account_event_wins(fresh: Fresh, way: int) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    commit = ann.commit(post("a", "hello"))  # before the events: a newer one would contradict them
    frames = [
        stream.account(ann.did, False, "takendown"),
        stream.account(ann.did, True),
        stream.account(ann.did, False, "deactivated"),
    ]
    with fresh() as database:
        index(database, commit)
        for batch in orders(frames)[way]:
            index(database, *batch)
        assert upstream(database, ann) == "deactivated"
        assert rows(database.url, "SELECT active, status FROM pipeline.repo") == [(False, "deactivated")]


def test_the_status_of_an_account_waits_for_the_account(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(database, stream.account(ann.did, False, "suspended"))
    assert rows(database.url, "SELECT 1 FROM bsky.actor") == []
    index(database, ann.commit(post("a", "hello")))
    assert upstream(database, ann) == "suspended"


def test_an_active_account_has_no_status(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(database, ann.commit(post("a", "hello")), stream.account(ann.did, False, "takendown"))
    assert upstream(database, ann) == "takendown"
    index(database, stream.account(ann.did, True, "throttled"))
    assert upstream(database, ann) is None
