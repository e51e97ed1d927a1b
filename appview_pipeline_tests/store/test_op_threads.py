"""An author's replies in their own thread: when one that was deleted left its place (bsky.op_thread_reply)."""

from __future__ import annotations

from typing import Any

import pytest

from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import batches_of, changes_of, feed
from appview_pipeline_tests.support.frames import Person, Stream, delete, post, update
from appview_pipeline_tests.support.tables import rows

POST = "app.bsky.feed.post"
CID = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454"


def reply_of(ann: Person) -> dict[str, Any]:
    root = {"uri": ann.uri(f"{POST}/root"), "cid": CID}
    return {"reply": {"root": root, "parent": root}}


@pytest.mark.parametrize("size", [1, 2, 3, 0])
def test_a_deleted_reply_left_when_it_was_deleted(database: Database, stream: Stream, size: int) -> None:
    """Readers let only replies that are newer than the deletion take its place."""
    ann = Person(stream, "ann")
    frames = [
        ann.commit(post("root", "first")),
        ann.commit(post("a", "one", **reply_of(ann))),
        ann.commit(post("b", "two", **reply_of(ann))),
        ann.commit(delete(f"{POST}/a")),
        ann.commit(update(f"{POST}/b", {"text": "moved", "createdAt": "2025-06-15T15:06:40.000Z"})),
        ann.commit(post("c", "three", **reply_of(ann))),
    ]
    feed(database, batches_of(changes_of(*frames), size))
    found = rows(database.url, 'SELECT right(uri, 1), "deletedAt" FROM bsky.op_thread_reply ORDER BY 1')
    assert found == [("a", "2025-06-15T15:06:44.000Z"), ("b", "2025-06-15T15:06:45.000Z"), ("c", None)]


@pytest.mark.parametrize("size", [1, 2, 3, 0])
def test_a_reply_that_moved_before_it_was_deleted_left_when_it_moved(
    database: Database, stream: Stream, size: int
) -> None:
    """Also where both come in one batch. One that moved back left when it was deleted."""
    ann = Person(stream, "ann")
    moved = {"text": "moved", "createdAt": "2025-06-15T15:06:40.000Z"}
    frames = [
        ann.commit(post("root", "first")),
        ann.commit(post("a", "one", **reply_of(ann)), post("b", "two", **reply_of(ann))),
        ann.commit(update(f"{POST}/a", moved), update(f"{POST}/b", moved)),
        ann.commit(update(f"{POST}/b", {**moved, **reply_of(ann)})),
        ann.commit(delete(f"{POST}/a"), delete(f"{POST}/b")),
    ]
    for part in (frames[:2], frames[2:]):
        feed(database, batches_of(changes_of(*part), size))
    found = rows(database.url, 'SELECT right(uri, 1), "deletedAt" FROM bsky.op_thread_reply ORDER BY 1')
    assert found == [("a", "2025-06-15T15:06:43.000Z"), ("b", "2025-06-15T15:06:45.000Z")]


@pytest.mark.parametrize("size", [1, 2, 0])
def test_a_reply_that_was_edited_before_it_was_deleted_has_its_last_parent(
    database: Database, stream: Stream, size: int
) -> None:
    ann = Person(stream, "ann")
    root, other = reply_of(ann)["reply"]["root"], {"uri": ann.uri(f"{POST}/b"), "cid": CID}
    edited = {"text": "one", "reply": {"root": root, "parent": other}, "createdAt": "2025-06-15T15:06:40.000Z"}
    frames = [
        ann.commit(post("root", "first")),
        ann.commit(post("a", "one", **reply_of(ann))),
        ann.commit(update(f"{POST}/a", edited)),
        ann.commit(delete(f"{POST}/a")),
    ]
    for part in (frames[:2], frames[2:]):
        feed(database, batches_of(changes_of(*part), size))
    found = rows(database.url, 'SELECT "parentUri", "deletedAt" FROM bsky.op_thread_reply')
    assert found == [(other["uri"], "2025-06-15T15:06:44.000Z")]


def test_a_reply_that_came_and_went_again_left_last_time(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    came, went = ann.commit(post("a", "one", **reply_of(ann))), ann.commit(delete(f"{POST}/a"))
    again = [ann.commit(post("a", "one", **reply_of(ann))), ann.commit(delete(f"{POST}/a"))]
    feed(database, [changes_of(came, went), changes_of(*again)])
    assert rows(database.url, 'SELECT "deletedAt" FROM bsky.op_thread_reply') == [("2025-06-15T15:06:44.000Z",)]


def test_a_reply_that_comes_after_its_deletion_left_at_its_own_time(database: Database, stream: Stream) -> None:
    """The time of the deletion is not kept (docs/differences.md: where the in-order result is not promised)."""
    ann = Person(stream, "ann")
    came, went = ann.commit(post("a", "one", **reply_of(ann))), ann.commit(delete(f"{POST}/a"))
    feed(database, [changes_of(went), changes_of(came)])
    assert rows(database.url, 'SELECT "deletedAt" FROM bsky.op_thread_reply') == [("2025-06-15T15:06:41.000Z",)]
