"""A rerun of a busy network, beside the live writer too."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg2
import pytest

from appview_pipeline import settings as settings_module
from appview_pipeline.indexing.batch import build_again
from appview_pipeline.indexing.changes import Change
from appview_pipeline.indexing.registry import COLLECTIONS as REGISTERED
from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.ingest import pace as pace_module
from appview_pipeline.ingest import rerun as rerun_module
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.pace import Pace
from appview_pipeline.ingest.rerun import (
    DERIVED_COLLECTIONS,
    RerunSummary,
    compare_once_and_repair,
    rerun_collections,
    wrongly_derived,
)
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import Busy
from appview_pipeline.store.repair import entries, list_work, prepare_repair, repair_records
from appview_pipeline.store.repair_chunk import Chunk
from appview_pipeline_tests.properties.network_builder import NOWHERE
from appview_pipeline_tests.support.background import repeated
from appview_pipeline_tests.support.batches import batches_of, feed, index
from appview_pipeline_tests.support.changes import COLLECTIONS, validators
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, post
from appview_pipeline_tests.support.records import ref
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.states import differences, dump

REASONS = "'like', 'repost', 'follow', 'like-via-repost', 'repost-via-repost', 'mention', 'quote', 'reply'"
NOTIFICATIONS = f"""
    SELECT did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt" FROM bsky.notification n
    WHERE reason IN ({REASONS}) AND NOT EXISTS (SELECT FROM pipeline.kept_notification o WHERE o.uri = n."recordUri")
    ORDER BY 1, 2, 5"""


def test_everything_rerun_leaves_every_row_where_it_is(busy: Rerun) -> None:
    before = busy.digest()
    assert sum(map(len, before.values())) > 1_500
    found = busy.rerun(chunk=100, orphans=None)
    assert found.changed == {} and found.unreadable == []
    assert (
        found.records
        == busy.rows(
            "SELECT count(*) FROM bsky.record WHERE split_part(uri, '/', 4) <> ALL (%s)",
            [nsid for nsid, collection in REGISTERED.items() if not collection.stages],
        )[0]
    )
    assert busy.digest() == before


def test_a_rerun_is_of_its_span_and_collections(busy: Rerun) -> None:
    late = "2026-06-01T12:00:00Z"
    busy.run(
        'CREATE TEMPORARY TABLE IF NOT EXISTS five AS SELECT uri FROM bsky."like" ORDER BY uri LIMIT 5',
        f"UPDATE bsky.record SET \"appliedAt\" = '{late}' WHERE uri IN (SELECT uri FROM five)",
        "UPDATE bsky.\"like\" SET via = 'at://x/y/z'",
        "UPDATE bsky.repost SET via = 'at://x/y/z'",
    )
    hour = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
    likes = "app.bsky.feed.like"
    assert rerun_collections(busy.database, [likes], since=hour - timedelta(hours=1), until=hour).records == 0
    found = rerun_collections(busy.database, [likes], since=hour, until=hour + timedelta(hours=1))
    assert (found.records, found.changed) == (5, {"like": 5}) and len(found.examples["like"]) == 5
    assert busy.rows("SELECT count(*) FROM bsky.\"like\" WHERE via = 'at://x/y/z'")[0] > 20
    assert busy.rows("SELECT count(*) FROM bsky.repost WHERE via = 'at://x/y/z'")[0] > 10


def test_missing_notifications_are_written_once(busy: Rerun) -> None:
    want = busy.rows(NOTIFICATIONS)
    kept = busy.rows(f"SELECT id FROM bsky.notification WHERE reason NOT IN ({REASONS}) ORDER BY id")
    reasons = {row[4] for row in want}
    assert {"like", "repost", "follow", "mention", "quote", "reply"} <= reasons and len(want) > 80
    busy.run(
        f"DELETE FROM bsky.notification WHERE reason IN ({REASONS}) AND id % 3 = 0",
        f"UPDATE bsky.notification SET did = 'did:plc:stranger' WHERE reason IN ({REASONS}) AND id % 3 = 1",
        f"UPDATE bsky.notification SET author = 'did:plc:stranger' WHERE reason IN ({REASONS}) AND id % 9 = 2",
    )
    untouched = busy.rows(f"SELECT id FROM bsky.notification WHERE reason IN ({REASONS}) AND id % 3 = 2 ORDER BY id")
    assert busy.rerun().changed.keys() == {"notification"}
    assert busy.rows(NOTIFICATIONS) == want
    assert busy.rows(f"SELECT id FROM bsky.notification WHERE reason NOT IN ({REASONS}) ORDER BY id") == kept
    assert set(untouched) <= set(busy.rows("SELECT id FROM bsky.notification"))
    assert busy.rerun().changed == {}


def test_only_what_is_wrong_is_touched(busy: Rerun) -> None:
    before = busy.digest()
    (uri,) = busy.rows(
        'SELECT q.uri FROM bsky.quote q JOIN bsky.post_embed_image e ON e."postUri" = q.uri LIMIT 1'
    ) or (busy.rows("SELECT uri FROM bsky.quote LIMIT 1"))
    with busy.connection.cursor() as cursor:
        cursor.execute("DELETE FROM bsky.feed_item WHERE uri = %s", (uri,))
        cursor.execute("UPDATE bsky.quote SET \"subjectCid\" = 'wrong' WHERE uri = %s", (uri,))
    busy.connection.commit()
    found = busy.rerun()
    assert found.changed == {"feed_item": 1, "quote": 1}
    assert found.examples == {"feed_item": [uri], "quote": [uri]}
    after = busy.digest()
    for table, rows in before.items():
        assert len(set(rows) - set(after[table])) == (1 if table in ("bsky.feed_item", "bsky.quote") else 0), table


def test_rows_without_a_record_go_and_their_duplicates_are_promoted(busy: Rerun) -> None:
    (live, duplicate, subject) = busy.rows(
        'SELECT l.uri, d.uri, l.subject FROM bsky."like" l '
        'JOIN bsky.duplicate_record d ON d."duplicateOf" = l.uri ORDER BY 1, 2 LIMIT 1'
    )[0]
    likes = busy.rows('SELECT "likeCount" FROM bsky.post_agg WHERE uri = %s', subject)
    busy.run(
        f"UPDATE bsky.\"like\" SET uri = uri || 'x' WHERE uri = '{live}'",
        f"DELETE FROM bsky.record WHERE uri = '{live}'",
        f"UPDATE bsky.duplicate_record SET \"duplicateOf\" = '{live}x' WHERE \"duplicateOf\" = '{live}'",
    )
    assert busy.rerun().changed["like"] >= 1
    assert busy.rows('SELECT uri FROM bsky."like" WHERE uri = ANY (%s)', [live, f"{live}x", duplicate]) == [duplicate]
    assert busy.rows('SELECT "likeCount" FROM bsky.post_agg WHERE uri = %s', subject) == likes
    assert busy.rows('SELECT count(*) FROM bsky.notification WHERE "recordUri" = %s', f"{live}x") == [0]


def test_a_record_that_cannot_be_read_is_left_alone(busy: Rerun) -> None:
    (uri,) = busy.rows('SELECT uri FROM bsky."like" ORDER BY uri LIMIT 1')
    busy.run(f"UPDATE bsky.record SET json = 'torn' WHERE uri = '{uri}'")
    before = busy.digest()
    found = busy.rerun()
    assert found.unreadable == [uri] and found.changed == {}
    assert busy.digest() == before


def test_next_to_the_live_writer_nothing_is_lost(rerun_index: Rerun, busy_changes: list[Change]) -> None:
    rerun_index.clean()
    feed(rerun_index.database, batches_of(busy_changes, 50))
    want = dump(rerun_index.connection)
    rerun_index.clean()
    found: list[RerunSummary] = []
    with repeated(lambda: found.append(rerun_index.rerun(chunk=40))):
        feed(rerun_index.database, batches_of(busy_changes, 10))
    assert sum(it.records for it in found) > 100
    assert [it.changed for it in found if it.changed] == []
    assert differences(dump(rerun_index.connection), want) == []
    assert rerun_index.rerun().changed == {}


def test_a_rerun_gives_way_and_tries_again(busy: Rerun, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    holder = psycopg2.connect(busy.database.url.replace("+psycopg2", ""))

    sleep, this = time.sleep, threading.current_thread()

    def free(seconds: float) -> None:
        if threading.current_thread() is not this:  # `time` is everybody's: a thread that another test has left waits
            sleep(seconds)
            return
        waits.append(seconds)
        holder.rollback()

    monkeypatch.setattr("appview_pipeline.ingest.rerun.time.sleep", free)
    busy.database.roles["maintenance"] = replace(busy.database.roles["maintenance"], lock=0.1)
    with closing(holder), holder.cursor() as cursor:
        cursor.execute("SELECT did FROM pipeline.repo ORDER BY did FOR UPDATE")
        assert busy.rerun().changed == {}
        assert not waits, "where nothing is wrong nothing is locked"
        busy.run('DELETE FROM bsky."like" WHERE uri = (SELECT max(uri) FROM bsky."like")')
        holder.rollback()
        cursor.execute("SELECT did FROM pipeline.repo ORDER BY did FOR UPDATE")
        assert busy.rerun().changed["like"] == 1
    assert waits


def test_a_duplicate_repost_loses_a_feed_item_that_it_should_not_have(rerun_index: Rerun) -> None:
    rerun_index.clean()
    ann, ben = Person(stream := Stream(), "ann"), Person(stream, "ben")
    target = ben.uri("app.bsky.feed.post/p")
    reposts = [
        create(f"app.bsky.feed.repost/{key}", {"subject": {"uri": target, "cid": NOWHERE}, "createdAt": WHEN})
        for key in "ab"
    ]
    frames = [ben.commit(post("p", "p")), *(ann.commit(it) for it in reposts)]
    changes = read_changes(frames, validators(), COLLECTIONS)
    Writer(rerun_index.database, settings_module.Settings(database_url=rerun_index.database.url), "test").write(
        changes, 0.0
    )
    wrong = ann.uri("app.bsky.feed.repost/b")
    rerun_index.run(
        'INSERT INTO bsky.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt") '
        f'SELECT \'{wrong}\', cid, type, "postUri", "originatorDid", "sortAt" FROM bsky.feed_item '
        f"WHERE uri = '{ann.uri('app.bsky.feed.repost/a')}'"
    )
    assert rerun_index.rerun().changed == {"feed_item": 1}
    assert rerun_index.rows("SELECT count(*) FROM bsky.feed_item WHERE type = 'repost'") == [1]
    assert rerun_index.rerun().changed == {}


def test_a_rerun_holds_its_locks_for_a_quarter_of_a_second(busy: Rerun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of records in a transaction follows from what the ones before took."""
    monkeypatch.setattr(rerun_module, "MAX_LOOKS", 0)  # everything is repaired under locks
    sizes: list[int] = []
    repair = repair_records

    def timed(connection: Any, listed: Any, stage: Any) -> Any:
        sizes.append(len(listed))
        repairs = repair(connection, listed, stage)
        repairs.locked_seconds = 0.01 * len(listed)  # as on a machine that takes 10 ms a record
        return repairs

    monkeypatch.setattr(rerun_module, "repair_records", timed)
    monkeypatch.setattr(pace_module, "FIRST_CHUNK", 100)
    assert busy.rerun().changed == {}
    assert sizes[0] == 100 and sizes[1:-1] and set(sizes[1:-1]) == {25}
    pace = pace_module.Pace()
    for _ in range(50):
        pace.took(pace.next, 0.001)
    assert pace.next == pace_module.LARGEST_CHUNK
    pace.took(pace.next, 600)
    assert pace.next == pace_module.SMALLEST_CHUNK
    pace.took(3, 0.2)
    assert pace.next == pace_module.SMALLEST_CHUNK, "what a few records cost says nothing of many"


