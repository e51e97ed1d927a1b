"""What an operator has taken down stays down: accounts, records, blobs, whatever comes from the network meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, rerun_collections
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import Person, Stream, delete, post, update
from appview_pipeline_tests.support.tables import one, rows

POST = "app.bsky.feed.post/a"


def again(text: str) -> Any:
    return post("a", text)


def deleted_and_made_again(database: Database, ann: Person) -> None:
    index(database, ann.commit(delete(POST)))
    assert one(database.url, "SELECT count(*) FROM bsky.record WHERE uri = %s", ann.uri(POST)) == 0
    index(database, ann.commit(again("second")))


def in_one_batch(database: Database, ann: Person) -> None:
    index(database, ann.commit(delete(POST)), ann.commit(again("second")))


def edited(database: Database, ann: Person) -> None:
    index(database, ann.commit(update(POST, {"text": "second", "createdAt": "2025-06-15T15:06:40.000Z"})))


def delivered_again(database: Database, ann: Person) -> None:
    frame = ann.commit(update(POST, {"text": "second", "createdAt": "2025-06-15T15:06:40.000Z"}))
    index(database, frame)
    index(database, frame)


def rerun(database: Database, ann: Person) -> None:
    edited(database, ann)
    rows(database.url, "UPDATE bsky.post SET text = 'wrong'")
    assert rerun_collections(database, DERIVED_COLLECTIONS).changed


def removed_and_returned(database: Database, ann: Person) -> None:
    rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", ann.did)
    assert remove_accounts(Settings(database_url=database.url), database).accounts == 1
    assert one(database.url, "SELECT count(*) FROM bsky.record") == 0
    index(database, ann.stream.account(ann.did, active=True))
    index(database, ann.commit(delete(POST), again("second")))
    index(database, ann.commit(delete(POST)))
    index(database, ann.commit(again("second")))


def account_events(database: Database, ann: Person) -> None:
    edited(database, ann)
    index(database, ann.stream.account(ann.did, active=False, status="deactivated"))
    index(database, ann.stream.account(ann.did, active=True))


def identity_refreshed(database: Database, ann: Person) -> None:
    edited(database, ann)
    index(database, ann.stream.frame("#identity", {"did": ann.did, "handle": "ann.example"}))


@pytest.fixture
def ann(database: Database, stream: Stream) -> Person:
    """An account with two posts; it, one post and a blob are taken down."""
    made = Person(stream, "ann")
    index(database, made.commit(post("a", "first"), post("other", "first")))
    rows(database.url, "UPDATE bsky.actor SET \"takedownRef\" = 'ACTOR'")
    rows(database.url, "UPDATE bsky.record SET \"takedownRef\" = 'RECORD' WHERE uri = %s", made.uri(POST))
    rows(database.url, "INSERT INTO bsky.blob_takedown VALUES (%s, 'bafy', 'BLOB')", made.did)
    return made


@pytest.mark.parametrize(
    "happens",
    [
        *(deleted_and_made_again, in_one_batch, edited, delivered_again, rerun, removed_and_returned),
        *(account_events, identity_refreshed),
    ],
)
def test_what_was_taken_down_stays_down(
    database: Database, ann: Person, happens: Callable[[Database, Person], None]
) -> None:
    happens(database, ann)
    record = "SELECT json::jsonb ->> 'text', \"takedownRef\" FROM bsky.record WHERE uri = %s"
    assert rows(database.url, record, ann.uri(POST)) == [("second", "RECORD")]
    assert rows(database.url, 'SELECT "takedownRef" FROM bsky.actor') == [("ACTOR",)]
    assert rows(database.url, 'SELECT did, cid, "takedownRef" FROM bsky.blob_takedown') == [(ann.did, "bafy", "BLOB")]
    assert rows(database.url, "SELECT * FROM pipeline.record_takedown") == []


def test_nothing_else_is_taken_down(database: Database, ann: Person) -> None:
    index(database, ann.commit(delete(POST)))
    assert rows(database.url, "SELECT uri, ref FROM pipeline.record_takedown") == [(ann.uri(POST), "RECORD")]
    index(database, ann.commit(delete("app.bsky.feed.post/other"), post("new", "x")))
    index(database, ann.commit(post("other", "x")))
    assert rows(database.url, 'SELECT DISTINCT "takedownRef" FROM bsky.record') == [(None,)]
    assert one(database.url, "SELECT count(*) FROM pipeline.record_takedown") == 1


def test_what_was_lifted_stays_lifted(database: Database, ann: Person) -> None:
    """While the record is there, its own column counts; while it is not, the row of record_takedown."""
    deleted_and_made_again(database, ann)
    rows(database.url, 'UPDATE bsky.record SET "takedownRef" = NULL')
    deleted_and_made_again(database, ann)
    assert rows(database.url, 'SELECT DISTINCT "takedownRef" FROM bsky.record') == [(None,)]
    rows(database.url, "UPDATE bsky.record SET \"takedownRef\" = 'AGAIN' WHERE uri = %s", ann.uri(POST))
    index(database, ann.commit(delete(POST)))
    rows(database.url, "DELETE FROM pipeline.record_takedown")
    index(database, ann.commit(again("third")))
    assert rows(database.url, 'SELECT DISTINCT "takedownRef" FROM bsky.record') == [(None,)]


def test_a_late_creation_of_a_deleted_record_leaves_the_take_down(database: Database, ann: Person) -> None:
    frames = [ann.commit(delete(POST)), ann.commit(again("second")), ann.commit(delete(POST))]
    index(database, frames[0])
    index(database, frames[2])
    index(database, frames[1])
    assert one(database.url, "SELECT count(*) FROM bsky.record WHERE uri = %s", ann.uri(POST)) == 0
    assert rows(database.url, "SELECT uri, ref FROM pipeline.record_takedown") == [(ann.uri(POST), "RECORD")]
