"""Reruns: nothing changes where nothing is wrong, and what was broken by hand is right again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.rederive import DERIVED_COLLECTIONS, Rederived, rederive
from appview_pipeline.store import counters
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded import EmbeddedPostgres
from appview_pipeline_tests.networks import Arrival, Network, arrivals, networks
from appview_pipeline_tests.scenarios import Cleaner, differences, dump, feed
from appview_pipeline_tests.tables import fresh_database
from appview_pipeline_tests.test_order_independence import network_changes

ALL = tuple(HealthCheck)
quick = settings(max_examples=30, deadline=None, suppress_health_check=ALL, print_blob=True, phases=(Phase.generate,))
thorough = settings(quick, max_examples=500, phases=(Phase.explicit, Phase.reuse, Phase.generate))


@dataclass
class Index:
    """A database that starts every example empty."""

    database: Database
    connection: Connection
    clean: Cleaner

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

    def feed(self, network: Network, arrival: Arrival) -> None:
        self.clean()
        with self.connection.cursor() as cursor:
            for root, who in network.thread_mutes:
                cursor.execute("INSERT INTO bsky.thread_mute VALUES (%s, %s, '2025-01-01T00:00:00.000Z')", (root, who))
            for number, it in enumerate(network.subscriptions):
                cursor.execute(
                    'INSERT INTO bsky.activity_subscription (creator, "subjectDid", key, "indexedAt", post, reply) '
                    "VALUES (%s, %s, %s, '2025-01-01T00:00:00.000Z', %s, %s)",
                    (it.creator, it.subject, str(number), it.post, it.reply),
                )
        self.connection.commit()
        changes = network_changes(network)
        feed(self.database, [[changes[number] for number in batch] for batch in arrival.batches])


@pytest.fixture(scope="module")
def index(server: EmbeddedPostgres, template_database: str) -> Iterator[Index]:
    with (
        fresh_database(server, template_database) as database,
        closing(psycopg2.connect(database.url.replace("+psycopg2", ""))) as connection,
    ):
        yield Index(database, connection, Cleaner(connection))


def nothing_changes(index: Index, data: st.DataObject) -> None:
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


def broken_and_repaired(index: Index, data: st.DataObject) -> None:
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
def test_nothing_changes_where_nothing_is_wrong(index: Index, data: st.DataObject) -> None:
    nothing_changes(index, data)


@quick
@given(data=st.data())
def test_what_was_broken_is_right_again(index: Index, data: st.DataObject) -> None:
    broken_and_repaired(index, data)


@pytest.mark.slow
@thorough
@given(data=st.data())
def test_nothing_changes_where_nothing_is_wrong_at_length(index: Index, data: st.DataObject) -> None:
    nothing_changes(index, data)


@pytest.mark.slow
@thorough
@given(data=st.data())
def test_what_was_broken_is_right_again_at_length(index: Index, data: st.DataObject) -> None:
    broken_and_repaired(index, data)
