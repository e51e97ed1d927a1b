"""Every path that writes, and why it stores nothing of an account that has opted out."""

from __future__ import annotations

import time

from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import changes_of, index, writer_for
from appview_pipeline_tests.support.frames import Person, Stream, delete, post
from appview_pipeline_tests.support.tables import one, rows

TEXTS = "SELECT text FROM bsky.post ORDER BY text"


def test_nothing_new_is_stored_until_the_account_allows_it_again(database: Database) -> None:
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    index(database, ann.commit(post("a", "before")))
    assert one(database.url, "SELECT pipeline.forbid_data_collection(%s)", ann.did)
    writer = writer_for(database)
    (report,) = writer.write(changes_of(ann.commit(post("b", "after")), bob.commit(post("c", "bob's"))), time.time())
    assert report.withheld == 1
    assert rows(database.url, TEXTS) == [("before",), ("bob's",)]
    writer.write(changes_of(ann.commit(post("d", "later"), delete("app.bsky.feed.post/a"))), time.time())
    assert rows(database.url, TEXTS) == [("bob's",)]
    assert one(database.url, "SELECT pipeline.allow_data_collection(%s)", ann.did)
    writer.write(changes_of(ann.commit(post("e", "at last"))), time.time())
    assert rows(database.url, TEXTS) == [("at last",), ("bob's",)]
