"""Reruns: nothing changes where nothing is wrong, and what was broken by hand is right again."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from appview_pipeline import settings as settings_module
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.tables.groups import FAMILIES
from appview_pipeline.defs.tables.partitions import HOURS, key_of
from appview_pipeline.indexing.registry import COLLECTIONS as REGISTERED
from appview_pipeline.ingest import rerun as rerun_module
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.recount import recount, recount_some
from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, Rederived, rederive
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline.store import counters
from appview_pipeline.store.contacts import ContactMatch, notify_contact_match
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.repair import entries, list_work, prepare_repair, repair_records
from appview_pipeline_tests.properties.fed import Index, fresh_index
from appview_pipeline_tests.properties.model import Commit, Op
from appview_pipeline_tests.properties.networks import NOWHERE, arrivals, networks
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.support.frames import START, WHEN, Person, Stream, busy_frames, create, post
from appview_pipeline_tests.support.scenarios import (
    COLLECTIONS,
    batches_of,
    change_of,
    differences,
    dump,
    encode,
    feed,
    validators,
)

ALL = tuple(HealthCheck)
quick = settings(max_examples=30, suppress_health_check=ALL, phases=(Phase.explicit, Phase.generate))


class Rerun(Index):
    """An index that is rerun, and broken by hand."""

    def run(self, *statements: str) -> None:
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        self.connection.commit()

    def rows(self, statement: str, *parameters: Any) -> list[Any]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            found = cursor.fetchall()
        self.connection.commit()
        return [row[0] if len(row) == 1 else row for row in found]

    def rerun(self, **arguments: Any) -> Rederived:
        return rederive(self.database, DERIVED_COLLECTIONS, **arguments)

    def digest(self) -> dict[str, list[str]]:
        """Every row of schema bsky with its place and the transaction that wrote it, and what `pipeline` knows."""
        tables = self.rows(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'bsky' "
            "OR tablename IN ('version', 'tombstone', 'pending', 'dependency', 'gap', 'told_otherwise', 'silenced')"
        )
        return {
            table: self.rows(f"SELECT t.ctid::text || t.xmin::text || t::text FROM {table} t ORDER BY 1")
            for table in tables
        }


@pytest.fixture(scope="module")
def index(server: EmbeddedPostgres, template_database: str) -> Iterator[Rerun]:
    with fresh_index(server, template_database) as found:
        yield Rerun(found.database, found.connection, found.clean)


def nothing_changes(index: Rerun, data: st.DataObject) -> None:
    network = data.draw(networks())
    arrival = data.draw(arrivals(network, data.draw(st.sampled_from(["stream", "repository", "any"]))))
    index.feed(network, arrival)
    # Mutes and subscriptions of the past are not those of today.
    index.run("DELETE FROM bsky.thread_mute", "DELETE FROM bsky.activity_subscription")
    before, tables = index.digest(), dump(index.connection)
    found = index.rerun(chunk=data.draw(st.sampled_from([1, 3, 1_000])))
    said = "\n".join([repr(network), str(arrival), str(found), *differences(dump(index.connection), tables)])
    assert found.changed == {}, said
    assert index.digest() == before


ROW = """ctid = (
  SELECT ctid FROM {table} {where} ORDER BY {key}
  OFFSET {pick} % greatest((SELECT count(*) FROM {table} {where}), 1) LIMIT 1)"""
KEYED = {
    "post": (
        "uri",
        ("text = 'something else'", "creator = 'did:plc:nobody'", "\"indexedAt\" = '2020-01-01T00:00:00.000Z'"),
    ),
    '"like"': (
        "uri",
        ("subject = 'at://did:plc:nobody/app.bsky.feed.post/none'", "via = 'at://x/y/z'", "cid = 'wrong'"),
    ),
    "repost": ("uri", ("subject = 'at://did:plc:nobody/app.bsky.feed.post/none'", "cid = 'wrong'")),
    "follow": ("uri", ("\"subjectDid\" = 'did:plc:nobody'", "cid = 'wrong'")),
    "actor_block": ("uri", ("\"subjectDid\" = 'did:plc:nobody'",)),
    "list": ("uri", ("name = 'another'", "description = 'new'")),
    "list_item": ("uri", ("\"listUri\" = 'at://did:plc:nobody/app.bsky.graph.list/none'",)),
    "list_block": ("uri", ("cid = 'wrong'",)),
    "reference_list_opt_out": ("uri", ("cid = 'wrong'", "creator = 'did:plc:nobody'")),
    "profile": ("uri", ("\"displayName\" = 'another'",)),
    "starter_pack": ("uri", ("name = 'another'",)),
    "verification": ("uri", ("handle = 'another'", "subject = 'did:plc:nobody'")),
    "thread_gate": ("uri", ("cid = 'wrong'",)),
    "post_gate": ("uri", ("creator = 'did:plc:nobody'",)),
    "quote": ("uri", ("subject = 'at://did:plc:nobody/app.bsky.feed.post/none'",)),
    "feed_item": ("uri", ("\"sortAt\" = '2020-01-01T00:00:00.000Z'", "\"postUri\" = 'at://x/y/z'")),
    "post_embed_record": ('"postUri"', ("\"embedCid\" = 'wrong'",)),
    "op_thread_reply": ("uri", ("\"parentUri\" = 'at://x/y/z'", "\"deletedAt\" = '2020-01-01T00:00:00.000Z'")),
    "duplicate_record": ("uri", ("\"duplicateOf\" = 'at://x/y/z'", "cid = 'wrong'")),
}
"""Derived tables, their key, and assignments that make a row of theirs wrong."""

FLAGS = (
    '"violatesThreadGate" = "violatesThreadGate" IS NOT TRUE',
    '"invalidReplyRoot" = "invalidReplyRoot" IS NOT TRUE',
    '"violatesEmbeddingRules" = CASE WHEN "violatesEmbeddingRules" THEN NULL ELSE true END',
    '"hasThreadGate" = CASE WHEN "hasThreadGate" THEN NULL ELSE true END',
    '"hasPostGate" = CASE WHEN "hasPostGate" THEN NULL ELSE true END',
)


def row_of(table: str, pick: int) -> str:
    key = KEYED[table][0]
    where = 'WHERE "deletedAt" IS NULL' if table == "op_thread_reply" else ""
    return ROW.format(table=f"bsky.{table}", where=where, key=key, pick=pick)


@st.composite
def damages(draw: st.DrawFn) -> str:
    """A statement that breaks something."""
    pick = draw(st.integers(0, 30))
    kind = draw(st.sampled_from(("delete", "delete", "alter", "alter", "flag", "count", "bogus like", "bogus repost")))
    if kind == "flag":
        return f"UPDATE bsky.post SET {draw(st.sampled_from(FLAGS))} WHERE {row_of('post', pick)}"
    if kind == "count":
        table, columns = draw(
            st.sampled_from(
                (
                    ("post_agg", ("likeCount", "replyCount", "repostCount", "quoteCount", "bookmarkCount")),
                    ("profile_agg", ("followersCount", "followsCount", "postsCount")),
                )
            )
        )
        column = draw(st.sampled_from(columns))
        row = ROW.format(table=f"bsky.{table}", where="", key='"uri"' if table == "post_agg" else "did", pick=pick)
        return f'UPDATE bsky.{table} SET "{column}" = "{column}" + 3 WHERE {row}'
    if kind.startswith("bogus"):
        table = kind.split()[1]
        return (
            f'INSERT INTO bsky."{table}" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt") '
            f"SELECT 'at://' || creator || '/app.bsky.feed.{table}/bogus{pick}', cid, creator, uri, cid, "
            f'"createdAt", "indexedAt" FROM bsky.post WHERE {row_of("post", pick)} ON CONFLICT DO NOTHING'
        )
    table = draw(st.sampled_from(sorted(KEYED)))
    if kind == "delete":
        return f"DELETE FROM bsky.{table} WHERE {row_of(table, pick)}"
    return f"UPDATE bsky.{table} SET {draw(st.sampled_from(KEYED[table][1]))} WHERE {row_of(table, pick)}"


def broken_and_repaired(index: Rerun, data: st.DataObject) -> None:
    network = data.draw(networks())
    index.feed(network, data.draw(arrivals(network, "stream")))
    want = dump(index.connection)
    broken = data.draw(st.lists(damages(), min_size=1, max_size=4))
    for statement in broken:
        try:
            index.run(statement)
        except psycopg2.IntegrityError:
            index.connection.rollback()
    damaged = dump(index.connection)
    # Counters of what no record speaks of any more are found by the recount.
    recounted = [recount(index.database, table, rewrite=True) for table in counters.TABLES]
    found = [index.rerun(chunk=data.draw(st.sampled_from([1, 4, 1_000])), orphans=None) for _ in range(2)]
    wrong = differences(dump(index.connection), want)
    said = "\n".join([repr(network), *broken, *differences(damaged, want), str(found), "", *wrong])
    assert wrong == [], said
    assert found[1].changed == {}, said
    if differences(damaged, want):
        assert found[0].changed or any(it.differing for it in recounted), said


@quick
@given(data=st.data())
def test_nothing_changes_where_nothing_is_wrong(index: Rerun, data: st.DataObject) -> None:
    nothing_changes(index, data)


@quick
@given(data=st.data())
def test_what_was_broken_is_right_again(index: Rerun, data: st.DataObject) -> None:
    broken_and_repaired(index, data)


# --- stories ---------------------------------------------------------------------------------------------------------

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
def story(index: Rerun) -> Story:
    return Story(index)


def told(index: Rerun) -> list[Any]:
    return index.rows('SELECT did, "recordUri", reason FROM bsky.notification ORDER BY 1, 2, 3')


def test_whom_a_muted_thread_kept_silent_is_not_told_after_all(story: Story) -> None:
    index = story.index
    post = story.write("alice", f"{POST}/a", {"text": "hello"})
    index.run(f"INSERT INTO bsky.thread_mute VALUES ('{post}', 'did:plc:alice', 'now')")
    story.write("bob", f"{LIKE}/a", story.subject(post))
    story.write("bob", f"{POST}/b", story.reply(post, post))
    index.run("DELETE FROM bsky.thread_mute")
    assert (index.rerun().changed, told(index)) == ({}, [])
    # What is written anew is another matter.
    story.write("bob", f"{LIKE}/a", None)
    liked = story.write("bob", f"{LIKE}/a", story.subject(post))
    assert (index.rerun().changed, told(index)) == ({}, [("did:plc:alice", liked, "like")])


def test_an_edited_like_has_told_whom_it_told(story: Story) -> None:
    index = story.index
    first = story.write("alice", f"{POST}/a", {"text": "one"})
    second = story.write("carol", f"{POST}/a", {"text": "two"})
    liked = story.write("bob", f"{LIKE}/a", story.subject(first))
    story.write("bob", f"{LIKE}/a", story.subject(second), "update")
    assert (index.rerun().changed, told(index)) == ({}, [("did:plc:alice", liked, "like")])


def test_who_takes_anothers_place_tells_nobody_else(story: Story) -> None:
    index = story.index
    post = story.write("alice", f"{POST}/a", {"text": "one"})
    repost = story.write("carol", f"{REPOST}/a", story.subject(post))
    story.write("bob", f"{LIKE}/a", story.subject(post))
    heir = story.write("bob", f"{LIKE}/b", story.subject(post, via=ref(repost)))
    story.write("bob", f"{LIKE}/a", None)
    before = told(index)
    assert ("did:plc:alice", heir, "like") in before and ("did:plc:carol", heir, "like-via-repost") not in before
    assert (index.rerun().changed, told(index)) == ({}, before)


def test_a_late_first_like_takes_the_notification_along(story: Story) -> None:
    index = story.index
    post = story.write("alice", f"{POST}/a", {"text": "one"})
    story.moment = 10
    story.write("bob", f"{LIKE}/b", story.subject(post))
    (number,) = index.rows("SELECT id FROM bsky.notification")
    story.moment = 5
    first = story.write("bob", f"{LIKE}/a", story.subject(post))
    assert told(index) == [("did:plc:alice", first, "like")]
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
def test_below_a_post_judged_wrongly_everything_is_judged_again(story: Story, chunk: int) -> None:
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
    rederive(index.database, [POST], chunk=1)
    assert differences(dump(index.connection), want) == []


# --- a busy network --------------------------------------------------------------------------------------------------

TOLD = "'like', 'repost', 'follow', 'like-via-repost', 'repost-via-repost', 'mention', 'quote', 'reply'"
NOTIFICATIONS = f"""
    SELECT did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt" FROM bsky.notification n
    WHERE reason IN ({TOLD}) AND NOT EXISTS (SELECT FROM pipeline.told_otherwise o WHERE o.uri = n."recordUri")
    ORDER BY 1, 2, 5"""


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    return list(busy_frames(600))


@pytest.fixture
def busy(index: Rerun, frames: list[bytes]) -> Index:
    index.clean()
    feed(index.database, batches_of(read_changes(frames, validators(), COLLECTIONS), 50))
    return index


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
    assert rederive(busy.database, [likes], hour - timedelta(hours=1), hour).records == 0
    found = rederive(busy.database, [likes], hour, hour + timedelta(hours=1))
    assert (found.records, found.changed) == (5, {"like": 5}) and len(found.examples["like"]) == 5
    assert busy.rows("SELECT count(*) FROM bsky.\"like\" WHERE via = 'at://x/y/z'")[0] > 20
    assert busy.rows("SELECT count(*) FROM bsky.repost WHERE via = 'at://x/y/z'")[0] > 10


def test_notifications_are_told_again_once(busy: Rerun) -> None:
    want = busy.rows(NOTIFICATIONS)
    kept = busy.rows(f"SELECT id FROM bsky.notification WHERE reason NOT IN ({TOLD}) ORDER BY id")
    reasons = {row[4] for row in want}
    assert {"like", "repost", "follow", "mention", "quote", "reply"} <= reasons and len(want) > 80
    busy.run(
        f"DELETE FROM bsky.notification WHERE reason IN ({TOLD}) AND id % 3 = 0",
        f"UPDATE bsky.notification SET did = 'did:plc:stranger' WHERE reason IN ({TOLD}) AND id % 3 = 1",
        f"UPDATE bsky.notification SET author = 'did:plc:stranger' WHERE reason IN ({TOLD}) AND id % 9 = 2",
    )
    untouched = busy.rows(f"SELECT id FROM bsky.notification WHERE reason IN ({TOLD}) AND id % 3 = 2 ORDER BY id")
    assert busy.rerun().changed.keys() == {"notification"}
    assert busy.rows(NOTIFICATIONS) == want
    assert busy.rows(f"SELECT id FROM bsky.notification WHERE reason NOT IN ({TOLD}) ORDER BY id") == kept
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


def test_rows_without_a_record_go_and_their_duplicates_move_up(busy: Rerun) -> None:
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


def test_next_to_the_live_writer_nothing_is_lost(index: Rerun, frames: list[bytes]) -> None:
    changes = read_changes(frames, validators(), COLLECTIONS)
    index.clean()
    feed(index.database, batches_of(changes, 50))
    want = dump(index.connection)
    index.clean()
    found: list[Rederived] = []
    done = threading.Event()

    def keep_rerunning() -> None:
        while not done.is_set():
            found.append(index.rerun(chunk=40))

    with ThreadPoolExecutor(1) as pool:
        reruns = pool.submit(keep_rerunning)
        try:
            feed(index.database, batches_of(changes, 10))
        finally:
            done.set()
        reruns.result(60)
    assert sum(it.records for it in found) > 100
    assert [it.changed for it in found if it.changed] == []
    assert differences(dump(index.connection), want) == []
    assert index.rerun().changed == {}


def test_a_rerun_gives_way_and_tries_again(busy: Rerun, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    holder = psycopg2.connect(busy.database.url.replace("+psycopg2", ""))

    def free(seconds: float) -> None:
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


def test_a_duplicate_repost_loses_a_feed_item_that_it_should_not_have(index: Rerun) -> None:
    index.clean()
    ann, ben = Person(stream := Stream(), "ann"), Person(stream, "ben")
    target = ben.uri("app.bsky.feed.post/p")
    reposts = [
        create(f"app.bsky.feed.repost/{key}", {"subject": {"uri": target, "cid": NOWHERE}, "createdAt": WHEN})
        for key in "ab"
    ]
    frames = [ben.commit(post("p", "p")), *(ann.commit(it) for it in reposts)]
    changes = read_changes(frames, validators(), COLLECTIONS)
    Writer(index.database, settings_module.Settings(database_url=index.database.url), "test").write(changes, 0.0)
    wrong = ann.uri("app.bsky.feed.repost/b")
    index.run(
        'INSERT INTO bsky.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt") '
        f'SELECT \'{wrong}\', cid, type, "postUri", "originatorDid", "sortAt" FROM bsky.feed_item '
        f"WHERE uri = '{ann.uri('app.bsky.feed.repost/a')}'"
    )
    assert index.rerun().changed == {"feed_item": 1}
    assert index.rows("SELECT count(*) FROM bsky.feed_item WHERE type = 'repost'") == [1]
    assert index.rerun().changed == {}


def test_a_rerun_holds_its_locks_for_a_quarter_of_a_second(busy: Rerun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of records in a transaction follows from what the ones before took."""
    monkeypatch.setattr(rerun_module, "LOOKS", 0)  # everything is repaired under locks
    sizes: list[int] = []
    repair = repair_records

    def timed(connection: Any, listed: Any, stage: Any) -> Any:
        sizes.append(len(listed))
        repairs = repair(connection, listed, stage)
        repairs.locked_seconds = 0.01 * len(listed)  # as on a machine that takes 10 ms a record
        return repairs

    monkeypatch.setattr(rerun_module, "repair_records", timed)
    monkeypatch.setattr(rerun_module, "FIRST_CHUNK", 100)
    assert busy.rerun().changed == {}
    assert sizes[0] == 100 and sizes[1:-1] and set(sizes[1:-1]) == {25}
    pace = rerun_module._Pace()
    for _ in range(50):
        pace.took(pace.next, 0.001)
    assert pace.next == rerun_module.LARGEST_CHUNK
    pace.took(pace.next, 600)
    assert pace.next == rerun_module.SMALLEST_CHUNK
    pace.took(3, 0.2)
    assert pace.next == rerun_module.SMALLEST_CHUNK, "what a few records cost says nothing of many"


