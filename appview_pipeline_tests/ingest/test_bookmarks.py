"""Bookmarks are counted as long as they are there, whatever becomes of the post."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.ingest.retention import apply_retention
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, delete, post
from appview_pipeline_tests.support.tables import one, rows

POST = "app.bsky.feed.post/a"


def deleted(database: Database, ann: Person) -> None:
    index(database, ann.commit(delete(POST)))


def removed(database: Database, ann: Person) -> None:
    rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", ann.did)
    assert remove_accounts(Settings(database_url=database.url), database).accounts == 1


def too_old(database: Database, ann: Person) -> None:
    assert apply_retention(Settings(database_url=database.url, retention_days=1), database).records.total() == 1


@pytest.mark.parametrize("goes", [deleted, removed, too_old])
def test_a_bookmark_counts_while_its_post_is_gone(
    database: Database, stream: Stream, goes: Callable[[Database, Person], None]
) -> None:
    ann = Person(stream, "ann")
    index(database, ann.commit(post("a", "x")))
    uri = ann.uri(POST)
    rows(database.url, "INSERT INTO bsky.bookmark VALUES ('did:plc:bob', '3kaaaaaaaaa2a', %s, 'bafy', %s)", uri, WHEN)
    rows(database.url, 'INSERT INTO bsky.post_agg (uri, "bookmarkCount") VALUES (%s, 1)', uri)
    goes(database, ann)
    assert rows(database.url, "SELECT uri FROM bsky.post") == []
    assert one(database.url, 'SELECT "bookmarkCount" FROM bsky.post_agg WHERE uri = %s', uri) == 1
    assert recount(database, "post_agg", rewrite=False).differing == 0
    assert one(database.url, "SELECT count(*) FROM bsky.bookmark") == 1
