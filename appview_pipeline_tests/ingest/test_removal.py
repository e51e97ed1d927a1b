"""The removal of an account: everything by it goes, and what others have stays right."""

from __future__ import annotations

from appview_pipeline.ingest.removal import RemovalSummary, remove_accounts
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.removal import REMOVAL_REV
from appview_pipeline_tests.support.frames import Person, Stream, create, post
from appview_pipeline_tests.support.replays import Replay
from appview_pipeline_tests.support.tables import one, rows


def request(database: Database, did: str, reason: str = "deleted") -> None:
    rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, %s)", did, reason)


def remove(database: Database, chunk: int | None = None) -> RemovalSummary:
    return remove_accounts(Settings(database_url=database.url), database, chunk=chunk)


def test_python_and_sql_agree_about_the_rev_of_removals(database: Database) -> None:
    assert one(database.url, "SELECT pipeline.removal_rev()") == REMOVAL_REV


def test_a_first_look(replay: Replay) -> None:
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    subject = {
        "uri": bob.uri("app.bsky.feed.post/b"),
        "cid": "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454",
    }
    database = replay(
        bob.commit(post("b", "hello")),
        ann.commit(
            post("a", "hello"),
            create("app.bsky.feed.like/l", {"subject": subject, "createdAt": "2025-06-15T15:06:40.000Z"}),
        ),
    )
    assert one(database.url, 'SELECT "likeCount" FROM bsky.post_agg WHERE uri = %s', subject["uri"]) == 1
    request(database, ann.did)
    summary = remove(database)
    assert summary.records == 2, summary
    assert one(database.url, 'SELECT "likeCount" FROM bsky.post_agg WHERE uri = %s', subject["uri"]) == 0
    assert rows(database.url, "SELECT did FROM bsky.actor") == [(bob.did,)]
    assert rows(database.url, "SELECT * FROM pipeline.version") == []
    assert rows(database.url, "SELECT records, finished_at IS NOT NULL FROM pipeline.removal") == [(2, True)]