def test_repositories_that_the_stream_came_to_last_come_first(busy: Rerun) -> None:
    with busy.database.connect("maintenance") as connection:
        prepare_repair(connection)
        total = list_work(connection, None, None, list(DERIVED_COLLECTIONS), 10)
        order = list(dict.fromkeys(entries(connection, 0, total).values()))
    newest = dict(busy.rows('SELECT did, max("appliedAt") FROM bsky.record GROUP BY did'))
    assert len(order) > 3
    assert [newest[did] for did in order] == sorted((newest[did] for did in order), reverse=True)


# --- counters --------------------------------------------------------------------------------------------------------


def test_the_rotation_comes_round_to_every_counter(busy: Rerun) -> None:
    total = busy.rows("SELECT count(*) FROM bsky.post_agg")[0]
    busy.run('UPDATE bsky.post_agg SET "likeCount" = 77 WHERE uri = (SELECT max(uri) FROM bsky.post_agg)')
    found = []
    for _ in range(1_000):
        found.append(recount_some(busy.database, "post_agg", 10))
        if found[-1].complete:
            break
    assert len(found) > 2 and sum(it.compared for it in found) >= total
    assert sum(it.differing for it in found) == 1
    assert busy.rows('SELECT max("likeCount") FROM bsky.post_agg') == [77], "a check changes nothing"
    assert busy.rows("SELECT after_key, rounds FROM pipeline.recount_position") == [("", 1)]


