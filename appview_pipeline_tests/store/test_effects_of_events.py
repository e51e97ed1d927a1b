"""What single events do to counters, feeds and notifications, whatever came before them in the batch.

Random networks try all of this in every order (properties/); these say at once which rule is broken.
"""

from __future__ import annotations

from typing import Any

import pytest

from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, post, update
from appview_pipeline_tests.support.records import like, strong_ref
from appview_pipeline_tests.support.tables import one, rows


@pytest.fixture
def ann(stream: Stream) -> Person:
    return Person(stream, "ann")


@pytest.fixture
def ben(stream: Stream) -> Person:
    return Person(stream, "ben")


def reply_to(uri: str) -> dict[str, Any]:
    return {"reply": {"root": strong_ref(uri), "parent": strong_ref(uri)}}


def shut(uri: str) -> Any:
    """A thread gate that admits nobody."""
    return create(f"app.bsky.feed.threadgate/{uri.rpartition('/')[2]}", {"post": uri, "allow": [], "createdAt": WHEN})


def replies_of(database: Database, uri: str) -> int:
    found = rows(database.url, 'SELECT "replyCount" FROM bsky.post_agg WHERE uri = %s', uri)
    return found[0][0] if found else 0


def test_a_like_of_ones_own_post_counts_and_notifies_nobody(database: Database, ann: Person, ben: Person) -> None:
    uri = ann.uri("app.bsky.feed.post/a")
    index(database, ann.commit(post("a", "x")), ann.commit(like("own", uri)))
    assert rows(database.url, "SELECT did FROM bsky.notification") == []
    index(database, ben.commit(like("other", uri)))
    assert rows(database.url, "SELECT did, author, reason FROM bsky.notification") == [(ann.did, ben.did, "like")]
    assert one(database.url, 'SELECT "likeCount" FROM bsky.post_agg') == 2


def test_a_follow_counts_for_both_accounts(database: Database, ann: Person, ben: Person) -> None:
    index(database, ann.commit(create("app.bsky.graph.follow/a", {"subject": ben.did, "createdAt": WHEN})))
    counts = 'SELECT did, "followersCount", "followsCount" FROM bsky.profile_agg'
    assert set(rows(database.url, counts)) == {(ann.did, 0, 1), (ben.did, 1, 0)}


def test_a_reply_that_a_gate_turns_away_is_never_counted(database: Database, ann: Person, ben: Person) -> None:
    uri = ann.uri("app.bsky.feed.post/a")
    index(database, ann.commit(post("a", "x"), shut(uri)), ben.commit(post("b", "x", **reply_to(uri))))
    assert one(database.url, 'SELECT "violatesThreadGate" FROM bsky.post WHERE creator = %s', ben.did) is True
    assert replies_of(database, uri) == 0
    index(database, ben.commit(delete("app.bsky.feed.post/b")))
    assert replies_of(database, uri) == 0


def test_a_thread_gate_is_not_for_the_author_of_the_thread(database: Database, ann: Person) -> None:
    uri = ann.uri("app.bsky.feed.post/a")
    index(database, ann.commit(post("a", "x"), shut(uri)), ann.commit(post("b", "x", **reply_to(uri))))
    assert replies_of(database, uri) == 1


def test_a_gate_that_comes_after_a_reply_turns_it_not_away(database: Database, ann: Person, ben: Person) -> None:
    uri = ann.uri("app.bsky.feed.post/a")
    asked, answered = ann.commit(post("a", "x")), ben.commit(post("b", "x", **reply_to(uri)))
    index(database, asked, ann.commit(shut(uri)), answered)
    assert replies_of(database, uri) == 1


def test_a_later_repost_outlives_the_deletion_of_its_post(database: Database, ann: Person, ben: Person) -> None:
    uri = ann.uri("app.bsky.feed.post/a")

    def reposted(rkey: str) -> bytes:
        return ben.commit(create(f"app.bsky.feed.repost/{rkey}", {"subject": strong_ref(uri), "createdAt": WHEN}))

    written, gone, late = ann.commit(post("a", "x")), ann.commit(delete("app.bsky.feed.post/a")), reposted("late")
    index(database, written, late)
    index(database, gone)
    assert rows(database.url, "SELECT uri FROM bsky.feed_item") == [(ben.uri("app.bsky.feed.repost/late"),)]


def test_in_a_batch_the_newest_rev_counts_whatever_comes_last(database: Database, ann: Person) -> None:
    first = ann.commit(post("a", "first"))
    second = ann.commit(update("app.bsky.feed.post/a", {"text": "second", "createdAt": WHEN}))
    index(database, second, first)
    assert one(database.url, "SELECT text FROM bsky.post") == "second"


def counting(database: Database, table: str = "like") -> list[str]:
    """The record keys of the rows that count, and those of duplicates after them."""
    found = rows(database.url, f'SELECT uri FROM bsky."{table}" ORDER BY uri')
    found += rows(database.url, "SELECT uri FROM bsky.duplicate_record ORDER BY uri")
    return [uri.rpartition("/")[2] for (uri,) in found]


def test_of_two_likes_the_first_counts_until_it_is_deleted(database: Database, ann: Person, ben: Person) -> None:
    uri = ann.uri("app.bsky.feed.post/a")
    for write, expected, count in (
        (like("b", uri), ["b"], 1),
        (like("a", uri), ["b", "a"], 1),
        (delete("app.bsky.feed.like/b"), ["a"], 1),
        (delete("app.bsky.feed.like/a"), [], 0),
    ):
        index(database, ben.commit(write))
        assert counting(database) == expected
        assert one(database.url, 'SELECT "likeCount" FROM bsky.post_agg') == count


def test_an_older_like_that_comes_late_takes_the_place(database: Database, ann: Person, ben: Person) -> None:
    uri = ann.uri("app.bsky.feed.post/a")
    older, newer = ben.commit(like("b", uri)), ben.commit(like("a", uri))
    index(database, newer)
    index(database, older)
    assert counting(database) == ["b", "a"]
    assert one(database.url, 'SELECT "likeCount" FROM bsky.post_agg') == 1


def test_of_two_reposts_in_one_commit_the_first_key_counts(database: Database, ann: Person, ben: Person) -> None:
    record = {"subject": strong_ref(ann.uri("app.bsky.feed.post/a")), "createdAt": WHEN}
    index(database, ben.commit(*(create(f"app.bsky.feed.repost/{rkey}", record) for rkey in ("c", "a", "b"))))
    assert counting(database, "repost") == ["a", "b", "c"]