def test_repositories_that_the_stream_came_to_last_come_first(busy: Rerun) -> None:
    with busy.database.connect("maintenance") as connection:
        prepare_repair(connection, EFFECTS)
        total = list_work(connection, EFFECTS, DERIVED_COLLECTIONS, since=None, until=None, orphans=10)
        order = list(dict.fromkeys(entries(connection, 0, total).values()))
    newest = dict(busy.rows('SELECT did, max("appliedAt") FROM bsky.record GROUP BY did'))
    assert len(order) > 3
    assert [newest[did] for did in order] == sorted((newest[did] for did in order), reverse=True)


def test_what_only_our_own_tables_lack_is_named(database: Database, stream: Stream) -> None:
    """And not the records beside it."""
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    root, lost = (ref(ann.uri(f"app.bsky.feed.post/{key}")) for key in ("root", "lost"))
    gate = {
        "$type": "app.bsky.feed.threadgate",
        "post": root["uri"],
        "allow": [{"$type": "app.bsky.feed.threadgate#followingRule"}],
        "createdAt": WHEN,
    }
    index(
        database,
        ann.commit(post("root", "root"), create("app.bsky.feed.threadgate/root", gate)),
        bob.commit(
            post("a", "orphan", reply={"root": lost, "parent": lost}),
            post("b", "reply", reply={"root": root, "parent": root}),
            post("c", "words"),
        ),
    )
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT uri, did FROM bsky.record")
        listed = dict(cursor.fetchall())
        assert wrongly_derived(database, listed) == []
        cursor.execute("DELETE FROM pipeline.pending")
        connection.commit()
        assert wrongly_derived(database, listed) == [bob.uri("app.bsky.feed.post/a")]
        cursor.execute("DELETE FROM pipeline.dependency")
        connection.commit()
    assert wrongly_derived(database, listed) == [bob.uri(f"app.bsky.feed.post/{key}") for key in "ab"]


def test_a_look_that_others_disturb_repairs_all_that_it_was_given(
    database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where several processes repair at once, a look may not be able to see which are wrong."""

    def disturbed(*_: object) -> None:
        raise Busy("canceling statement due to conflict")

    ann = Person(stream, "ann")
    index(database, ann.commit(post("a", "words"), post("b", "words")))
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT uri, did FROM bsky.record")
        listed = dict(cursor.fetchall())
        cursor.execute("DELETE FROM bsky.post")
        connection.commit()
        prepare_repair(connection, EFFECTS)
        with monkeypatch.context() as patch:
            patch.setattr(Chunk, "look", disturbed)
            compare_once_and_repair(connection, listed, lambda records: build_again(records)[0], Pace())
        cursor.execute("SELECT uri FROM bsky.post ORDER BY uri")
        assert [uri for (uri,) in cursor.fetchall()] == sorted(listed)