def test_counters_are_rewritten_and_said(busy: Rerun) -> None:
    (uri,) = busy.rows('SELECT uri FROM bsky.post_agg WHERE "likeCount" > 0 AND "replyCount" > 0 ORDER BY uri LIMIT 1')
    (did,) = busy.rows('SELECT did FROM bsky.profile_agg WHERE "postsCount" > 1 ORDER BY did LIMIT 1')
    busy.run(
        f"INSERT INTO bsky.bookmark VALUES ('did:plc:a', 'k', '{uri}', 'c', 'now')",
        f"UPDATE bsky.post_agg SET \"bookmarkCount\" = 1 WHERE uri = '{uri}'",
    )
    want = dump(busy.connection)
    busy.run(
        f'UPDATE bsky.post_agg SET "bookmarkCount" = 0, "likeCount" = -1 WHERE uri = \'{uri}\'',
        f"DELETE FROM bsky.profile_agg WHERE did = '{did}'",
    )
    posts, profiles = (recount(busy.database, table, rewrite=True) for table in counters.TABLES)
    assert [(it.key, it.had[0], it.had[4], it.has[4]) for it in posts.changes] == [(uri, -1, 0, 1)]
    assert [(it.key, it.had) for it in profiles.changes] == [(did, (0, 0, 0))]
    assert busy.rows('SELECT "bookmarkCount" FROM bsky.post_agg WHERE uri = %s', uri) == [1]
    assert differences(dump(busy.connection), want) == []
    assert not any(recount(busy.database, table, rewrite=True).differing for table in counters.TABLES)
    busy.run("DELETE FROM bsky.bookmark")


