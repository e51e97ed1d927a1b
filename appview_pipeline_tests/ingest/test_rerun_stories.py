"""What a rerun keeps, and what it puts right, commit by commit."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from appview_pipeline.ingest.rerun import rerun_collections
from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.support.batches import feed
from appview_pipeline_tests.support.changes import change_of, encode
from appview_pipeline_tests.support.commits import Commit, Op
from appview_pipeline_tests.support.frames import START
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.states import differences, dump

LIKE, POST, REPOST = "app.bsky.feed.like", "app.bsky.feed.post", "app.bsky.feed.repost"


class Story:
    """Commits one after the other, each a batch of its own."""

    def __init__(self, index: Rerun) -> None:
        self.index, self.moment = index, 0
        index.clean()

    def write(self, who: str, path: str, record: dict[str, Any] | None, action: str = "create") -> str:
        self.moment += 1
        at = START + self.moment * 1_000_000
        collection, rkey = path.split("/")
        if record is None:
            op = Op("delete", collection, rkey)
        else:
            record = {"$type": collection, "createdAt": iso(at), **record}
            op = Op(action, collection, rkey, to_text(cid_for_cbor(encode(record))), record)
        commit = Commit(f"did:plc:{who}", tid_from_micros(at), iso(at), (op,))
        feed(self.index.database, [[change_of(commit, self.moment)]])
        return f"at://did:plc:{who}/{path}"

    def subject(self, uri: str, **more: Any) -> dict[str, Any]:
        return {"subject": ref(uri), **more}

    def reply(self, root: str, parent: str) -> dict[str, Any]:
        return {"text": "so?", "reply": {"root": ref(root), "parent": ref(parent)}}


def ref(uri: str) -> dict[str, str]:
    return {"uri": uri, "cid": to_text(cid_for_cbor(uri.encode()))}


@pytest.fixture
def story(rerun_index: Rerun) -> Story:
    return Story(rerun_index)


def notifications(index: Rerun) -> list[Any]:
    return index.rows('SELECT did, "recordUri", reason FROM bsky.notification ORDER BY 1, 2, 3')


def test_a_notification_that_a_muted_thread_suppressed_is_not_made_up_for(story: Story) -> None:
    index = story.index
    post = story.write("alice", f"{POST}/a", {"text": "hello"})
    index.run(f"INSERT INTO bsky.thread_mute VALUES ('{post}', 'did:plc:alice', 'now')")
    story.write("bob", f"{LIKE}/a", story.subject(post))
    story.write("bob", f"{POST}/b", story.reply(post, post))
    index.run("DELETE FROM bsky.thread_mute")
    assert (index.rerun().changed, notifications(index)) == ({}, [])
    # A record that is written again notifies.
    story.write("bob", f"{LIKE}/a", None)
    liked = story.write("bob", f"{LIKE}/a", story.subject(post))
    assert (index.rerun().changed, notifications(index)) == ({}, [("did:plc:alice", liked, "like")])


def test_an_edited_like_keeps_its_recipient(story: Story) -> None:
    index = story.index
    first = story.write("alice", f"{POST}/a", {"text": "one"})
    second = story.write("carol", f"{POST}/a", {"text": "two"})
    liked = story.write("bob", f"{LIKE}/a", story.subject(first))
    story.write("bob", f"{LIKE}/a", story.subject(second), "update")
    assert (index.rerun().changed, notifications(index)) == ({}, [("did:plc:alice", liked, "like")])


def test_a_promoted_duplicate_notifies_nobody_else(story: Story) -> None:
    index = story.index
    post = story.write("alice", f"{POST}/a", {"text": "one"})
    repost = story.write("carol", f"{REPOST}/a", story.subject(post))
    story.write("bob", f"{LIKE}/a", story.subject(post))
    promoted = story.write("bob", f"{LIKE}/b", story.subject(post, via=ref(repost)))
    story.write("bob", f"{LIKE}/a", None)
    before = notifications(index)
    assert ("did:plc:alice", promoted, "like") in before and (
        "did:plc:carol",
        promoted,
        "like-via-repost",
    ) not in before
    assert (index.rerun().changed, notifications(index)) == ({}, before)


def test_a_late_first_like_takes_the_notification_along(story: Story) -> None:
    index = story.index
    post = story.write("alice", f"{POST}/a", {"text": "one"})
    story.moment = 10
    story.write("bob", f"{LIKE}/b", story.subject(post))
    (number,) = index.rows("SELECT id FROM bsky.notification")
    story.moment = 5
    first = story.write("bob", f"{LIKE}/a", story.subject(post))
    assert notifications(index) == [("did:plc:alice", first, "like")]
    assert index.rows("SELECT id FROM bsky.notification") == [number]
    assert index.rerun().changed == {}


@pytest.mark.parametrize("seen", ["all", "the first", "the live one"])
def test_the_first_of_several_is_the_live_one_again(story: Story, seen: str) -> None:
    index = story.index
    post = story.write("alice", f"{POST}/a", {"text": "one"})
    first, second, third = (story.write("bob", f"{LIKE}/{rkey}", story.subject(post)) for rkey in "cab")
    want = dump(index.connection)
    index.run(
        f'UPDATE bsky."like" SET (uri, cid, "createdAt", "indexedAt") = '
        f'(SELECT uri, cid, "indexedAt", "indexedAt" FROM bsky.record WHERE uri = \'{second}\')',
        f'UPDATE bsky.duplicate_record SET (uri, cid, "indexedAt") = '
        f"(SELECT uri, cid, \"indexedAt\" FROM bsky.record WHERE uri = '{first}') WHERE uri = '{second}'",
        f"UPDATE bsky.duplicate_record SET \"duplicateOf\" = '{second}'",
    )
    span: dict[str, Any] = {}
    if seen != "all":
        only = first if seen == "the first" else second
        index.run(f"UPDATE bsky.record SET \"appliedAt\" = '2026-06-01T12:00:00Z' WHERE uri = '{only}'")
        span = {"until": datetime(2026, 7, 1, tzinfo=timezone.utc)}
    assert "like" in index.rerun(chunk=1, **span).changed
    index.rerun(chunk=1)
    assert differences(dump(index.connection), want) == []
    assert index.rows('SELECT "duplicateOf" FROM bsky.duplicate_record WHERE uri = %s', third) == [first]
    assert index.rerun().changed == {}


@pytest.mark.parametrize("chunk", [1, 100])
def test_below_a_wrongly_evaluated_post_everything_is_evaluated_again(story: Story, chunk: int) -> None:
    index = story.index
    root = story.write("zoe", f"{POST}/a", {"text": "one"})
    parent = story.write("yan", f"{POST}/a", story.reply(root, root))
    child = story.write("bob", f"{POST}/a", story.reply(root, parent))
    story.write("amy", f"{POST}/a", story.reply(root, child))
    want = dump(index.connection)
    for wrong in (root, parent):
        index.run(f"UPDATE bsky.post SET \"invalidReplyRoot\" = true WHERE uri = '{wrong}'")
        assert index.rerun(chunk=chunk).changed.keys() == {"post"}
        assert differences(dump(index.connection), want) == []
    # What the mark did to others while it was there is undone too.
    index.run(f'UPDATE bsky.post SET "invalidReplyRoot" = true, "violatesThreadGate" = false WHERE uri <> \'{root}\'')
    rerun_collections(index.database, [POST], chunk=1)
    assert differences(dump(index.connection), want) == []