def test_counting_next_to_the_live_writer(index: Rerun, frames: list[bytes]) -> None:
    changes = read_changes(frames, validators(), COLLECTIONS)
    index.clean()
    done = threading.Event()
    differing: list[int] = []

    def keep_counting() -> None:
        while not done.is_set():
            differing.extend(recount(index.database, table, rewrite=True).differing for table in counters.TABLES)

    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(keep_counting)
        try:
            feed(index.database, batches_of(changes, 10))
        finally:
            done.set()
        counting.result(60)
    assert len(differing) > 4 and sum(differing) == 0


# --- in the UI -------------------------------------------------------------------------------------------------------


@pytest.fixture
def instance(busy: Rerun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    load = settings_module.load
    monkeypatch.setattr(settings_module, "load", lambda: load({"APPVIEW_DATABASE_URL": busy.database.url}))
    database_module.reopen()
    with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
        yield made
    database_module.reopen()


def materialized(instance: dg.DagsterInstance, *keys: str, partitions: tuple[str, str]) -> dict[str, dict[str, Any]]:
    """Metadata by asset of one run over a range of hours."""
    result = dg.materialize(
        [*(defs.assets or ())],  # type: ignore[list-item]
        selection=dg.AssetSelection.assets(*keys),
        tags={
            "dagster/asset_partition_range_start": partitions[0],
            "dagster/asset_partition_range_end": partitions[1],
        },
        resources=dict(defs.resources or {}),
        instance=instance,
    )
    return {
        event.materialization.asset_key.to_user_string(): {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
    }


def test_materializing_repairs_the_hours_selected(busy: Rerun, instance: dg.DagsterInstance) -> None:
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    hours = (key_of(hour - timedelta(hours=1)), key_of(hour))
    want = dump(busy.connection)
    (like,) = busy.rows('SELECT uri FROM bsky."like" ORDER BY uri LIMIT 1')
    busy.run(
        f"DELETE FROM bsky.\"like\" WHERE uri = '{like}'",
        "DELETE FROM bsky.notification n WHERE reason = 'follow' "
        'AND NOT EXISTS (SELECT FROM pipeline.told_otherwise o WHERE o.uri = n."recordUri")',
        'UPDATE bsky.profile_agg SET "postsCount" = 99',
        "DELETE FROM bsky.feed_item",
    )
    likes = materialized(instance, "likes", partitions=hours)["likes"]
    assert (likes["rows_changed"], likes["rows_changed like"], likes["rows_changed_elsewhere"]) == (1, 1, 0)
    assert like in likes["changed"] and likes["records_compared"] > 20 and likes["rerun_seconds"] > 0
    derived = ("notifications", "post_aggregates", "profile_aggregates", "feed_items")
    found = materialized(instance, *derived, partitions=hours)
    assert all(found[key]["rows_changed"] > 0 for key in ("notifications", "profile_aggregates", "feed_items"))
    assert found["post_aggregates"]["rows_changed"] == 0 < found["post_aggregates"]["rows_changed_elsewhere"]
    assert differences(dump(busy.connection), want) == []
    everything = [family.key for family in FAMILIES]
    again = materialized(instance, *everything, partitions=hours)
    assert {key: it["rows_changed"] for key, it in again.items() if it.get("rows_changed")} == {}
    assert again.keys() == set(everything) and "rows_changed" not in again["record"]


def test_an_hour_without_records_changes_nothing(busy: Rerun, instance: dg.DagsterInstance) -> None:
    hour = key_of(datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3))
    if hour not in HOURS.get_partition_keys():
        pytest.skip("the first hours of the partitions")
    assert materialized(instance, "likes", partitions=(hour, hour))["likes"]["records_compared"] == 0


def test_the_counters_jobs(busy: Rerun, instance: dg.DagsterInstance) -> None:
    (uri,) = busy.rows('SELECT uri FROM bsky.post_agg WHERE "likeCount" > 0 ORDER BY uri LIMIT 1')
    busy.run(f"UPDATE bsky.post_agg SET \"likeCount\" = 99 WHERE uri = '{uri}'")
    everything = {
        "ops": {
            f"{asset}_rotating_recount": {"config": {"everything": True}}
            for asset in ("post_aggregates", "profile_aggregates")
        }
    }
    run = defs.resolve_job_def("check_counters").execute_in_process(run_config=everything, instance=instance)
    checks = {it.asset_key.to_user_string(): it for it in run.get_asset_check_evaluations()}
    assert not checks["post_aggregates"].passed and uri in (checks["post_aggregates"].description or "")
    assert checks["profile_aggregates"].passed
    run = defs.resolve_job_def("repair_counters").execute_in_process(instance=instance)
    (output,) = [it for it in run.all_events if it.event_type_value == "STEP_OUTPUT"]
    said = output.event_specific_data.metadata  # type: ignore[union-attr]
    assert (said["rewritten post_agg"].value, said["rewritten profile_agg"].value) == (1, 0)
    assert uri in str(said["changes"].value) and "99" in str(said["changes"].value)
    run = defs.resolve_job_def("check_counters").execute_in_process(instance=instance)
    assert all(it.passed for it in run.get_asset_check_evaluations())


# --- contacts --------------------------------------------------------------------------------------------------------


def test_contacts_are_told_of_once(busy: Rerun) -> None:
    match = ContactMatch("did:plc:friend", "at://did:plc:friend/app.bsky.actor.profile/self", "cid")
    oneself = ContactMatch("did:plc:me", "at://did:plc:me/app.bsky.actor.profile/self", "cid")
    written = []
    for _ in range(2):
        with busy.database.connect("writer") as connection:
            written.append(notify_contact_match(connection, "did:plc:me", [match, match, oneself]))
    assert written == [1, 0]
    told = busy.rows(
        'SELECT did, author, "recordUri", "sortAt" FROM bsky.notification WHERE reason = \'contact-match\''
    )
    assert [row[:3] for row in told] == [("did:plc:me", match.did, match.uri)]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told[0][3])
    assert busy.rerun(orphans=None).changed == {}
